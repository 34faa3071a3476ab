"""What a live take is made from: a take's inputs, whose speech is encoded as it comes, a few seconds at a time."""
import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..backbones.audio.recipes import encode_as_trained
from ..backbones.audio.resampler import resample
from ..backbones.audio.speech import Speech
from ..backbones.light_decoder import check_light_decoder
from ..backbones.socket_values import name_input
from ..pipelines.take.live_sound import LiveSound
from ..pipelines.take.plan import Chunk
from ..techniques.audio.waveform import mix_to_mono
from .take_inputs import TakeInputs

logger = logging.getLogger("lodestar")

HISTORY = Fraction(8)   # seconds of speech before a window that are encoded with it


@dataclass(frozen=True, eq=False)
class LiveInputs(TakeInputs):
    """`encoder`: an AUDIO_ENCODER. `sound`: what it is given. `light_decoder`: a VAE that decodes instead of `vae`."""
    encoder: Any = None
    sound: LiveSound | None = None
    light_decoder: Any = None

    @property
    def decoder(self) -> Any:
        return self.vae if self.light_decoder is None else self.light_decoder

    def audio_for(self, chunk: Chunk) -> Tensor | None:
        """Of the sound up to the chunk's end, and of none behind it: later sound changes nothing here."""
        if self.sound is None or self.encoder is None or self.backbone.audio_shape is None:
            return None
        clock = self.plan.timeline
        start = max(chunk.first_latent - clock.latents_for_frames(clock.frames_for_seconds(HISTORY)), 0)
        begin = clock.seconds_at(start * clock.temporal_ratio)
        end = clock.seconds_at(clock.first_frame(chunk.end_latent))
        waveform = self.sound.read(self.sound.samples_at(begin), self.sound.samples_at(end))
        speech = self.encode_sound(waveform, self.sound.sample_rate)
        return self.backbone.audio_for(speech, clock, chunk.first_latent - start, chunk.latents)

    def encode_sound(self, waveform: Tensor, sample_rate: int) -> Speech:
        """(channels, samples) as the family was trained with it."""
        speech = resample(mix_to_mono(waveform[None]), sample_rate)[0]
        with name_input("audio_encoder"):
            return Speech.of(encode_as_trained(self.backbone, self.encoder, speech))

    def check_vae(self) -> None:
        super().check_vae()
        if self.light_decoder is not None:
            with name_input("light_decoder"):
                check_light_decoder(self.light_decoder, self.model.model.latent_format, self.backbone.name)

    def check_speech(self) -> None:
        """An encoder of another family is known before the first sound comes."""
        if self.backbone.audio_shape is None:
            if self.encoder is not None:
                logger.warning("audio_encoder: %s has no audio conditioning; it is not used", self.backbone.name)
        elif self.encoder is None:
            raise ValueError(f"audio_encoder: {self.backbone.name} is driven by speech. Connect Load Audio Encoder")
        else:
            self.backbone.check_speech(self.encode_sound(torch.zeros(1, 16000), 16000), self.plan.timeline)
