"""Wan 2.2 S2V (speech to video) on ComfyUI's WanModel_S2V.

Its own reference already stands in the future at max(30, n+9) with timestep 0: the anchor techniques move it, and
further anchors join it as reference frames. Its context is outside the chunk (19 motion latents). Chunks and context
windows get the audio features of the whole take (s2v_audio.py).
"""
from dataclasses import dataclass, replace
from typing import ClassVar

import comfy.latent_formats
import comfy.ldm.wan.model
import comfy.model_base
import torch
from torch import Tensor

from ...techniques.layout import Layout, Span
from ...techniques.technique import restricts_visibility
from ..audio.speech import Speech
from ..backbone import Backbone, ChunkInputs, ChunkRequest, lay_out_call, needs_layout
from ..frame_conditions import Cut
from ..reference_pass import Beside, SeveralKeys, VideoKeys, bytes_beside_wan, join_keys, take_out_closed
from .call import WanCall, split_attention
from .s2v_audio import SPEECH, SPEECH_LAYERS, history_latents, with_audio_tokens
from .s2v_timesteps import with_exact_timesteps
from .video_reference import video_keys

MOTION_LATENTS = 19
SPEECH_WIDTH = 1024     # wav2vec2-large


@dataclass(frozen=True)
class WanS2V(Backbone):
    memory: ClassVar[str] = "joint"
    supported: ClassVar[str] = "Wan 2.2 S2V"
    frame_conditions: ClassVar = {"control_video": Cut(2, per_latent=1, first=1, core_cuts=True)}
    encoder: ClassVar[str] = "wav2vec2-large, or one layer of an encoder of that width, through Audio Features"
    name: str = "Wan 2.2 S2V"
    fps: int = 16
    chunk_frames: int = 77
    overlap_frames: int = 0
    grid: int = 16
    audio_shape: tuple[int, int] | None = (SPEECH_LAYERS, SPEECH_WIDTH)
    audio_condition: str | None = SPEECH

    @classmethod
    def of(cls, model) -> "WanS2V | None":
        base = model.model
        found = type(base) is comfy.model_base.WAN22_S2V
        return cls() if found and type(base.diffusion_model) is comfy.ldm.wan.model.WanModel_S2V else None

    @property
    def layers_taken(self) -> tuple[int, ...]:
        return 1, SPEECH_LAYERS

    def context_latents(self, overlap: int) -> int:
        return MOTION_LATENTS

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> WanCall:
        call = with_audio_tokens(WanCall.bind(executor, args, kwargs), position.first_latent)
        return with_exact_timesteps(self.with_layout(call, techniques, position, process_in))

    def with_layout(self, call: WanCall, techniques, position, process_in) -> WanCall:
        own = self.own_layout(call)
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        if not needs_layout(own, layout, techniques, call.x.dtype, call.transformer_options):
            return call
        layout, visibility, beside = take_out_closed(layout, visibility, techniques)
        keys = self.keys_beside(call, beside, process_in)
        call = with_references(call, layout, process_in)
        times = tuple(time for span in layout.references for time in span.times)
        tokens = [0]
        own_rope = call.module.rope_encode

        def rope(frames, height, width, t_start=0, dtype=None, **options):
            """ComfyUI asks for the chunk (from 0), the reference (far ahead) and the motion frames (before 0)."""
            if t_start < 0:
                rows = own_rope(frames, height, width, t_start=t_start, dtype=torch.float32, **options)
            else:
                rows = call.rows(times if t_start > 0 else layout["chunk"].times)
            tokens[0] += rows.shape[1]
            return rows

        if restricts_visibility(techniques):
            frames = call.x.shape[2] + len(times)
            call = call.with_attention(split_attention(call, visibility, frames, lambda: tokens[0], keys))
        return call.change(stand_ins={"rope_encode": rope})

    @staticmethod
    def keys_beside(call: WanCall, beside: tuple[Beside, ...], process_in) -> SeveralKeys | None:
        """What the call attends to of a video of the person and of a scene: the model's own kind of reference, which
        each is only behind a latent of the video's."""
        def keys_of(one: Beside) -> VideoKeys:
            times = tuple(time - one.span.times[0] for time in one.span.times)

            def with_video(alone: WanCall) -> WanCall:
                latents = call.latents(one.span, process_in)[:1]
                return alone.change(x=torch.zeros_like(latents[:, :, :1]), extra={"reference_latent": latents},
                                    stand_ins={"rope_encode": lambda *_, t_start=0, **__: alone.rows(
                                        times if t_start > 0 else (0,))})

            return video_keys(call, one, with_video, before=1)

        return join_keys(beside, keys_of)

    def check_video_reference(self, audio: bool) -> None:
        if audio:
            raise ValueError(f"audio_features: {self.name}'s audio attention is of the chunk's own tokens, so what is "
                             "said in the video has no way to its frames. Disconnect it")

    def cache_bytes(self, model, noise_shape, techniques, position) -> int:
        return bytes_beside_wan(model, techniques, noise_shape)

    @staticmethod
    def own_layout(call: WanCall) -> Layout:
        layout, reference = Layout.of_chunk(call.x.shape[2]), call.extra.get("reference_latent")
        layout = replace(layout, has_more=call.extra.get("reference_motion") is not None)
        if reference is None:
            return layout
        first = max(30, call.x.shape[2] + 9)
        return layout.append(Span("reference", tuple(range(first, first + reference.shape[2]))))

    def audio_for(self, speech: Speech, clock, first_latent: int, latents: int) -> Tensor:
        """(layers, frames, C), 4 feature frames per latent, those of `history_latents` first."""
        history = history_latents(first_latent)
        return super().audio_for(speech, clock, first_latent - history, history + latents)

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        channels, height, width = request.latent_shape
        samples = torch.zeros(1, channels, request.latents, height, width)
        conditions: dict = {"control_video": comfy.latent_formats.Wan21().process_out(torch.zeros_like(samples))}
        uncond = {}
        if request.reference is not None:
            conditions["reference_latents"] = [request.reference]
        if request.context is not None:
            conditions["reference_motion"] = request.context
        if request.audio is not None:
            conditions[SPEECH] = request.audio.permute(0, 2, 1)[None]   # (1, layers, width, frames)
            uncond[SPEECH] = torch.zeros_like(conditions[SPEECH])
        return ChunkInputs(samples, conditions=conditions, uncond=uncond)


def with_references(call: WanCall, layout: Layout, process_in) -> WanCall:
    """The layout's reference and anchors as the model's reference frames, in the layout's order."""
    parts = []
    for span in layout.references:
        parts.append(call.extra["reference_latent"] if span.latents is None else call.latents(span, process_in))
    return call.change(extra={**call.extra, "reference_latent": torch.cat(parts, dim=2)}) if parts else call
