"""Windowed Frechet distance (Seo et al. 2025, figure 5): how far each second of a video has gone.

As there, against features of real pictures and normalised to the first second; without any, against the first second
itself, where 1 is as far as two of its own frames are apart. Ours takes any features; those below need no network, so
values can be compared with each other and with no published FID.
"""
import math

import torch
from torch import Tensor

from .track import Track, cells, luma

COLOUR_GRID, EDGE_GRID, DIRECTIONS, EDGE_PICTURE = 8, 4, 8, 64
LEAST_SPREAD = 1e-5


def picture_features(frames: Tensor) -> Tensor:
    """Frames (T, H, W, 3) -> (T, 320): coarse colours, and how strong edges of each direction are in each region."""
    colours = cells(frames, COLOUR_GRID, COLOUR_GRID).flatten(1)
    down, right = torch.gradient(cells(luma(frames), EDGE_PICTURE, EDGE_PICTURE), dim=(1, 2))
    place = (torch.atan2(down, right) % math.pi) * (DIRECTIONS / math.pi)
    near = (place[..., None] - torch.arange(DIRECTIONS)).abs()
    share = (1 - torch.minimum(near, DIRECTIONS - near)).clamp(min=0)
    edges = cells(torch.hypot(down, right)[..., None] * share, EDGE_GRID, EDGE_GRID).flatten(1)
    return torch.cat([colours, 4 * edges], 1)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Between the Gaussians of two sets of features (N, D) and (M, D); exact, without any matrix of D x D."""
    means = first.double().mean(0), second.double().mean(0)
    rows = [(part.double() - mean) / math.sqrt(len(part)) for part, mean in zip((first, second), means, strict=True)]
    shared = torch.linalg.matrix_norm(rows[0] @ rows[1].T, "nuc")   # trace of sqrt(S1 S2)
    return max(float(((means[0] - means[1]) ** 2).sum() + sum((part ** 2).sum() for part in rows) - 2 * shared), 0.0)


class WindowedFrechet:
    """`real`: features (M, D) of real pictures, or None for the first second. Fed features (T, D), not frames."""

    def __init__(self, fps: float, real: Tensor | None = None):
        self.window = max(round(fps), 2)
        self.track = Track(fps / self.window)
        self._real, self._unit = real, math.nan
        self._waiting: Tensor | None = None

    def add(self, features: Tensor) -> None:
        waiting = features if self._waiting is None else torch.cat([self._waiting, features])
        while len(waiting) >= self.window:
            self._measure(waiting[:self.window])
            waiting = waiting[self.window:]
        self._waiting = waiting.clone()

    def result(self) -> dict:
        """A last piece of a second is left out."""
        return self.track.result()

    def _measure(self, rows: Tensor) -> None:
        if self._real is None:
            self._real = rows.clone()
            self._unit = max(2 * float(rows.double().var(0, correction=0).sum()), LEAST_SPREAD)
        distance = frechet_distance(rows, self._real)
        if math.isnan(self._unit):
            self._unit = max(distance, LEAST_SPREAD)
        self.track.add([distance / self._unit])
