"""What drives a take whose story changes the driving video: one follows the other, each from its time on, to the frame.

A chunk that shows the border between two reads both. What comes before it in the take does not depend on a later one.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from ...techniques.protocols import ChunkFrames
from ...techniques.timeline import Timeline
from ..frames_at_times import FrameSource
from .driving import DrivingVideo, FramesBeside, frames_of_chunk


@dataclass(frozen=True, eq=False)
class FramesInTurn:
    """Those of several videos, one after the other."""
    pieces: tuple[FramesBeside, ...]

    def read(self, fit: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([piece.read(fit) for piece in self.pieces])


@dataclass(frozen=True, eq=False)
class DrivingClip:
    """`video` drives from `seconds` of the take on; `where`: how a person finds it."""
    seconds: Fraction
    video: DrivingVideo
    where: str


@dataclass(frozen=True, eq=False)
class DrivingStory:
    """Clips in order of time, the first of them at 0. Raises ValueError where nothing drives the take before the first
    of them, or where they have different parts."""
    clips: tuple[DrivingClip, ...]

    def __post_init__(self):
        first = self.clips[0]
        if first.seconds:
            raise ValueError(f"{first.where}: nothing drives the take before it. Add a driving line at 0:00, or "
                             "connect Driving Video to driving")
        for clip in self.clips:
            if set(clip.video.sources) != set(self.sources):
                raise ValueError(f"{clip.where}: it has {_names_of(clip.video.sources)}, {first.where} has "
                                 f"{_names_of(self.sources)}. Give all of them the same parts, such as [driving "
                                 "poses.mp4, face face.mp4]")

    @property
    def sources(self) -> Mapping[str, FrameSource]:
        """By part, the first clip's."""
        return self.clips[0].video.sources

    def starts(self, fps: Fraction) -> list[int]:
        """The take's pixel frame at which each clip begins."""
        return [round(clip.seconds * fps) for clip in self.clips]

    def frames_at(self, fps: Fraction) -> int:
        """How many pixel frames there are until the last clip's end."""
        return self.starts(fps)[-1] + self.clips[-1].video.frames_at(fps)

    def check_length(self, frames: int, fps: Fraction) -> None:
        """Raises ValueError for a clip that ends before the next one begins, or before a take of so many frames does,
        where it is to be refused."""
        for clip, (start, end) in zip(self.clips, pairwise([*self.starts(fps), frames]), strict=True):
            wanted, own = min(end, frames) - start, clip.video.frames_at(fps)
            if clip.video.at_end == "refuse" and wanted > own + 1:      # a rounding of one frame
                raise ValueError(f"{clip.where}: it is to drive {wanted} frames ({float(wanted / fps):.2f} s) and ends "
                                 f"after {own} ({float(own / fps):.2f} s). Give a longer one, let the next begin "
                                 "earlier, or say hold, loop or back and forth: of a line as in [driving wave.mp4, "
                                 "loop], of Driving Video in its at_end")

    def times(self, timeline: Timeline, first: int, latents: int) -> tuple[Any, ...]:
        """What drives a chunk, as DrivingVideo.times: of each clip that it shows its contents and their times."""
        return tuple((clip.video.identity(), clip.video.times_at(timeline, frames))
                     for clip, frames in self._clips_of(timeline, first, latents))

    def beside(self, timeline: Timeline, first: int, latents: int) -> dict[str, ChunkFrames]:
        """By part, the frames of one chunk."""
        shown = [(clip.video.sources, clip.video.times_at(timeline, frames))
                 for clip, frames in self._clips_of(timeline, first, latents)]
        return {part: FramesInTurn(tuple(FramesBeside(sources[part], times) for sources, times in shown))
                for part in self.sources}

    def identity(self) -> Any:
        """Of all chunks: nothing; each tells its own by its times."""
        return "story"

    def sound(self) -> dict[str, Any] | None:
        """AUDIO of a clip that drives the whole take; None of several, each of which has its own."""
        return self.clips[0].video.sound() if len(self.clips) == 1 else None

    def _clips_of(self, timeline: Timeline, first: int, latents: int) -> list[tuple[DrivingClip, list[int]]]:
        """The clips that drive a chunk, each with its own pixel frames, counted from where it begins."""
        starts = self.starts(timeline.fps)

        def clip_at(frame: int) -> int:
            return max(index for index, start in enumerate(starts) if start <= frame)

        return [(self.clips[clip], [frame - starts[clip] for frame in frames])
                for clip, frames in groupby(frames_of_chunk(timeline, first, latents), clip_at)]


Driving = DrivingVideo | DrivingStory


def _names_of(parts: Mapping[str, Any]) -> str:
    return " and ".join(sorted(parts, key=list(parts).index))
