"""A take that goes on from a clip of the user's: its plan, and the clip on the take's clock."""
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

from torch import Tensor

from .. import backbones
from ..backbones import attach
from ..backbones.backbone import Backbone
from ..backbones.images import fit_picture
from ..backbones.socket_values import name_input
from ..pipelines.take.clip_before import ClipBefore
from ..pipelines.take.plan import ChunkPlan, Take
from ..pipelines.take.settings import Settings, choose_settings
from ..techniques.persistent_latents import PersistentLatents
from ..techniques.timeline import Timeline
from .driving_sources import open_video
from .persistent_plan import cut_take, with_motion

INPUT = "continue_from"


def plan_with_model(model: Any, picture: Tensor | None, video: Any, length: Callable[[Timeline, Settings], int],
                    block_latents: int = 0, script: str | None = None, seed_step: int = 1, **asked: Any
                    ) -> tuple[Take, ClipBefore | None, Settings]:
    """A take of `length` pixel frames without its sound, and the clip it goes on from. `asked`: of `choose_settings`,
    which takes the rest from the model, and the proportions from `video` or the `picture`.

    Raises ValueError for what the model cannot have, or a video that it cannot go on from.
    """
    backbone = backbones.find(model)
    chosen = choose_settings(backbone, shape_giver(backbone.first_picture(picture), video), stream=block_latents > 0,
                             **with_motion(model, asked))
    clock = backbone.timeline(chosen.fps)
    plan = cut_take(model, clock, length(clock, chosen), chosen, script, seed_step, block_latents)
    return *continue_take(model, Take(plan, None), video), chosen


def continue_take(model: Any, take: Take, video: Any) -> tuple[Take, ClipBefore | None]:
    """The take as it is behind `video`, where there is one. Raises ValueError for a clip that cannot be gone on from.
    """
    if video is None:
        if take.plan.opening_latents:
            raise ValueError(f"{INPUT}: the plan goes on from a clip, and none came. Connect the same VIDEO here and "
                             "to Plan Take")
        return take, None
    with name_input(INPUT):
        if take.plan.block_latents:
            raise ValueError("a stream of blocks (Rolling Window) begins with a picture and cannot go on from a clip. "
                             "Set block_latents of Plan Take to 0")
        if attach.technique_of(model, PersistentLatents) is not None:
            raise ValueError("Persistent Latents draws its pictures from the take's own first chunk and cannot go on "
                             "from a clip. Disconnect it, or remove Persistent Latents")
        clip = open_clip(video, take.plan)
        plan = take.plan.after_clip(opening_latents(backbones.find(model), take.plan, clip))
        return replace(take, plan=plan, clip_frames=clip.frames), clip


def open_clip(video: Any, plan: ChunkPlan) -> ClipBefore:
    return ClipBefore(open_video(video, "the clip"), plan.timeline.fps,
                      partial(fit_picture, width=plan.width, height=plan.height))


def opening_latents(backbone: Backbone, plan: ChunkPlan, clip: ClipBefore) -> int:
    """How many latents of the clip the first chunk is given: what every chunk is given of the one before; where that
    is outside the chunk, as many as there are."""
    clock, overlap = plan.timeline, plan.asked["overlap_frames"]
    wanted = backbone.context_latents(clock.latents_within_frames(overlap))
    if not wanted:
        raise ValueError(f"with an overlap of {overlap} frames {backbone.name} is given nothing of the clip to go on "
                         "from. Set overlap_frames of Plan Take to -1")
    if not overlap:
        return min(wanted, clock.latents_within_frames(clip.frames))
    frames = clock.frames_for_latents(wanted)
    if clip.frames < frames:
        raise ValueError(f"the clip has {clip.frames} frames at {float(clock.fps):g} fps "
                         f"({float(clip.seconds):.2f} s), and {backbone.name} goes on from the last {frames} "
                         f"({float(frames / clock.fps):.2f} s). Give a longer one, or a smaller overlap_frames to Plan "
                         "Take")
    return wanted


def shape_giver(reference: Tensor | None, video: Any) -> Tensor | None:
    """The picture (1, H, W, C) whose proportions a take has that is given no size: a clip's before the reference."""
    if video is None:
        return reference
    with name_input(INPUT):
        return next(iter(open_video(video, "the clip").at([Fraction(0)])))[None]
