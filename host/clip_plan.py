"""A clip as a take of one chunk, so that it is given what a take's first chunk is given."""
from fractions import Fraction
from typing import Any

from torch import Tensor

from .. import backbones
from ..pipelines.take.clip_before import ClipBefore
from ..pipelines.take.plan import ChunkPlan, Take, plan_take
from ..pipelines.take.settings import choose_settings
from ..techniques.timeline import Timeline
from .continued_take import continue_take, shape_giver


def plan_clip(model, picture: Tensor | None, width: int, height: int, chunk_frames: int,
              nearest_bucket: bool = False, video: Any = None) -> tuple[ChunkPlan, list[str], ClipBefore | None]:
    """Its plan, lines that say what it will be, and what it goes on from. What is 0 is the model's own, in the
    proportions of `picture`, or of the `video` it goes on from. `nearest_bucket`: the size becomes the nearest that the
    model was trained at.

    Raises ValueError for a size that the model cannot have, or a video that it cannot go on from.
    """
    backbone = backbones.find(model)
    chosen = choose_settings(backbone, shape_giver(backbone.first_picture(picture), video), width=width, height=height,
                             fps=Fraction(backbone.fps), chunk_frames=chunk_frames,
                             overlap_frames=0 if video is None else -1, nearest_bucket=nearest_bucket)
    clock = Timeline(chosen.fps, backbone.temporal_ratio)
    latents = clock.latents_for_frames(chosen.chunk_frames)
    frames, repeated = clock.frames_for_latents(latents), clock.latents_within_frames(chosen.overlap_frames)
    new = latents if video is None else latents - repeated + 1      # with the clip's last frame
    plan = plan_take(clock, clock.frames_for_latents(max(new, 1)), frames, chosen.overlap_frames, chosen.width,
                     chosen.height, grid=backbone.grid)
    lines = [f"{frames} frames ({latents} latents), {plan.width}x{plan.height}, "
             f"{float(clock.seconds_at(frames)):.2f} s at {backbone.fps} fps", chosen.note, chosen.size_note]
    take, clip = continue_take(model, Take(plan, None), video)
    if clip is not None and repeated:
        lines.append(f"the first {clock.frames_for_latents(repeated)} frames repeat the clip's last: cut them off")
    return take.plan, lines, clip
