"""A clip as a take of one chunk, so that it is given what a take's first chunk is given."""
from fractions import Fraction
from typing import Any

from torch import Tensor

from .. import backbones
from ..pipelines.take.clip_before import ClipBefore
from ..pipelines.take.plan import ChunkPlan
from ..pipelines.take.settings import Settings
from ..techniques.timeline import Timeline
from .continued_take import plan_with_model


def plan_clip(model, picture: Tensor | None, width: int, height: int, chunk_frames: int,
              nearest_bucket: bool = False, video: Any = None) -> tuple[ChunkPlan, list[str], ClipBefore | None]:
    """Its plan, lines that say what it will be, and what it goes on from. What is 0 is the model's own, in the
    proportions of `picture`, or of the `video` it goes on from. `nearest_bucket`: the size becomes the nearest that the
    model was trained at.

    Raises ValueError for a size that the model cannot have, or a video that it cannot go on from.
    """
    backbone = backbones.find(model)
    whole = backbone.timeline(Fraction(backbone.fps))

    def length(clock: Timeline, chosen: Settings) -> int:
        latents, repeated = map(clock.latents_within_frames, (chosen.chunk_frames, chosen.overlap_frames))
        return clock.frames_for_latents(latents if video is None else max(latents - repeated + 1, 1))   # + clip's last

    take, clip, chosen = plan_with_model(
        model, picture, video, length, width=width, height=height, fps=whole.fps, nearest_bucket=nearest_bucket,
        chunk_frames=whole.frames_for_latents(whole.latents_for_frames(chunk_frames)),
        overlap_frames=0 if video is None else -1)
    plan, frames = take.plan, chosen.chunk_frames
    lines = [f"{frames} frames ({whole.latents_within_frames(frames)} latents), {plan.width}x{plan.height}, "
             f"{float(whole.seconds_at(frames)):.2f} s at {backbone.fps} fps", chosen.note, chosen.size_note]
    repeated = whole.latents_within_frames(chosen.overlap_frames)
    if clip is not None and repeated:
        lines.append(f"the first {whole.frames_for_latents(repeated)} frames repeat the clip's last: cut them off")
    return plan, lines, clip
