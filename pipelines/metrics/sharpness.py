"""Sharpness: the variance of the Laplacian of the brightness of each frame.

In grey levels squared (0..255). It depends on what is shown, so only its course within one video, or the same scene in
two videos of one size, says something: falling is blur, rising is grain or over-sharpening.
"""
from torch import Tensor

from .track import Track, luma


def sharpness(frames: Tensor) -> Tensor:
    """Frames (T, H, W, 3), at least 3 x 3 pixels -> (T,)."""
    grey = luma(frames) * 255
    inside = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return (around - 4 * inside).flatten(1).var(1, correction=0)


class Sharpness:
    def __init__(self, fps: float):
        self.track = Track(fps)

    def add(self, frames: Tensor) -> None:
        self.track.add(sharpness(frames))

    def result(self) -> dict:
        return self.track.result()
