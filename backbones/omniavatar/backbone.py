"""OmniAvatar (Gan et al. 2025) as a backbone: how a layout, a chunk and speech reach its model.

Clean frames ride along as tokens, as on every Wan; like the known frames that it was trained with they keep the step's
own timestep, and a channel says that they are known. Their audio features are zeros, as the reference's.
"""
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import comfy.latent_formats
import torch
from torch import Tensor

from ...networks.omniavatar.audio import pack_frames
from ...networks.omniavatar.settings import CHUNK_FRAMES, FPS, OVERLAP_FRAMES, RATIO, SIZES, SPEECH_LAYERS, chunk_frames
from ...techniques.layout import Span
from ...techniques.timeline import frames_of
from ..audio.speech import Speech
from ..backbone import ChunkInputs, ChunkRequest
from ..frame_conditions import Cut
from ..speech_guider import SpeechGuider
from ..wan.base import Wan
from ..wan.call import WanCall
from .guider import TextFirstGuider
from .model import AUDIO, OmniAvatar
from .speech import FAMILY


@dataclass(frozen=True)
class OmniAvatarBackbone(Wan):
    memory: ClassVar[str] = "joint"
    supported: ClassVar[str] = "OmniAvatar 14B and 1.3B"
    frame_conditions: ClassVar = {**Wan.frame_conditions, "audio": Cut(2, per_latent=1, first=1, core_cuts=True)}
    encoder: ClassVar[str] = "OmniAvatar Speech with wav2vec2-base-960h"
    name: str = "OmniAvatar"
    fps: int = FPS
    chunk_frames: int = CHUNK_FRAMES
    overlap_frames: int = OVERLAP_FRAMES
    size: tuple[int, int] = SIZES[0]
    audio_shape: tuple[int, int] | None = None
    audio_condition: str | None = AUDIO
    handover: str = "re-encode"

    @classmethod
    def of(cls, model) -> "OmniAvatarBackbone | None":
        if not isinstance(model.model, OmniAvatar):
            return None
        width = model.model.diffusion_model.audio_proj.proj.in_features
        return cls(audio_shape=(SPEECH_LAYERS, width // (RATIO * (SPEECH_LAYERS + 1))))

    def speech_guider(self) -> type[SpeechGuider]:
        return TextFirstGuider

    def chunk_frames_at(self, width: int, height: int) -> int:
        return chunk_frames(width, height)

    def check_speech(self, speech: Speech, clock) -> None:
        super().check_speech(speech, clock)
        if (clock.fps, speech.rate_hz, speech.family) != (Fraction(FPS), FPS, FAMILY):
            raise ValueError(f"plan, audio_features: got {float(clock.fps):g} fps and speech features at "
                             f"{speech.rate_hz:g} Hz{f' ({speech.family})' if speech.family else ''}, but {self.name} "
                             f"was trained at {FPS} of both. Set fps of Plan Take to 0, the model's own, and use "
                             "OmniAvatar Speech")

    def audio_for(self, speech: Speech, clock, first_latent: int, latents: int) -> Tensor:
        """(1, 4 C, latents, 1, 1): what leaves the encoder, and all its hidden states. The window's first latent is one
        pixel frame, whose sound stands for four."""
        rows = speech.frame_features(clock, first_latent * RATIO, frames_of(latents, RATIO))
        frames = torch.cat([rows[-1:], rows]).transpose(0, 1).flatten(1)
        return pack_frames(frames[None]).transpose(1, 2)[..., None, None]

    def check_video_reference(self, audio: bool) -> None:
        """What is said in it is added to its tokens, as to any others."""

    def with_video(self, alone: WanCall, span: Span, process_in) -> WanCall:
        """Known by the last channel, beside the take's picture."""
        latents = alone.latents(span, process_in)[:1]
        picture = alone.x[:1, latents.shape[1]:-1, :1]      # the same in all conditions
        x = torch.cat([latents, picture.expand(-1, -1, latents.shape[2], -1, -1), torch.zeros_like(latents[:, :1])], 1)
        return alone.change(x=x, extra={} if span.audio is None else {"audio": span.audio.to(x)})

    @staticmethod
    def mark_finished(x: Tensor, finished: int) -> Tensor:
        """The last channel is 0 where a frame is given."""
        known = torch.zeros_like(x[:, -1:, :finished])
        return torch.cat([x[:, :-1], torch.cat([known, x[:, -1:, finished:]], 2)], 1)

    @staticmethod
    def with_clean_frames(call: WanCall, layout, process_in) -> WanCall:
        parts = [call.latents(span, process_in) for span in layout.spans if span.latents is not None]
        if not parts:
            return call
        own = [] if call.time_dim_concat is None else [call.time_dim_concat]
        beside = torch.cat(own + parts, dim=2)
        timestep = call.timestep
        if timestep.ndim == 2 and timestep.shape[1] > 1:    # of a stream, in which what is clean stands at level 0
            timestep = torch.cat([timestep, timestep.new_zeros(len(timestep), beside.shape[2])], 1)
        return call.change(time_dim_concat=beside, timestep=timestep)

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """What is known, the picture or the last chunk's frames, opens the latent and is masked out."""
        if request.reference is None:
            raise ValueError("reference: OmniAvatar makes a picture talk, and none came. Connect one")
        known = request.reference if request.context is None else request.context
        samples, mask = request.open_with(known, comfy.latent_formats.Wan21())
        conditions, uncond = {"reference_latents": [request.reference]}, {}
        if request.audio is not None:
            conditions[AUDIO], uncond[AUDIO] = request.audio, torch.zeros_like(request.audio)
        return ChunkInputs(samples, noise_mask=mask, conditions=conditions, uncond=uncond)
