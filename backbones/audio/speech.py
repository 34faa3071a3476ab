"""Speech features on the wire, as the backbones read them: one or several audio streams, and the feature frames of one
chunk."""
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...techniques.audio.features import slot_steps
from ...techniques.audio.recording_digests import first_difference, sound_marks
from ...techniques.speaker_masks import check_masks, fitted_masks
from ...techniques.timeline import Timeline
from .families import RATE
from .feature_file import FeatureFile

CORE_RATE_HZ = 50.0   # of core's own encoders, which do not say theirs
SPARE_SECONDS = 0.5   # speech features may end this much before the take


@dataclass(frozen=True, eq=False)
class Speech:
    """`streams`: per audio stream its layers (1, S, C) at `rate_hz` frames a second. `speakers`: masks (1, K, H, W) of
    those who have the streams, where there are several. `family`: what made the features."""
    streams: tuple[Sequence[Tensor], ...]
    rate_hz: float
    family: str = ""
    speakers: Tensor | None = None
    files: tuple[FeatureFile, ...] = ()
    samples: int | None = None      # of the speech at 16 kHz, which silence may follow in the features
    marks: tuple[str, ...] = ()     # of the recording, where its encoder left them
    encoder: Any = None             # of sound into latents, where the features are the recording's samples
    ahead: Fraction = Fraction(0)   # of speech behind a chunk that it is given as well, seconds

    @classmethod
    def of(cls, features: dict) -> "Speech":
        """From an AUDIO_ENCODER_OUTPUT, core's or Lodestar's."""
        return cls(features.get("audio_streams") or (features["encoded_audio_all_layers"],),
                   float(features.get("rate_hz", CORE_RATE_HZ)), features.get("family", ""),
                   features.get("speaker_masks"), features.get("files", ()), features.get("audio_samples"),
                   features.get("sound_marks", ()), features.get("sound_encoder"),
                   Fraction(features.get("seconds_ahead", 0)))

    @property
    def layers(self) -> int:
        return len(self.streams[0])

    @property
    def width(self) -> int:
        return self.streams[0][0].shape[-1]

    @property
    def seconds(self) -> float:
        """How much speech they cover."""
        encoded = self.streams[0][0].shape[1] / self.rate_hz
        return encoded if self.samples is None else min(encoded, self.samples / RATE)

    def ends_before(self, seconds: float) -> bool:
        return self.seconds < seconds - SPARE_SECONDS

    def silence_note(self, seconds: float) -> str:
        """A line where it ends before `seconds` do."""
        return "" if not self.ends_before(seconds) else (
            f"the speech ends after {self.seconds:.2f} s, the rest of the {seconds:.2f} s is silent")

    def check_length(self, seconds: float) -> None:
        if self.ends_before(seconds):
            raise ValueError(f"audio_features: they cover {self.seconds:.2f} s of a take of {seconds:.2f} s. Encode "
                             "the same audio that Plan Take has; core's Whisper node stops at 30 s, Lodestar's does "
                             "not")

    def check_recording(self, speech: dict) -> None:
        """Refuse the features of another recording than `speech`, the plan's."""
        if (apart := first_difference(self.marks, sound_marks(speech))) is not None:
            raise ValueError(f"audio_features, plan: two recordings, which differ from {apart:.2f} s on. Connect the "
                             "same speech to Plan Take and to what makes the features; another sound for the video "
                             "(the same with music) belongs into Plan Take's soundtrack")

    def speakers_on(self, picture: Tensor | None, height: int, width: int, grid: int) -> Tensor | None:
        """The masks cut as `picture` (B, H, W, C) is for the take's size; ValueError where one covers no token of
        `grid` pixels then, or where they were drawn on another picture."""
        if self.speakers is None:
            return None
        drawn = self.speakers.shape[-2:]
        if picture is not None and picture.shape[1:3] != drawn:
            raise ValueError(f"reference: got a picture of {picture.shape[2]}x{picture.shape[1]}, but the speakers "
                             f"were marked on one of {drawn[1]}x{drawn[0]}. Connect the same picture to both")
        masks = fitted_masks(self.speakers[0], height, width)[None]
        check_masks(masks, height // grid, width // grid)
        return masks

    def frame_features(self, clock: Timeline, first_frame: int, frames: int) -> Tensor:
        """One feature frame per pixel frame of the first audio stream (layers, frames, C)."""
        found = torch.cat([clock.feature_frames(layer, self.rate_hz, first_frame, frames) for layer in self.streams[0]])
        self.release()
        return check_finite(found)

    def samples_between(self, begin: Fraction, seconds: Fraction) -> Tensor:
        """Of a recording its samples (1, S, channels) from `begin` on, each within half a sample; silence where it has
        none."""
        first, count = round(begin * Fraction(self.rate_hz)), round(seconds * Fraction(self.rate_hz))
        own = self.streams[0][0][:, max(first, 0):max(first + count, 0)]
        before = min(max(-first, 0), count)
        return torch.nn.functional.pad(own, (0, 0, before, count - before - own.shape[1]))

    def encode(self, samples: Tensor, begin: Fraction, seconds: Fraction) -> Tensor:
        """The sound latents of a part of some samples (1, S, channels)."""
        first = round(begin * Fraction(self.rate_hz))
        return self.encoder(samples[:, first:first + round(seconds * Fraction(self.rate_hz))])

    def audio_slots(self, first_frame: int, frames: int, stride: int) -> Tensor:
        """The audio slots around each pixel frame (1, streams, frames, slots, layers, C), `stride` steps per frame."""
        steps = slot_steps(first_frame, frames, stride, self.streams[0][0].shape[1])
        slots = torch.stack([torch.stack([layer[0, steps] for layer in stream], 2) for stream in self.streams])
        self.release()
        return check_finite(slots[None].float())

    def release(self) -> None:
        for file in self.files:
            file.release()


def check_finite(features: Tensor) -> Tensor:
    """`features` as they are; ValueError where one is no number."""
    if not features.isfinite().all():
        raise ValueError("audio_features: got NaN or infinite features. The speech encoder, or its file, is broken; "
                         "load another")
    return features
