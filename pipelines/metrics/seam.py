"""Seams: whether the picture changes more at chunk borders than the motion around them would make it.

The jump at a frame is its change from the frame before, relative to the mean change of the 6 frames on either side; the
score is the mean jump at borders over the mean jump inside. 1: borders are like other frames.
"""
import math
from collections import deque
from collections.abc import Sequence

from torch import Tensor

from .track import Previous, Track, finite

AROUND_FRAMES = 6
LEAST_CHANGE = 0.1      # grey levels: a still picture has no ratio


class Seams:
    """`borders`: the first frame of each chunk but the first, ascending."""

    def __init__(self, fps: float, borders: Sequence[int]):
        self.borders = frozenset(borders)
        self.jumps: dict[int, float] = {}
        self.track = Track(fps)     # the change from the frame before, in grey levels
        self._inside = [0.0, 0]
        self._previous = Previous()
        self._near: deque[tuple[int, float]] = deque(maxlen=2 * AROUND_FRAMES + 1)
        self._frame = self._settled = 1     # the next one that comes, the next one to be compared

    def add(self, frames: Tensor) -> None:
        joined = self._previous.join(frames)
        changes = (joined[1:] - joined[:-1]).abs().mean((1, 2, 3)).mul(255).tolist()
        self.track.add([math.nan] * (len(frames) - len(changes)) + changes)
        for change in changes:
            self._near.append((self._frame, change))
            self._frame += 1
            self._settle(self._frame - AROUND_FRAMES)

    def result(self) -> dict:
        self._settle(self._frame)
        at_borders = sum(self.jumps.values()) / len(self.jumps) if self.jumps else math.nan
        inside = self._inside[0] / self._inside[1] if self._inside[1] else math.nan
        return {"score": finite(at_borders / inside if inside else math.nan), "at_borders": finite(at_borders),
                "inside": finite(inside), "jumps": {str(frame): round(jump, 3) for frame, jump in self.jumps.items()},
                "change": self.track.result()}

    def _settle(self, end: int) -> None:
        """Compare each frame before `end` with those around it: all of them are there."""
        for frame in range(self._settled, end):
            self._compare(frame)
        self._settled = max(self._settled, end)

    def _compare(self, frame: int) -> None:
        change = next(change for at, change in self._near if at == frame)
        around = [other for at, other in self._near
                  if at != frame and abs(at - frame) <= AROUND_FRAMES and at not in self.borders]
        if not around:
            return
        jump = max(change, LEAST_CHANGE) / max(sum(around) / len(around), LEAST_CHANGE)
        if frame in self.borders:
            self.jumps[frame] = jump
        else:
            self._inside = [self._inside[0] + jump, self._inside[1] + 1]
