"""Colour drift: how far the colours of a frame are from those of the first second, as CIEDE2000.

CIEDE2000 after Sharma, Wu and Dalal (2005), D65. About 1 can just be seen side by side, 5 is another colour. It is
taken per cell of a coarse grid, of the mean light in it: motion within a cell does not count, a tint of a region does.
"""
import math

import torch
from torch import Tensor

from .track import Track, cells

GRID = 4
ENOUGH_PIXELS = 240    # of the shorter side, for the mean of a cell
WHITE = (0.95047, 1.0, 1.08883)
XYZ_OF_RGB = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def linear_light(rgb: Tensor) -> Tensor:
    """sRGB 0..1 as shown -> linear light 0..1."""
    return torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def lab_of_light(light: Tensor) -> Tensor:
    """Linear RGB (..., 3) -> CIE L*a*b* (..., 3), D65, float64."""
    xyz = light.double() @ torch.tensor(XYZ_OF_RGB, dtype=torch.float64).T / torch.tensor(WHITE, dtype=torch.float64)
    root = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """The difference (...,) of two colours in L*a*b* (..., 3)."""
    (l1, a1, b1), (l2, a2, b2) = first.double().unbind(-1), second.double().unbind(-1)
    stretch = 1.5 - 0.5 * _chroma_weight((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % math.tau, torch.atan2(b2, a2) % math.tau
    grey = c1 * c2 == 0
    turn = torch.where(grey, 0, (h2 - h1 + math.pi) % math.tau - math.pi)
    apart = (h1 - h2).abs() > math.pi + 1e-9
    hue = torch.where(grey, h1 + h2, (h1 + h2) / 2 + math.pi * apart) % math.tau
    lightness, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    degrees = torch.rad2deg(hue)
    tone = (1 - 0.17 * torch.cos(hue - math.radians(30)) + 0.24 * torch.cos(2 * hue)
            + 0.32 * torch.cos(3 * hue + math.radians(6)) - 0.20 * torch.cos(4 * hue - math.radians(63)))
    middle = (lightness - 50) ** 2
    d_l = (l2 - l1) / (1 + 0.015 * middle / torch.sqrt(20 + middle))
    d_c = (c2 - c1) / (1 + 0.045 * chroma)
    d_h = 2 * torch.sqrt(c1 * c2) * torch.sin(turn / 2) / (1 + 0.015 * chroma * tone)
    angle = math.radians(60) * torch.exp(-((degrees - 275) / 25) ** 2)
    blue = 2 * _chroma_weight(chroma) * torch.sin(angle)
    return torch.sqrt((d_l ** 2 + d_c ** 2 + d_h ** 2 - blue * d_c * d_h).clamp(min=0))


def _chroma_weight(chroma: Tensor) -> Tensor:
    return torch.sqrt(chroma ** 7 / (chroma ** 7 + 25.0 ** 7))


class ColourDrift:
    def __init__(self, fps: float):
        self.track = Track(fps)
        self._second = max(round(fps), 1)
        self._first: Tensor | None = None                   # L*a*b* of the first second
        self._waiting = torch.zeros(0, GRID, GRID, 3)       # linear light, until the first second is complete

    def add(self, frames: Tensor) -> None:
        apart = max(min(frames.shape[1:3]) // ENOUGH_PIXELS, 1)
        light = cells(linear_light(frames[:, ::apart, ::apart]), GRID, GRID)
        if self._first is None:
            self._waiting = torch.cat([self._waiting, light])
            if len(self._waiting) < self._second:
                return
            light = self._begin()
        self._measure(light)

    def result(self) -> dict:
        if self._first is None and len(self._waiting):
            self._measure(self._begin())
        return self.track.result()

    def _begin(self) -> Tensor:
        self._first = lab_of_light(self._waiting[:self._second].mean(0))
        return self._waiting

    def _measure(self, light: Tensor) -> None:
        assert self._first is not None
        self.track.add(ciede2000(lab_of_light(light), self._first.expand(len(light), -1, -1, -1)).mean((1, 2)))
