"""MiniMax H3: anchors are ComfyUI's own keyframes, in the conditioning, at any time, inside the chunk or outside.

Its VAE encodes clips of 17 frames as 5 latents: chunks and overlaps are whole clips and the first 2 latents of another,
so the latents handed over open the next chunk as they are. One sequence holds text, keyframes, sound and picture.
"""
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import comfy.latent_formats
import torch

from ...techniques.layout import Layout
from ...techniques.technique import lay_out, restricts_visibility
from ...techniques.timeline import ClipTimeline, Timeline
from ..backbone import OWN, ChunkInputs, ChunkRequest, lay_out_call
from ..joint import SPEECH, JointBackbone
from ..model_call import split_queries
from ..span_latents import check_shape
from ..speech_guider import SpeechGuider
from .call import H3Call

CORE = "minimax_keyframes"          # in CONDITIONING: core's own, by pixel frame
KEYFRAMES = OWN + "keyframes"       # the same, to be put behind those that the user's conditioning has
CLOCK = ClipTimeline(Fraction(24))
RATIO = 4                           # pixel frames of a latent, but of a clip's first


@dataclass(frozen=True)
class MiniMaxH3(JointBackbone):
    supported: ClassVar[str] = "MiniMax H3"
    sound_family: ClassVar[str] = "minimax h3"
    sound_rate: ClassVar[int] = CLOCK.sound_rate
    sound_shape: ClassVar[tuple[int, ...]] = (1, 32, 2, 0)
    name: str = "MiniMax H3"
    fps: int = 24
    chunk_frames: int = 124
    overlap_frames: int = 22
    grid: int = 32
    size: tuple[int, int] = (1344, 768)
    audio_shape: tuple[int, int] | None = (1, 2)
    audio_condition: str | None = SPEECH

    @classmethod
    def of(cls, model) -> "MiniMaxH3 | None":
        return cls() if type(model.model.diffusion_model).__name__ == "MiniMaxH3Model" else None

    def latent_channels(self, base) -> int:
        """ComfyUI says the sound's, which has more."""
        return base.diffusion_model.latents_dim

    def timeline(self, fps: Fraction) -> Timeline:
        return ClipTimeline(fps)

    def text_width(self, base) -> int:
        return base.diffusion_model.condition_proj.in_features

    def vision_encoder(self, base) -> None:
        return None

    def fps_note(self, fps: Fraction) -> str:
        return "" if fps == self.fps else (f"{self.name} counts time at {self.fps} fps; at {float(fps):g} fps lips and "
                                           "motion run at the wrong speed")

    def window(self, clock: Timeline, first_latent: int, latents: int) -> tuple[int, int]:
        return clock.first_frame(first_latent), clock.frames_for_latents(latents)

    def check_handover(self, handover) -> None:
        if handover.handover_frames(1):
            raise ValueError(f"model: {self.name} goes on from latents that passed, whose clips begin where its VAE's "
                             "do; frames that are encoded again would not. Set Latent Stitch to 'stitch', or remove it")

    def speech_guider(self) -> type[SpeechGuider]:
        raise ValueError(f"model: {self.name} has speech, text and picture in one attention, and no prediction without "
                         "speech. Use CFG Guider or Basic Guider")

    def lay_out_conditions(self, entry, techniques, position, shape) -> dict:
        """The condition with the layout's clean frames as core's keyframes, behind those that are there."""
        latents = shape[2]
        layout, _ = lay_out(Layout.of_chunk(latents), techniques, position)
        for span in layout.spans:
            if span.latents is not None:
                check_shape(span, (shape[1], *shape[3:]))
        own = [{"resolved_frame_index": frame_at(time, latents), "latent": part}
               for span in layout.spans if span.latents is not None
               for time, part in zip(span.times, span.latents.split(1, 2), strict=True)]
        entry = dict(entry)
        keyframes = [*(entry.get(CORE) or ()), *entry.pop(KEYFRAMES, ()), *own]
        entry.pop(SPEECH, None)
        return {**entry, CORE: keyframes} if keyframes else entry

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> H3Call:
        call = H3Call.bind(executor, args, kwargs)
        if not restricts_visibility(techniques):
            return call
        latents = call.picture.shape[2]
        layout, visibility = lay_out_call(Layout.of_chunk(latents), techniques, position, call.transformer_options)
        added = sum(len(span.times) for span in layout.spans if span.latents is not None)
        starts, tokens, total = call.frame_starts(latents, added)
        return call.with_attention(torch.compiler.disable(split_queries(
            call.transformer_options, visibility, latents + added, tokens, lambda: total, starts), recursive=False))

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """The latents handed over open the chunk and are held; the picture is the first chunk's first keyframe, as this
        model was trained. Speech behind the chunk is a keyframe of sound."""
        fps, latents = request.fps or Fraction(self.fps), request.latents
        samples, mask = request.open_with(request.context, comfy.latent_formats.LatentFormat())
        frames, keyframes = CLOCK.frames_for_latents(latents), []
        if request.context is None and request.reference is not None:
            keyframes.append({"resolved_frame_index": 0, "latent": request.reference})
        packed = self.pack(request, samples, mask, Fraction(0), frames / fps)
        if request.seconds_ahead and request.audio is not None and request.encode_sound is not None:
            behind = self.encode_sound(request, frames / fps, request.seconds_ahead)
            keyframes.append({"resolved_frame_index": frames, "audio_latent": behind})
        given: dict[str, Any] = {KEYFRAMES: keyframes} if keyframes else {}
        return ChunkInputs(**packed, conditions=given)


def frame_at(time: float, latents: int) -> float:
    """The pixel frame at which a layout's time stands, from the chunk's first: outside the chunk 4 frames to a latent;
    the last latent is its last frame."""
    last = latents - 1
    if time < 0:
        return time * RATIO
    if time >= last:
        return CLOCK.frames_for_latents(latents) - 1 + (time - last) * RATIO
    whole = int(time)
    return CLOCK.first_frame(whole) + (time - whole) * CLOCK.cycle[whole % CLOCK.step]
