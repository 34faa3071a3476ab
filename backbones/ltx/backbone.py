"""LTX-2, 2.3 and 2.5: clean frames are tokens behind the picture's at their own pixel frame and noise level 0.

Anchors take no part in what passes between picture and sound. A chunk begins with a real single frame, the last decoded
one encoded again: in this model's first latent a frame stands alone, and a latent of eight there flickers. The latents
handed over stand before it, at the frames that they are of.
"""
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.ldm.lightricks.av_model
import torch
from torch import Tensor

from ...techniques.layout import Layout
from ...techniques.technique import restricts_visibility
from ...techniques.timeline import Timeline, frames_of
from ..backbone import ChunkInputs, ChunkRequest, lay_out_call
from ..joint import SPEECH, JointBackbone
from ..sampling_run import say
from .call import LTXCall

RATIO = 8       # pixel frames of a latent, but of the first


@dataclass(frozen=True)
class LTX(JointBackbone):
    """`anchors_apart`: whether anchors take no part in what passes between picture and sound."""
    supported: ClassVar[str] = "LTX-2, LTX-2.3, LTX-2.5"
    sound_family: ClassVar[str] = "ltx"
    sound_rate: ClassVar[int] = 25
    sound_shape: ClassVar[tuple[int, ...]] = (1, 8, 0, 16)
    name: str = "LTX-2"
    fps: int = 24
    chunk_frames: int = 121
    overlap_frames: int = 17
    grid: int = 32
    size: tuple[int, int] = (960, 544)
    temporal_ratio: int = RATIO
    audio_shape: tuple[int, int] | None = (1, 2)
    audio_condition: str | None = SPEECH
    anchors_apart: bool = True

    @classmethod
    def of(cls, model) -> "LTX | None":
        return cls() if type(model.model.diffusion_model) is comfy.ldm.lightricks.av_model.LTXAVModel else None

    @property
    def spatial_ratio(self) -> int:
        return self.grid

    def latents_ahead(self, frames: Fraction) -> float:
        """Its places are pixel frames, so nothing is rounded down."""
        return float(frames / RATIO)

    def text_width(self, base) -> int:
        return self.text_widths(base)[0]

    def text_widths(self, base) -> tuple[int, ...]:
        """What its text encoder gives, and what its connectors make of that, which ComfyUI 0.7 has in the encoder."""
        module = base.diffusion_model
        if getattr(module, "caption_proj_before_connector", False):
            return (module.cross_attention_dim + module.audio_cross_attention_dim,)
        both = 2 * module.caption_channels
        return (module.caption_channels, both) if hasattr(module, "preprocess_text_embeds") else (both,)

    def prompt_values(self, base) -> dict[str, Any]:
        return {"unprocessed_ltxav_embeds": True} if hasattr(base.diffusion_model, "preprocess_text_embeds") else {}

    def vision_encoder(self, base) -> None:
        return None

    def window(self, clock: Timeline, first_latent: int, latents: int) -> tuple[int, int]:
        return clock.last_frame(first_latent), clock.frames_for_latents(latents)

    def opening_frames(self) -> int:
        return 1

    def lay_out_conditions(self, entry, techniques, position, shape) -> dict:
        """Speech that is none, as zeros say, has a shape of its own: ComfyUI then asks for it in a call of its own."""
        speech = entry.get(SPEECH)
        return entry if speech is None or speech.any() else {**entry, SPEECH: torch.zeros(1, 2)}

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> LTXCall:
        call = LTXCall.bind(executor, args, kwargs)
        speech = call.extra.pop(SPEECH, None)
        if speech is not None and speech.shape[-1] == 2:
            call = call.change(transformer_options={**call.transformer_options, "a2v_cross_attn": False})
        own = Layout.of_chunk(call.picture.shape[2])
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        if layout is own and not restricts_visibility(techniques):
            return call
        if call.keyframe_idxs is not None:
            raise ValueError("conditioning: this one brings guide frames of its own (LTXV Add Guide), which Lodestar "
                             "cannot lay out beside an anchor. Remove that node, or the Lodestar nodes")
        frames = sum(len(span.times) for span in layout.spans)
        call.check_lengths(frames)
        if frames > call.picture.shape[2]:
            call = call.with_frames(layout, self.places(call, layout), process_in)
        if restricts_visibility(techniques):
            call = call.with_visibility(visibility, frames)
        anchors = layout.references if self.anchors_apart else ()
        return call.without_speech_for(layout, anchors) if anchors and call.sound_tokens else call

    @staticmethod
    def places(call: LTXCall, layout: Layout) -> list[tuple[int, int]]:
        """(begin, end) of every clean latent in pixel frames from the chunk's first. An anchor is a picture, one frame;
        a latent handed over is eight, and the last of them ends with the chunk's first."""
        begin, places = layout["chunk"].times[0], []
        for span in layout.spans:
            if span.latents is not None and span.name == "context":
                places += [(RATIO * round(time - begin) + 1, RATIO * round(time - begin) + RATIO + 1)
                           for time in span.times]
            elif span.latents is not None:
                frames = [call.whole_frame((time - begin) * RATIO) for time in span.times]
                places += [(frame, frame + 1) for frame in frames]
        farthest, longest = max(end for _, end in places) / call.frame_rate, call.module.positional_embedding_max_pos[0]
        if farthest > longest:
            say(f"the anchor stands {farthest:.1f} s after the chunk's first frame, and LTX-2 was trained up to "
                f"{longest} s: shorten the chunk or the distance", call.transformer_options)
        return places

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Known frames open the latent and are masked out, where their first is a frame alone. Latents that passed
        stand before the last decoded frame, or where none came, before one that is sampled along."""
        fps, known, before, context = request.fps or Fraction(self.fps), request.reference, 0, None
        repeated = 0 if request.context is None else request.context.shape[2]
        if request.re_encoded and repeated:
            known = request.context
        elif repeated:
            known, before, context = self.last_frame(request), 1, request.context
        slots = request.latents - repeated + 1 if before else request.latents
        samples, mask = replace(request, latents=slots).open_with(known, comfy.latent_formats.LatentFormat())
        begin = Fraction(frames_of(request.latents, RATIO) - frames_of(slots, RATIO)) / fps
        seconds = frames_of(slots, RATIO) / fps + request.seconds_ahead
        speech = {} if request.audio is None else {SPEECH: torch.ones(1, 1)}
        return ChunkInputs(
            **self.pack(request, samples, mask, begin, seconds), before=before, context=context,
            conditions={"frame_rate": float(fps), **speech})

    @staticmethod
    def last_frame(request: ChunkRequest) -> Tensor | None:
        if request.context_frames is None or request.encode is None:
            return None
        return request.encode(request.context_frames[-1:])
