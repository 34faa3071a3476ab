"""Freezes: stretches in which no part of the picture changes, as when a model copies its context.

A frame stands still when no cell of the grid changes by more than STILL, which is above what an
encoder adds; from half a second on that is a freeze. A pause in speech is none: heads move on.
"""
from torch import Tensor

from .track import Previous, cells

GRID = 16
STILL = 0.75            # grey levels (0..255)
LEAST_SECONDS = 0.5
LISTED = 32             # the longest are named


class Freezes:
    def __init__(self, fps: float):
        self.frames = self.frozen_frames = self.count = 0
        self.stretches: list[tuple[int, int]] = []      # (first, end) frames, end exclusive, the longest
        self._least = max(round(LEAST_SECONDS * fps), 2)
        self._start = 0                                 # of the stretch that is not over
        self._previous = Previous()

    def add(self, frames: Tensor) -> None:
        joined = self._previous.join(frames)
        moved = cells((joined[1:] - joined[:-1]).abs().mean(-1) * 255, GRID, GRID).amax((1, 2)) > STILL
        first = self.frames + len(frames) - len(moved)
        for frame in (moved.nonzero()[:, 0] + first).tolist():
            self._end(frame)
            self._start = frame
        self.frames += len(frames)

    def result(self) -> dict:
        self._end(self.frames)
        self._start = self.frames
        return {"share": self.frozen_frames / max(self.frames, 1), "frozen_frames": self.frozen_frames,
                "count": self.count, "stretches": sorted(self.stretches)}

    def _end(self, end: int) -> None:
        if end - self._start < self._least:
            return
        self.count += 1
        self.frozen_frames += end - self._start
        self.stretches.append((self._start, end))
        self.stretches = sorted(self.stretches, key=lambda stretch: stretch[0] - stretch[1])[:LISTED]
