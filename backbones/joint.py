"""Models that make picture and sound in one go: what ComfyUI packs into one latent, and speech that is held in it.

The sampler's latent is NestedTensor(picture, sound). Given speech is the sound, with a noise mask of 0, so that the
model makes the picture that belongs to it; the finished video has the recording and never the decoded sound.
"""
import logging
from abc import abstractmethod
from fractions import Fraction
from typing import Any, ClassVar

import torch
from comfy.model_base import LTXAV
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ..techniques.layout import Layout
from ..techniques.timeline import Timeline
from .audio.speech import Speech, check_finite
from .backbone import OWN, Backbone, ChunkRequest
from .speech_guider import SpeechGuider

logger = logging.getLogger("lodestar")

SPEECH = OWN + "speech"     # among a condition's values: (1, 1) with speech, (1, 2) without
CACHES = ("easycache", "lazycache")     # in transformer_options: core's nodes
LONGEST = 1025              # latent frames: a layout of more is never asked for


class JointGuider(SpeechGuider):
    """A negative prompt has the speech as well, which is in the latent; one prediction is made as if it were not."""

    def choose_uncond(self, name: str, uncond: dict) -> dict:
        return {SPEECH: torch.zeros(1, 1)} if name in self.uncond_names else {}


class JointBackbone(Backbone):
    """`sound_family`: what its speech is known by. `sound_shape`: of one sound latent, with 0 along its time."""
    sound_family: ClassVar[str]
    sound_rate: ClassVar[int]           # latents a second
    sound_shape: ClassVar[tuple[int, ...]]
    encoder: ClassVar[str] = "Joint Speech with its audio VAE"

    def check_rolling(self) -> None:
        raise ValueError(f"model: {self.name} makes picture and sound in one latent, and Rolling Window rolls pictures "
                         "alone. Use an ordinary sampler, or another model")

    def check_stream(self) -> None:
        self.check_rolling()

    def check_video_reference(self, audio: bool) -> None:
        raise ValueError(f"model: {self.name} makes picture and sound in one latent, and a video of the person would "
                         "have no place in it. Use Lookahead Anchor with a picture")

    def speech_guider(self) -> type[SpeechGuider]:
        return JointGuider

    @abstractmethod
    def window(self, clock: Timeline, first_latent: int, latents: int) -> tuple[int, int]:
        """(first, count) of the pixel frames that a chunk's latents are in the model."""

    def check_speech(self, speech: Speech, clock: Timeline) -> None:
        if speech.encoder is None or speech.family != self.sound_family:
            came = speech.family or f"{speech.layers} layers of width {speech.width}"
            raise ValueError(f"audio_features: got {came}, and {self.name} takes speech as sound latents. Use "
                             f"{self.encoder}")

    def check_silence(self) -> None:
        logger.info("%s makes up its sound where no speech came; the video has the plan's and not that one. Connect "
                    "Joint Speech for lips that follow it", self.name)

    def audio_for(self, speech: Speech, clock: Timeline, first_latent: int, latents: int) -> Tensor:
        """The recording (1, S, channels) from the chunk's first pixel frame on."""
        first, frames = self.window(clock, first_latent, latents)
        return check_finite(speech.samples_between(clock.seconds_at(first), clock.seconds_at(frames) + speech.ahead))

    def check_options(self, base, model_options) -> None:
        """A ComfyUI that cuts both streams of a packed latent into windows can cache both, too."""
        options = model_options.get("transformer_options", {})
        windows, caches = model_options.get("context_handler") is not None, any(name in options for name in CACHES)
        found = [name for name, there, kind in (("context windows", windows, base), ("EasyCache", caches, LTXAV))
                 if there and not hasattr(kind, "map_context_window_to_modalities")]
        if found:
            raise ValueError(f"model: {found[0]} of this ComfyUI cannot part picture and sound of {self.name}. Remove "
                             "that node, or use a newer ComfyUI")

    def trim(self, made, x):
        return [made[0][:, :, :x[0].shape[2]], *made[1:]]

    def extra_latents(self, model, noise_shape, techniques, position) -> int:
        layout = Layout.of_chunk(LONGEST)
        for technique in techniques:
            layout = technique.layout(layout, position)
        return sum(span.latents.numel() for span in layout.spans if span.latents is not None)

    def sound_latents(self, seconds: Fraction) -> int:
        return round(seconds * self.sound_rate)

    def encode_sound(self, request: ChunkRequest, begin: Fraction, seconds: Fraction) -> Tensor:
        """The sound latents of a part of the chunk's speech, as many as belong to it."""
        assert request.audio is not None and request.encode_sound is not None
        latents, dim = request.encode_sound(request.audio, begin, seconds), self.sound_shape.index(0)
        return latents.narrow(dim, 0, min(self.sound_latents(seconds), latents.shape[dim]))

    def pack(self, request: ChunkRequest, samples: Tensor, mask: Tensor | None, begin: Fraction, seconds: Fraction
             ) -> dict[str, Any]:
        """ChunkInputs' samples and noise mask: the picture's, and the speech `begin` seconds into the chunk's. Without
        speech the model makes the sound, too."""
        given = request.audio is not None and request.encode_sound is not None
        if given:
            sound = self.encode_sound(request, begin, seconds)
        else:
            shape = [size or self.sound_latents(seconds) for size in self.sound_shape]
            sound = torch.zeros(shape)
        if mask is None and not given:
            return {"samples": NestedTensor((samples, sound))}
        masks = (torch.ones_like(samples[:, :1]) if mask is None else mask,
                 torch.zeros_like(sound) if given else torch.ones_like(sound))
        return {"samples": NestedTensor((samples, sound)), "noise_mask": NestedTensor(masks)}
