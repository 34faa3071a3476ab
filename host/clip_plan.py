"""A clip as a take of one chunk, so that it is given what a take's first chunk is given."""
from fractions import Fraction

from torch import Tensor

from .. import backbones
from ..pipelines.take.plan import ChunkPlan, plan_take
from ..pipelines.take.settings import choose_settings
from ..techniques.timeline import Timeline


def plan_clip(model, picture: Tensor | None, width: int, height: int, chunk_frames: int,
              nearest_bucket: bool = False) -> tuple[ChunkPlan, list[str]]:
    """Its plan, and lines that say what it will be. What is 0 is the model's own, in the proportions of `picture`.
    `nearest_bucket`: the size becomes the nearest that the model was trained at.

    Raises ValueError for a size that the model cannot have.
    """
    backbone = backbones.find(model)
    chosen = choose_settings(backbone, backbone.first_picture(picture), width=width, height=height,
                             fps=Fraction(backbone.fps), chunk_frames=chunk_frames, overlap_frames=0,
                             nearest_bucket=nearest_bucket)
    clock = Timeline(chosen.fps, backbone.temporal_ratio)
    latents = clock.latents_for_frames(chosen.chunk_frames)
    frames = clock.frames_for_latents(latents)
    plan = plan_take(clock, frames, frames, 0, chosen.width, chosen.height, grid=backbone.grid)
    return plan, [f"{frames} frames ({latents} latents), {plan.width}x{plan.height}, {float(plan.seconds):.2f} s at "
                  f"{backbone.fps} fps", chosen.note, chosen.size_note]
