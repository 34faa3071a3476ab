"""One clock for a take: seconds, pixel frames, latent frames and audio steps convert here and nowhere else.

All conversions are exact (integers and fractions); a causal video VAE is assumed, whose first latent is one pixel
frame and whose every further latent is `temporal_ratio` of them.
"""
import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


def frames_of(latents: int, temporal_ratio: int = 4) -> int:
    """Pixel frames that so many latents of a causal VAE decode to: 1 -> 1, 21 -> 81."""
    return 0 if latents <= 0 else (latents - 1) * temporal_ratio + 1


@dataclass(frozen=True)
class Timeline:
    fps: Fraction
    temporal_ratio: int = 4

    @property
    def step(self) -> int:
        """Lengths of chunks and overlaps differ by so many latents, or a multiple."""
        return 1

    def check_overlap(self, frames: int, chunks: int) -> None:
        """ValueError for an overlap in pixel frames with which no chunk can begin, where a take has so many `chunks`;
        elsewhere it is rounded down."""

    def plan_note(self, new_latents: int) -> str:
        """A line for a plan whose chunks advance by so many latents."""
        return ""

    def frames_for_samples(self, samples: int, sample_rate: int) -> int:
        """Pixel frames that cover `samples` audio samples: the last frame may end after the speech, never before."""
        return math.ceil(Fraction(samples) * self.fps / sample_rate)

    def frames_for_seconds(self, seconds: Fraction | float) -> int:
        return math.ceil(Fraction(seconds) * self.fps)

    def seconds_at(self, frame: int) -> Fraction:
        return Fraction(frame) / self.fps

    def latents_for_frames(self, frames: int) -> int:
        """The fewest latents that decode to at least `frames` pixel frames (0 for 0)."""
        return 0 if frames <= 0 else math.ceil((frames - 1) / self.temporal_ratio) + 1

    def latents_within_frames(self, frames: int) -> int:
        """The most latents that decode to at most `frames` pixel frames: 81 -> 21, 80 -> 20, 13 -> 4, 0 -> 0."""
        return 0 if frames <= 0 else (frames - 1) // self.temporal_ratio + 1

    def frames_for_latents(self, latents: int) -> int:
        return frames_of(latents, self.temporal_ratio)

    def first_frame(self, latent: int) -> int:
        """First pixel frame that latent number `latent` of the take decodes to."""
        return frames_of(latent, self.temporal_ratio)

    def last_frame(self, latent: int) -> int:
        """Last pixel frame that a latent decodes to: where LongCat's audio slots of it end, and those of a chunk behind
        it begin."""
        return latent * self.temporal_ratio

    def even_frames(self, first_latent: int, latents: int) -> tuple[int, int]:
        """(first, count) of feature frames where every latent has `temporal_ratio`, the take's first one too: latent i
        has frames 4i to 4i + 3, as Wan-S2V counts its speech."""
        return first_latent * self.temporal_ratio, latents * self.temporal_ratio

    def distance_in_latents(self, frames: int) -> int:
        """A lookahead distance D in pixel frames as d = floor(D / r) latent frames (Seo et al. 2025, section 3.3)."""
        return frames // self.temporal_ratio

    def feature_frames(self, features: Tensor, rate_hz: float, first_frame: int, frames: int) -> Tensor:
        """Audio features (L, S, C) at `rate_hz` -> (L, frames, C), one feature frame per pixel frame from `first_frame`
        on.

        Frame f is read at f / fps seconds by linear interpolation between its two neighbours. Frames before the start
        repeat the first step; frames after the end of the speech are zeros, which is what the models were trained on.
        """
        steps = features.shape[1]
        seconds = torch.arange(first_frame, first_frame + frames, dtype=torch.float64) / float(self.fps)
        position = seconds * rate_hz
        inside = (position <= steps - 1 + 1e-9).to(features)[None, :, None]
        left = position.clamp(0, steps - 1).floor().long()
        right = (left + 1).clamp(max=steps - 1)
        weight = (position.clamp(0, steps - 1) - left).to(features)[None, :, None]
        rows = features[:, left] * (1 - weight) + features[:, right] * weight
        return rows * inside


@dataclass(frozen=True)
class ClipTimeline(Timeline):
    """The clock of a VAE that encodes clips, each alone: latents are `cycle` pixel frames, again and again.

    A video is whole clips and the first `tail` latents of another. A chunk begins where a clip does, so an overlap has
    that shape as well. `sound_rate`: latents a second of the sound beside.
    """
    cycle: tuple[int, ...] = (1, 4, 4, 4, 4)
    tail: int = 2
    sound_rate: int = 40

    @property
    def step(self) -> int:
        return len(self.cycle)

    def latents_for_frames(self, frames: int) -> int:
        if frames <= 0:
            return 0
        clips = max(0, math.ceil((frames - sum(self.cycle[:self.tail])) / sum(self.cycle)))
        return clips * self.step + self.tail

    def latents_within_frames(self, frames: int) -> int:
        within = (frames - sum(self.cycle[:self.tail])) // sum(self.cycle)
        return 0 if within < 0 else within * self.step + self.tail

    def frames_for_latents(self, latents: int) -> int:
        clips, rest = divmod(max(latents, 0), self.step)
        return clips * sum(self.cycle) + sum(self.cycle[:rest])

    def first_frame(self, latent: int) -> int:
        return self.frames_for_latents(latent)

    def last_frame(self, latent: int) -> int:
        return self.frames_for_latents(latent + 1) - 1

    def check_overlap(self, frames: int, chunks: int) -> None:
        latents = self.latents_within_frames(frames)
        if self.frames_for_latents(latents) == frames and (frames or chunks == 1):
            return
        near = [count for count in (latents, latents + self.step if latents else self.tail) if count]
        choice = " or ".join(f"{self.frames_for_latents(count)} ({count} latents)" for count in dict.fromkeys(near))
        raise ValueError(f"overlap_frames: got {frames}, at which no clip of this model's VAE ends: the next chunk "
                         f"would begin in the middle of one. Use {choice}")

    def plan_note(self, new_latents: int) -> str:
        """Where picture and sound meet: every 51 frames at 24 frames and 40 sound latents a second."""
        frames = self.frames_for_latents(new_latents)
        meets = math.lcm(sum(self.cycle), (self.sound_rate / self.fps).denominator)
        return "" if frames % meets == 0 else (
            f"picture and sound latents meet every {meets} frames, chunks advance by {frames}: each chunk's speech is "
            "encoded from where its picture begins, so lips stay right; a generated sound would be cut between latents")
