"""Wan 2.1 text-to-video, 2.1 and 2.2 (A14B) image-to-video and 2.2 TI2V-5B, on ComfyUI's WanModel.

Clean frames (anchors, stitched context) ride along as tokens through the model's own `time_dim_concat`, which leaves
them out of the output; each gets its own RoPE time and timestep 0.
"""
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.ldm.wan.model
import comfy.model_base
import torch
from torch import Tensor

from ...techniques.closed_span import hides_frames
from ...techniques.layout import Layout, Span
from ...techniques.persistent_latents import Memory, memory_channels
from ...techniques.style_anchor import find_style_anchor
from ...techniques.technique import restricts_visibility
from ...techniques.temporal_anchor import find_temporal_anchor
from ...techniques.timeline import frames_of
from ..backbone import Backbone, ChunkInputs, ChunkRequest, lay_out_call, needs_layout
from ..frame_conditions import WINDOW, Cut
from ..reference_pass import Beside, SeveralKeys, bytes_beside_wan, join_keys, take_out_closed
from ..written_memory import MEMORY, PICTURE, MemoryCall
from .call import WanCall, split_attention
from .memory import attention_with_memory
from .video_reference import video_keys

GREY_LATENTS = 4    # after so many a grey video's latents stay as they are, but for rounding


@dataclass(frozen=True)
class Wan(Backbone):
    memory: ClassVar[str] = "joint"
    supported: ClassVar[str] = "Wan 2.1 T2V, Wan 2.1 I2V, Wan 2.2 A14B T2V and I2V, Wan 2.2 TI2V-5B"
    frame_conditions: ClassVar = {"c_concat": Cut(2, per_latent=1, first=1, core_cuts=True)}
    name: str = "Wan"
    fps: int = 16
    chunk_frames: int = 81
    overlap_frames: int = 13
    grid: int = 16
    size: tuple[int, int] = (832, 480)
    audio_shape: tuple[int, int] | None = None
    audio_condition: str | None = None
    boundary: float | None = None

    @classmethod
    def of(cls, model) -> "Wan | None":
        base, module = model.model, model.model.diffusion_model
        if type(module) is not comfy.ldm.wan.model.WanModel or module.ref_conv is not None:
            return None
        kind = (type(base), module.in_dim, module.out_dim)
        if kind == (comfy.model_base.WAN22, 48, 48):
            return WanTI2V()
        if kind == (comfy.model_base.WAN21, 16, 16):
            return WanT2V(boundary=0.875)
        if kind == (comfy.model_base.WAN21, 36, 16):
            return WanI2V(boundary=0.9)
        return None

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> WanCall:
        call = WanCall.bind(executor, args, kwargs)
        memory = call.transformer_options.get(MEMORY)
        if memory is not None:
            return self.prepare_remembering(call, memory, techniques, position, process_in)
        window = call.transformer_options.get(WINDOW)
        if window is not None and window.finished:
            call = call.change(x=self.mark_finished(call.x, window.finished))
        own = self.own_layout(call)
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        if not needs_layout(own, layout, techniques, call.x.dtype, call.transformer_options):
            return call
        layout, visibility, beside = take_out_closed(layout, visibility, techniques)
        check_other_nodes(call, layout)
        times = [time for span in layout.spans for time in span.times]
        rows = call.rows(times)
        keys = self.keys_beside(call, beside, process_in)
        if restricts_visibility(techniques):
            call = call.with_attention(split_attention(call, visibility, len(times), lambda: rows.shape[1], keys))
        return self.with_clean_frames(call, layout, process_in).change(stand_ins={"rope_encode": lambda *_, **__: rows})

    @staticmethod
    def mark_finished(x: Tensor, finished: int) -> Tensor:
        """The call's input (B, C, T, h, w) with its first latents, those of a stream that are finished, as this family
        knows given ones."""
        return x

    def keys_beside(self, call: WanCall, beside: tuple[Beside, ...], process_in) -> SeveralKeys | None:
        """What the call attends to of a video of the person and of a scene."""
        return join_keys(beside, lambda one: video_keys(
            call, one, lambda alone: self.with_video(alone, one.span, process_in)))

    def with_video(self, alone: WanCall, span: Span, process_in) -> WanCall:
        """The call over the video in `span` in place of its own latents, as this family is given known frames."""
        latents = alone.latents(span, process_in)[:1]
        known = alone.x.shape[1] == latents.shape[1] * 2 + 4    # I2V
        return alone.change(x=as_known(latents) if known else latents, extra={})

    def check_video_reference(self, audio: bool) -> None:
        if audio:
            raise ValueError(f"audio_features: {self.name} has no audio attention, so what is said in the video has no "
                             "way to its frames. Disconnect it")

    def prepare_remembering(self, call: WanCall, memory: MemoryCall, techniques, position, process_in) -> WanCall:
        """A call that sees what a stream remembers; of other clean frames only those of other techniques ride along."""
        if hides_frames(techniques):
            raise ValueError(f"model: a node on it hides frames from one another, which {self.name} cannot do beside "
                             "the KV cache of a stream. Remove Reference Skip")
        own, beside = self.own_layout(call), tuple[Beside, ...]()
        if memory.writes == PICTURE:
            call, layout = self.show_picture(call, memory.window_audio), own
        else:
            own = own.change("chunk", times=tuple(memory.first_time + time for time in own["chunk"].times))
            layout, table = lay_out_call(own, techniques, position, call.transformer_options)
            layout, _, beside = take_out_closed(layout, table, techniques)
        check_other_nodes(call, layout)
        times = [time for span in layout.spans for time in span.times]
        rows, keys = call.rows(times), self.keys_beside(call, beside, process_in)
        call = call.with_attention(attention_with_memory(call, memory, call.x.shape[2], rows, keys))
        return self.with_clean_frames(call, layout, process_in).change(stand_ins={"rope_encode": lambda *_, **__: rows})

    def cache_bytes(self, model, noise_shape, techniques, position) -> int:
        """Of what stands beside; of one guidance branch, where this family remembers: its picture's and the finished
        latents'."""
        anchor = find_temporal_anchor(techniques)
        network, computed = model.diffusion_model, model.manual_cast_dtype or model.get_dtype()
        beside = bytes_beside_wan(model, techniques, noise_shape)
        if self.memory != "written" or anchor.offload != "VRAM":
            return beside
        latents = anchor.latents + (find_style_anchor(techniques) is not None)
        size = 1 if anchor.precision == "fp8" else computed.itemsize
        return beside + latents * 2 * len(network.blocks) * network.dim * (noise_shape[3] * noise_shape[4] // 4) * size

    def extra_latents(self, model, noise_shape, techniques, position) -> int:
        """As many more as ComfyUI counts the bytes of a KV cache for: it reckons with the sampler's latent alone."""
        kept = self.cache_bytes(model, noise_shape, techniques, position)
        own = model.memory_required([1, noise_shape[1], 1, *noise_shape[3:]]) if kept else 1
        return super().extra_latents(model, noise_shape, techniques, position) + math.ceil(kept / own)

    def show_picture(self, call: WanCall, window_audio: bool) -> WanCall:
        """The call of a `written` memory that has its picture alone, at level 0, as this family was trained to be given
        it. `window_audio`: whether it has the window's first row of audio features, instead of zeros."""
        return call

    @staticmethod
    def own_layout(call: WanCall) -> Layout:
        """What the model would see without us; other nodes' time_dim_concat follows the chunk at the chunk's noise."""
        frames = call.x.shape[2]
        layout = Layout.of_chunk(frames)
        if call.time_dim_concat is not None:
            added = call.time_dim_concat.shape[2]
            layout = layout.append(Span("concat", tuple(range(frames, frames + added)), clean=False))
        return layout

    @staticmethod
    def with_clean_frames(call: WanCall, layout: Layout, process_in) -> WanCall:
        spans = [span for span in layout.spans if span.latents is not None]
        if not spans:
            return call
        noisy = sum(len(span.times) for span in layout.spans if not span.clean)
        clean = sum(len(span.times) for span in spans)
        parts = [] if call.time_dim_concat is None else [call.time_dim_concat]
        for span in spans:
            latents = call.latents(span, process_in)
            if call.x.shape[1] == latents.shape[1] * 2 + 4:   # I2V
                latents = as_known(latents)
            parts.append(latents)
        timestep = call.timestep if call.timestep.ndim == 2 else call.timestep[:, None]
        own = timestep.expand(-1, noisy) if timestep.shape[1] == 1 else timestep
        own = torch.cat([own, own[:, -1:].expand(-1, noisy - own.shape[1])], dim=1)
        timestep = torch.cat([own, own.new_zeros(own.shape[0], clean)], dim=1)
        return call.change(time_dim_concat=torch.cat(parts, dim=2), timestep=timestep)


def as_known(latents: Tensor) -> Tensor:
    """I2V's input where `latents` are given: [latent | mask, 1 is known | known latent]."""
    return torch.cat([latents, torch.ones_like(latents[:, :4]), latents], dim=1)


def check_other_nodes(call: WanCall, layout: Layout) -> None:
    """Raises ValueError for what other nodes have put into a call that cannot stand beside the layout's frames."""
    if call.extra.get("context_latents") is not None:
        raise ValueError("conditioning: this one brings in-context latents, whose tokens Lodestar cannot lay out "
                         "beside an anchor. Remove the node that adds them, or the Lodestar nodes")
    if call.transformer_options.get("audio_embeds") is not None and any(span.latents is not None
                                                                        for span in layout.spans):
        raise ValueError("model: core's InfiniteTalk node is on it, whose speech attention takes no frames beside the "
                         "chunk's, as an anchor's. Use Lodestar's InfiniteTalk node in its place, with One Chunk or "
                         "Long Take")


@dataclass(frozen=True)
class WanT2V(Wan):
    name: str = "Wan text-to-video"

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Context as clean tokens before the chunk; the sampler sees only what is new."""
        channels, height, width = request.latent_shape
        handed = 0 if request.context is None else request.context.shape[2]
        return ChunkInputs(torch.zeros(1, channels, request.latents - handed, height, width), context=request.context)


@dataclass(frozen=True)
class WanTI2V(Wan):
    name: str = "Wan 2.2 TI2V-5B"
    fps: int = 24
    chunk_frames: int = 121
    grid: int = 32
    size: tuple[int, int] = (1280, 704)

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Known frames open the latent and are masked out of denoising, which gives them timestep 0 in this model."""
        known = request.context if request.context is not None else request.reference
        return ChunkInputs(*request.open_with(known, comfy.latent_formats.Wan22()))


@dataclass(frozen=True)
class WanI2V(Wan):
    name: str = "Wan image-to-video"

    def concat_latent(self, encode, picture, latents, height, width, padding=None) -> Tensor | None:
        """Grey after the picture, encoded in one go, as this model was trained."""
        frames = torch.full((frames_of(latents, self.temporal_ratio), height, width, 3), 0.5)
        if padding is not None:
            frames[:] = padding[0]
        if picture is not None:
            frames[0] = picture[0]
        return encode(frames)

    @staticmethod
    def mark_finished(x: Tensor, finished: int) -> Tensor:
        return torch.cat([as_known(x[:, :16, :finished]), x[:, :, finished:]], 2)

    def stream_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Nothing is known but what the windows' calls mark: everywhere the grey of a frame far behind the first."""
        assert request.encode is not None
        _, height, width = request.latent_shape
        grey = self.concat_latent(request.encode, None, GREY_LATENTS, height * self.spatial_ratio,
                                  width * self.spatial_ratio)
        assert grey is not None
        blank = replace(request, concat_latent=grey[:, :, -1:].expand(-1, -1, request.latents, -1, -1),
                        context=None, reference=None)
        return WanI2V.chunk_inputs(self, blank)

    def memory_in_channels(self) -> bool:
        return True

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Conditioning frames as concat channels over the concat latent; the mask is 0 there."""
        channels, height, width = request.latent_shape
        if request.persistent is not None:
            return persistent_inputs(request, request.persistent, request.picture_conditions)
        assert request.concat_latent is not None
        concat = request.concat_latent[:, :, :request.latents].clone()
        mask = torch.ones(1, 1, request.latents, height, width)
        if request.context is not None:
            concat[:, :, :request.context.shape[2]] = request.context
            mask[:, :, :request.context.shape[2]] = 0
        elif request.reference is not None:
            mask[:, :, :1] = 0
        return ChunkInputs(torch.zeros(1, channels, request.latents, height, width),
                           conditions={"concat_latent_image": concat, "concat_mask": mask,
                                       **request.picture_conditions})


def persistent_inputs(request: ChunkRequest, memory: Memory, conditions: Mapping[str, Any]) -> ChunkInputs:
    """Pictures and motion as concat channels of a chunk that the pictures precede, as Stable Video Infinity 2.0 Pro
    (one picture) and EverAnimate have them: zeros in model space elsewhere, and only the pictures marked as known."""
    channels, height, width = request.latent_shape
    null = comfy.latent_formats.Wan21().process_out(torch.zeros(1, channels, 1, height, width))
    concat, known = memory_channels(memory, request.latents, null)
    slots = memory.identity.shape[2]
    return ChunkInputs(torch.zeros(1, channels, request.latents + slots, height, width), before=slots,
                       conditions={"concat_latent_image": concat, "concat_mask": 1 - known, **conditions})
