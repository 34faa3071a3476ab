"""Motion: how much of it there is (dynamic degree) and how smooth it is, from dense optical flow on a small picture.

Pyramidal Lucas-Kanade, so that nothing has to be downloaded. Degree: mean speed over the picture, in percent of its
width a second. Smoothness: 1 - sum |v(t+1) - v(t)| / sum (|v(t+1)| + |v(t)|), v the flow: 1 for even motion, 0 where
every frame goes back.
"""
import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from .track import Previous, Track, finite, luma

LONG_SIDE = 96          # pixels of the small picture
LEVELS, ROUNDS, WINDOW = 3, 2, 9
STIFFNESS = 1e-4        # where there is no texture, there is no motion
LEAST_SPEED = 0.02      # pixels of the small picture a frame: below, flow is noise


def small(frames: Tensor) -> Tensor:
    """Frames (T, H, W, 3) -> brightness (T, 1, h, w) with a longer side of at most LONG_SIDE."""
    grey, scale = luma(frames)[:, None], LONG_SIDE / max(frames.shape[1:3])
    if scale >= 1:
        return grey
    size = [max(round(side * scale), 16) for side in frames.shape[1:3]]
    return interpolate(grey, size, mode="bilinear", antialias=True)


def optical_flow(first: Tensor, second: Tensor) -> Tensor:
    """Where each pixel of `first` (T, 1, h, w) has gone in `second`: (T, 2, h, w), x then y, in pixels."""
    flow = first.new_zeros(len(first), 2, *_size(first, LEVELS - 1))
    for level in reversed(range(LEVELS)):
        size = _size(first, level)
        if flow.shape[-2:] != size:
            flow = interpolate(flow, size, mode="bilinear") * 2
        one, two = (interpolate(picture, size, mode="bilinear", antialias=True) for picture in (first, second))
        gradient = torch.gradient(one, dim=(3, 2))
        for _ in range(ROUNDS):
            flow = flow + _step(gradient, _warp(two, flow) - one)
    return flow


def _size(picture: Tensor, level: int) -> tuple[int, int]:
    height, width = picture.shape[-2:]
    return max(height >> level, 8), max(width >> level, 8)


def _warp(picture: Tensor, flow: Tensor) -> Tensor:
    """`picture` read where `flow` points."""
    height, width = picture.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = (columns + flow[:, 0]) * (2 / (width - 1)) - 1
    y = (rows + flow[:, 1]) * (2 / (height - 1)) - 1
    return grid_sample(picture, torch.stack([x, y], -1), padding_mode="border", align_corners=True)


def _step(gradient: tuple[Tensor, ...], change: Tensor) -> Tensor:
    """The least-squares motion of a window around each pixel, at most 1 pixel."""
    gx, gy = gradient
    xx, xy, yy, xt, yt = avg_pool2d(torch.cat([gx * gx, gx * gy, gy * gy, gx * change, gy * change], 1), WINDOW, 1,
                                    WINDOW // 2).split(1, 1)
    xx, yy = xx + STIFFNESS, yy + STIFFNESS
    step = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], 1) / (xx * yy - xy * xy)
    return step / step.norm(dim=1, keepdim=True).clamp(min=1)


class Motion:
    def __init__(self, fps: float):
        self.fps = float(fps)
        self.track = Track(fps)     # mean speed, percent of the width a second
        self._pictures, self._flows = Previous(), Previous()
        self._turns = self._speeds = 0.0

    def add(self, frames: Tensor) -> None:
        pictures = self._pictures.join(small(frames))
        if len(pictures) < len(frames) + 1:
            self.track.add([math.nan])
        if len(pictures) < 2:
            return
        flow = optical_flow(pictures[:-1], pictures[1:])
        flow = flow * (flow.norm(dim=1, keepdim=True) > LEAST_SPEED)
        self.track.add(flow.norm(dim=1).mean((1, 2)) * (self.fps * 100 / pictures.shape[-1]))
        flow = self._flows.join(flow)
        speed = flow.norm(dim=1)
        self._turns += float((flow[1:] - flow[:-1]).norm(dim=1).sum())
        self._speeds += float((speed[1:] + speed[:-1]).sum())

    def result(self) -> dict:
        return {**self.track.result(),
                "smoothness": finite(1 - self._turns / self._speeds if self._speeds else math.nan)}
