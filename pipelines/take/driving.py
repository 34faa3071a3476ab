"""A driving video: what a person in the take is to do, frame by frame, from videos of any length and rate.

Its parts (pose, face, background, mask) have one clock; a chunk reads the frames beside its own when it is made, so
memory does not grow with the video, and a resumed take reads the same ones.
"""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ...techniques.protocols import ChunkFrames
from ...techniques.timeline import Timeline
from ..frames_at_times import FrameSource

AT_END = ("refuse", "hold", "loop", "back and forth")
PARTS = ("pose", "face", "background", "mask")


@dataclass(frozen=True, eq=False)
class FramesBeside:
    """The frames of `source` at `times` in seconds, in any order."""
    source: FrameSource
    times: tuple[Fraction, ...]

    def read(self, fit: Callable[[Tensor], Tensor]) -> Tensor:
        rising = sorted(set(self.times))
        fitted = {time: fit(frame) for time, frame in zip(rising, self.source.at(rising), strict=True)}
        return torch.stack([fitted[time] for time in self.times])


@dataclass(frozen=True, eq=False)
class DrivingVideo:
    """`sources` by part; pose is always there and says how long it is. `at_end`: what comes where the take is longer.

    Raises ValueError where the parts are not of one length.
    """
    sources: Mapping[str, FrameSource]
    at_end: str = "refuse"

    def __post_init__(self):
        rate = self.sources["pose"].fps
        own = self.frames_at(rate)
        for part, source in self.sources.items():
            frames = own if source.seconds is None else frames_in(source.seconds, rate)
            if abs(frames - own) > max(Fraction(1), rate / source.fps):       # a frame of the slower of the two
                raise ValueError(f"{part}: lasts {float(frames / rate):.2f} s ({frames} frames at the pose video's "
                                 f"rate), the pose video {float(own / rate):.2f} s ({own}). Make all parts from the "
                                 "same stretch of one video")

    def frames_at(self, fps: Fraction) -> int:
        """How many pixel frames it drives at a take's rate."""
        seconds = self.sources["pose"].seconds
        assert seconds is not None
        return frames_in(seconds, fps)

    def check_length(self, frames: int, fps: Fraction) -> None:
        """Raises ValueError for a take of so many frames that goes on behind its end, where it is to be refused."""
        own = self.frames_at(fps)
        if self.at_end == "refuse" and frames > own + 1:     # a rounding of one frame
            raise ValueError(f"driving: the take has {frames} frames ({float(frames / fps):.2f} s), the driving video "
                             f"ends after {own} ({float(own / fps):.2f} s). Give a longer one, set at_end of Driving "
                             "Video to hold, loop or back and forth, or shorten the take with max_seconds")

    def times(self, timeline: Timeline, first: int, latents: int) -> tuple[Fraction, ...]:
        """In seconds of the video, for each pixel frame of a chunk that begins at frame number `first` of the take and
        whose first latent is counted as one frame."""
        return self.times_at(timeline, frames_of_chunk(timeline, first, latents))

    def times_at(self, timeline: Timeline, frames: Iterable[int]) -> tuple[Fraction, ...]:
        own = self.frames_at(timeline.fps)
        return tuple(timeline.seconds_at(self.place(frame, own)) for frame in frames)

    def place(self, frame: int, own: int) -> int:
        """Which of its `own` frames stands beside pixel frame `frame` of the take."""
        if self.at_end == "loop":
            return frame % own
        if self.at_end == "back and forth" and own > 1:     # its first and last frame are not doubled
            there = frame % (2 * own - 2)
            return min(there, 2 * own - 2 - there)
        return min(frame, own - 1)

    def beside(self, timeline: Timeline, first: int, latents: int) -> dict[str, ChunkFrames]:
        """By part, the frames of one chunk."""
        times = self.times(timeline, first, latents)
        return {part: FramesBeside(source, times) for part, source in self.sources.items()}

    def identity(self) -> Any:
        """What tells its contents by value; which of them a chunk has, its times tell."""
        return {part: source.identity() for part, source in self.sources.items()}

    def sound(self) -> dict[str, Any] | None:
        """AUDIO of the first part that has sound."""
        found = (self.sources[part].sound() for part in ("pose", "background", "face") if part in self.sources)
        return next((sound for sound in found if sound is not None), None)


def frames_of_chunk(timeline: Timeline, first: int, latents: int) -> list[int]:
    """Pixel frames of the take; those before its beginning stand for its first."""
    return [max(frame, 0) for frame in range(first, first + timeline.frames_for_latents(latents))]


def frames_in(seconds: Fraction, fps: Fraction) -> int:
    return max(round(seconds * fps), 1)


def check_mask(source: FrameSource, every: Sequence[Fraction]) -> None:
    """Raises ValueError for a mask that marks nothing, or everything, in all frames; reads no further than needed."""
    some = rest = False
    for frame in source.at(every):
        marked = frame.mean(-1) > 0.5
        some, rest = some or bool(marked.any()), rest or not bool(marked.all())
        if some and rest:
            return
    raise ValueError("mask: it is " + ("all white, so nothing is left of the background" if some else
                                       "all black, so there is nobody to draw") + ". White is where the person is")
