"""How a take is cut where Persistent Latents is on its model: in clips that are each decoded on their own where the
model was trained so, else in chunks that repeat as many latents as it hands over."""
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor

from .. import backbones
from ..backbones import attach
from ..pipelines.take.plan import ChunkPlan, plan_clips, plan_take
from ..pipelines.take.settings import Settings
from ..techniques.latent_stitch import LatentStitch
from ..techniques.persistent_latents import PersistentLatents
from ..techniques.timeline import Timeline

LONGEST_MOTION = 2      # a chunk has at least so many times the motion's latents


def clip_repeat(model) -> int:
    """Pixel frames that each clip of such a take repeats; 0 where a take is one stream of latents."""
    if attach.technique_of(model, PersistentLatents) is None:
        return 0
    backbone = backbones.find(model)
    return backbone.repeated_frames() if backbone.memory_in_channels() else 0


def motion_of(model) -> int | None:
    """How many latents each chunk repeats of the one before, where Persistent Latents says it."""
    technique = attach.technique_of(model, PersistentLatents)
    if technique is None or not backbones.find(model).memory_in_channels() or clip_repeat(model):
        return None
    return technique.motion_latents


def with_motion(model, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked of a plan, with the overlap that Persistent Latents hands over where the model's own was left."""
    motion = motion_of(model)
    if motion is None or asked.get("overlap_frames", -1) >= 0:
        return dict(asked)
    clock = backbones.find(model).timeline(Fraction(1))
    return {**asked, "overlap_frames": clock.frames_for_latents(motion)}


def cut_take(model, clock: Timeline, frames: int, chosen: Settings, script: str | None, seed_step: int,
             block_latents: int) -> ChunkPlan:
    """The plan of so many pixel frames. Raises ValueError as `plan_take` and `plan_clips` do."""
    backbone = backbones.find(model)
    if (repeated := clip_repeat(model)) and not block_latents:
        return plan_clips(clock, frames, chosen.chunk_frames, repeated, chosen.width, chosen.height, script, seed_step,
                          backbone.grid)
    return plan_take(clock, frames, chosen.chunk_frames, chosen.overlap_frames, chosen.width, chosen.height, script,
                     seed_step, backbone.grid, block_latents)


def check_plan_for(model, plan: ChunkPlan) -> None:
    """Raises ValueError for a plan that was made for a model with, or without, Persistent Latents."""
    repeated, motion = clip_repeat(model), motion_of(model)
    connect = "Connect the model behind Persistent Latents to Plan Take, or remove it there"
    if plan.repeated_frames != repeated:
        raise ValueError(f"clips that repeat {plan.repeated_frames} frames, wanted {repeated}. {connect}")
    if motion is not None and len(plan.chunks) > 1 and plan.overlap_latents != motion:
        raise ValueError(f"chunks that repeat {plan.overlap_latents} latents, and Persistent Latents hands over "
                         f"{motion}. {connect}, and set its overlap_frames to -1")


def check_beside(model, picture: Tensor | None, plan: ChunkPlan) -> None:
    """Raises ValueError for what Persistent Latents cannot be beside, for a take without a picture, and for more motion
    than a clip has room for."""
    technique = attach.technique_of(model, PersistentLatents)
    assert technique is not None
    if attach.technique_of(model, LatentStitch) is not None:
        raise ValueError("model: Latent Stitch and Persistent Latents both say what passes to the next chunk. Remove "
                         "Latent Stitch")
    if plan.block_latents:
        raise ValueError("model: a Rolling Window has no clips that Persistent Latents could hand anything on between. "
                         "Use Style Anchor and Temporal Anchor in its place")
    if any(each.pads() for each in attach.techniques_of(model)):
        raise ValueError("model: Lookahead Anchor with placement 'padding' and Persistent Latents fill the same "
                         "channels. Remove one of them")
    if picture is None:
        raise ValueError("reference: Persistent Latents remembers the person of a picture, and none came. Connect one")
    if backbones.find(model).memory_in_channels() and technique.motion_latents * LONGEST_MOTION > plan.longest_chunk:
        raise ValueError(f"motion_latents: got {technique.motion_latents}, more than half of a chunk of "
                         f"{plan.longest_chunk} latents. Lower it, or raise chunk_frames of Plan Take")
