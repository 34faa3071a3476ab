"""Flicker: brightness that goes up and down from frame to frame, in grey levels (0..255).

How far each cell of a grid is from the mean of the frames before and after it. A steady change, such as a fade or a
slow motion, is none; light that alternates by 2 levels is 2. Fast motion adds some.
"""
from torch import Tensor

from .track import Previous, Track, cells, luma

GRID = 16


class Flicker:
    def __init__(self, fps: float):
        self.track = Track(fps)
        self.track.add([float("nan")])      # of the first frame and of the last nothing can be said
        self._previous = Previous(2)

    def add(self, frames: Tensor) -> None:
        light = self._previous.join(cells(luma(frames) * 255, GRID, GRID))
        if len(light) > 2:
            self.track.add((light[1:-1] - (light[:-2] + light[2:]) / 2).abs().mean((1, 2)))

    def result(self) -> dict:
        return self.track.result()
