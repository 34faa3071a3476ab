"""The calls of a guider that a stream makes: what stands beside the window, and how finished latents are remembered.

Where they ride in every call ("joint", "closed"), they open the call's latents at level 0. In a "written" memory the
call has the window alone; each finished block goes through the model once more, at level 0, to leave its keys there.
"""
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..backbones import attach
from ..backbones.frame_conditions import WINDOW, Window
from ..backbones.span_latents import latents_of
from ..backbones.written_memory import MEMORY, PICTURE, RECENTS, MemoryCall, WrittenMemory
from ..techniques.layout import Span
from ..techniques.rolling_window import Call, Rolling, spread_levels
from ..techniques.style_anchor import StyleAnchor, find_style_anchor
from ..techniques.technique import ChunkPosition
from ..techniques.temporal_anchor import find_temporal_anchor

KEY = "lodestar_levels"


class Stream(Protocol):
    """What of it its calls know: `seen` are the finished latents in model space that stay in sight."""
    rolling: Rolling
    seen: Tensor | None
    memory: WrittenMemory | None

    def place(self, latents: range) -> range:
        """Where latents of the take are in the run."""


@dataclass(frozen=True, eq=False)
class StreamCalls:
    """`latents`: how many the guider's conditions are for; `placed`: levels that calls had, on the device. Finished
    latents ride in every call."""
    stream: Stream
    guider: Any
    extra_args: dict
    latents: int
    placed: dict[tuple[float, ...], Tensor] = field(default_factory=dict, kw_only=True)

    def predict(self, call: Call, x: Tensor) -> Tensor:
        """The clean prediction of the window beside the finished latents that it sees."""
        stream, held, parts = self.stream, len(call.recents), [x]
        if held:
            assert stream.seen is not None
            parts = [stream.seen[:, :, -held:].to(x), x]
        place = stream.place(call.latents)
        window = Window(tuple(range(place.start - held, place.stop)), self.latents, held)
        return self.ask(torch.cat(parts, 2), (0.0,) * held + self.levels(call), window)[:, :, held:]

    def remember(self, call: Call, clean: Tensor) -> None:
        stream = self.stream
        most = find_temporal_anchor(attach.techniques_of(self.guider.model_patcher)).latents
        whole = clean if stream.seen is None else torch.cat([stream.seen.to(clean), clean], 2)
        stream.seen = whole[:, :, -most:]

    def levels(self, call: Call) -> tuple[float, ...]:
        return spread_levels(self.stream.rolling.sigmas, call, self.stream.rolling.block_latents)

    def ask(self, x: Tensor, levels: tuple[float, ...], window: Window, memory: MemoryCall | None = None) -> Tensor:
        """The guider's clean prediction of `x` (B, C, F, h, w), whose latents stand at `levels`."""
        if levels not in self.placed:      # those of full windows are alike
            self.placed[levels] = torch.tensor(levels).to(x)
        options = with_levels(self.guider.model_patcher, self.extra_args["model_options"], window,
                              self.placed[levels], self.guider.inner_model.model_sampling)
        if memory is not None:
            options["transformer_options"][MEMORY] = memory
        return self.guider(x, x.new_ones(len(x)), **{**self.extra_args, "model_options": options})


@dataclass(frozen=True, eq=False)
class WrittenCalls(StreamCalls):
    """Those of a model that remembers what is finished."""
    memory: WrittenMemory = field(kw_only=True)

    def predict(self, call: Call, x: Tensor) -> Tensor:
        self.show_picture(call, x)
        return self.forward(call, x)

    def remember(self, call: Call, clean: Tensor) -> None:
        self.forward(call, clean, writes=RECENTS)

    def forward(self, call: Call, x: Tensor, writes: str = "") -> Tensor:
        anchor, recents = self.anchor, range(call.recents.start - 1, call.recents.stop - 1)
        seen: tuple[tuple[str, tuple[float, ...]], ...] = ()
        if anchor is not None:
            seen += ((PICTURE, (float(anchor.time(call.local_zero, call.writes)),)),)
        if recents:
            seen += ((RECENTS, self.memory.times(recents)),)
        place = self.stream.place(call.latents)
        slots = self.memory.slots_of(range(call.latents.start - 1, call.latents.stop - 1)) if writes else ()
        return self.ask(x, self.levels(call), Window(tuple(place), self.latents),
                        MemoryCall(self.memory, call.first_time, seen, writes, slots))

    def show_picture(self, call: Call, x: Tensor) -> None:
        """Have the style anchor's keys in the memory: again for other conditions of the guider, for another picture,
        and for each window whose audio features it has."""
        anchor = self.anchor
        if anchor is None:
            return
        shown = (*self.memory.conditions, call.window if anchor.window_audio else None), anchor.picture(self.position)
        if self.memory.shown is not None and shown[0] == self.memory.shown[0] and shown[1] is self.memory.shown[1]:
            return
        self.memory.shown = shown
        model = self.guider.model_patcher
        span = Span("style anchor", (0,), latents=shown[1][:, :, :1])
        picture = latents_of(span, x, x.shape[1], model.model.process_latent_in, {})
        place = self.stream.place(call.latents).start
        self.ask(picture, (0.0,), Window((place,), self.latents),
                 MemoryCall(self.memory, writes=PICTURE, slots=(0,), window_audio=anchor.window_audio))

    @property
    def anchor(self) -> StyleAnchor | None:
        return find_style_anchor(attach.techniques_of(self.guider.model_patcher))

    @property
    def position(self) -> ChunkPosition:
        patch = attach.patch_of(self.guider.model_patcher)
        return ChunkPosition() if patch is None else patch.position


def calls_of(stream: Stream, guider, extra_args: dict, latents: int) -> StreamCalls:
    """The calls of a run of the guider on `latents` latents, as its model remembers."""
    model = guider.model_patcher
    if attach.find(model).memory != "written":
        return StreamCalls(stream, guider, extra_args, latents)
    if stream.memory is None:
        stream.memory = WrittenMemory(find_temporal_anchor(attach.techniques_of(model)))
    stream.memory.begin(guider.conds, model.load_device)
    return WrittenCalls(stream, guider, extra_args, latents, memory=stream.memory)


def with_levels(model, model_options: dict, window: Window, levels: Tensor, model_sampling) -> dict:
    """The options of one call of the model, whose latents stand at `levels` (F,). `window`: which of the clip's they
    are.

    Below the pack's wrapper each latent has a timestep of its own; above it, core's x - 1 * v becomes x - level * v.
    """
    timesteps = model_sampling.timestep(levels).float()
    patch = attach.patch_of(model) or attach.Patch(model, (), ChunkPosition())

    def spread_timesteps(executor, x, timestep, *args, **kwargs):
        return executor(x, timesteps.expand(len(x), -1), *args, **kwargs)

    def spread_prediction(executor, x, *args, **kwargs):
        return x - levels.view(-1, 1, 1) * (x - executor(x, *args, **kwargs))

    options = model_options["transformer_options"]
    wrappers = options.get("wrappers", {})
    own = {WrappersMP.DIFFUSION_MODEL: (spread_timesteps, patch), WrappersMP.APPLY_MODEL: (spread_prediction,
                                                                                        patch.cut_conditions)}
    wrappers = {**wrappers, **{kind: {KEY: [first], attach.KEY: [then], **{
        key: value for key, value in wrappers.get(kind, {}).items() if key != attach.KEY}}
        for kind, (first, then) in own.items()}}
    return {**model_options, "transformer_options": {**options, "wrappers": wrappers, WINDOW: window}}
