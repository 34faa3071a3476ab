"""Wan 2.2 S2V (speech to video) on ComfyUI's WanModel_S2V.

Its own reference already stands in the future at max(30, n+9) with timestep 0: the anchor techniques move it, and
further anchors join it as reference frames. Its context is outside the window (19 motion latents). We cut the speech
features per context window, where ComfyUI repeats the first window's.
"""
from dataclasses import dataclass
from typing import ClassVar

import comfy.latent_formats
import comfy.ldm.wan.model
import comfy.model_base
import torch

from ..techniques.layout import Layout, Span
from .backbone import Backbone, ChunkInputs, ChunkRequest, hides, laid_out
from .wan_call import WanCall, split_attention

MOTION_LATENTS = 19
FRAMES_PER_LATENT = 4   # speech rows per latent
SPEECH, SPEECH_LAYERS, SPEECH_WIDTH = "audio_embed", 25, 1024   # wav2vec2-large


@dataclass(frozen=True)
class WanS2V(Backbone):
    supported: ClassVar[str] = "Wan 2.2 S2V"
    encoder: ClassVar[str] = "wav2vec2-large, or one layer of an encoder of that width, through Audio Features"
    name: str = "wan_s2v"
    fps: int = 16
    chunk_frames: int = 77
    overlap_frames: int = 0
    grid: int = 16
    audio_shape: tuple[int, int] | None = (SPEECH_LAYERS, SPEECH_WIDTH)
    audio_condition: str | None = SPEECH

    @classmethod
    def of(cls, base) -> "WanS2V | None":
        found = type(base) is comfy.model_base.WAN22_S2V
        return cls() if found and type(base.diffusion_model) is comfy.ldm.wan.model.WanModel_S2V else None

    @property
    def layers_taken(self) -> tuple[int, ...]:
        return 1, SPEECH_LAYERS

    def context_latents(self, overlap: int) -> int:
        return MOTION_LATENTS

    def prepare(self, executor, args, kwargs, techniques, moment, process_in) -> WanCall:
        call = with_window_audio(WanCall.bind(executor, args, kwargs))
        own = self.own_layout(call)
        layout, factors = laid_out(own, techniques, moment, call.transformer_options)
        if layout is own and not hides(techniques):
            return call
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

        if hides(techniques):
            frames = call.x.shape[2] + len(times)
            call = call.with_attention(split_attention(call, factors, frames, lambda: tokens[0]))
        return call.change(rope=rope)

    @staticmethod
    def own_layout(call: WanCall) -> Layout:
        layout, reference = Layout.of_chunk(call.x.shape[2]), call.extra.get("reference_latent")
        if reference is None:
            return layout
        first = max(30, call.x.shape[2] + 9)
        return layout.append(Span("reference", tuple(range(first, first + reference.shape[2]))))

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        channels, height, width = request.latent_shape
        samples = torch.zeros(1, channels, request.latents, height, width)
        conditions: dict = {"control_video": comfy.latent_formats.Wan21().process_out(torch.zeros_like(samples))}
        silent = {}
        if request.reference is not None:
            conditions["reference_latents"] = [request.reference]
        if request.context is not None:
            conditions["reference_motion"] = request.context
        if request.audio is not None:
            conditions[SPEECH] = request.audio.permute(0, 2, 1)[None]   # (1, layers, width, frames)
            silent[SPEECH] = torch.zeros_like(conditions[SPEECH])
        return ChunkInputs(samples, conditions=conditions, silent=silent)


def with_references(call: WanCall, layout: Layout, process_in) -> WanCall:
    """The layout's reference and anchors as the model's reference frames, in the layout's order."""
    parts = []
    for span in layout.references:
        parts.append(call.extra["reference_latent"] if span.latents is None else call.latents(span, process_in))
    return call.change(extra={**call.extra, "reference_latent": torch.cat(parts, dim=2)}) if parts else call


def with_window_audio(call: WanCall) -> WanCall:
    """The call with the speech of its own context window, where the take is sampled in context windows."""
    window, audio = call.transformer_options.get("context_window"), call.extra.get(SPEECH)
    if window is None or audio is None:
        return call
    if audio.shape[1] not in (1, SPEECH_LAYERS):
        raise ValueError(f"audio: ComfyUI cut the speech features' {SPEECH_LAYERS} layers as if they were time, which "
                         f"happens when a windowed take has exactly {SPEECH_LAYERS} latents. Make it longer or shorter")
    first = getattr(window, "causal_anchor_index", None)
    frames = ([first] if first is not None and first >= 0 else []) + list(window.index_list)
    rows = [frame * FRAMES_PER_LATENT + i for frame in frames for i in range(FRAMES_PER_LATENT)]
    if len(frames) != call.x.shape[2] or rows[-1] >= audio.shape[-1]:
        raise ValueError(f"audio: the context window has {call.x.shape[2]} latents at {frames[0]}..{frames[-1]}, the "
                         f"speech features cover {audio.shape[-1] // FRAMES_PER_LATENT}. Encode the whole speech")
    return call.change(extra={**call.extra, SPEECH: audio[..., rows]})
