"""What all measures of a video share: brightness, coarse cells, and the track of one number per frame with its drift.

A measure takes frames (T, H, W, 3), float 0..1, in pieces of any length: the answer does not depend on how the video
was cut. What it keeps is bounded, whatever the length.
"""
import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

CURVE_POINTS = 512
LUMA = (0.2126, 0.7152, 0.0722)     # BT.709, on the values as they are shown


def luma(frames: Tensor) -> Tensor:
    """Brightness (T, H, W) of frames (T, H, W, 3)."""
    red, green, blue = frames.unbind(-1)
    return red * LUMA[0] + green * LUMA[1] + blue * LUMA[2]


def cells(picture: Tensor, rows: int, columns: int) -> Tensor:
    """Means over a grid: (T, H, W) -> (T, rows, columns), (T, H, W, C) -> (T, rows, columns, C)."""
    if picture.ndim == 3:
        return adaptive_avg_pool2d(picture[:, None], (rows, columns))[:, 0]
    return adaptive_avg_pool2d(picture.movedim(-1, 1), (rows, columns)).movedim(1, -1)


def finite(value: float) -> float | None:
    """`value` as JSON knows it: None where there is no number."""
    return float(value) if math.isfinite(value) else None


class Track:
    """One number per frame: mean, extremes and slope are exact, the curve has at most CURVE_POINTS means.

    NaN is a frame without a value. `rate_hz`: values per second.
    """

    def __init__(self, rate_hz: float):
        self.rate_hz, self.count = float(rate_hz), 0
        self._second = max(round(self.rate_hz), 1)
        self._opening: list[float] = []
        self._closing: deque[float] = deque(maxlen=self._second)
        self._least, self._most = math.inf, -math.inf
        self._moments = np.zeros(5)     # of time t in minutes and value v: n, t, tt, v, tv
        self._width = 1                 # values per point of the curve
        self._sums, self._seen = np.zeros(CURVE_POINTS), np.zeros(CURVE_POINTS)
        self._lows, self._highs = np.full(CURVE_POINTS, math.inf), np.full(CURVE_POINTS, -math.inf)

    def add(self, values: Tensor | np.ndarray | list[float]) -> None:
        numbers = np.asarray(values, dtype=np.float64)
        places = np.arange(self.count, self.count + len(numbers))
        self.count += len(numbers)
        self._opening += numbers[:max(self._second - len(self._opening), 0)].tolist()
        self._closing.extend(numbers.tolist())
        known = np.isfinite(numbers)
        numbers, places = numbers[known], places[known]
        if not len(numbers):
            return
        self._least, self._most = min(self._least, numbers.min()), max(self._most, numbers.max())
        minutes = places / self.rate_hz / 60
        self._moments += [len(numbers), minutes.sum(), (minutes ** 2).sum(), numbers.sum(), (minutes * numbers).sum()]
        while places[-1] // self._width >= CURVE_POINTS:
            self._fold()
        points = places // self._width
        for gather, curve, what in ((np.add, self._sums, numbers), (np.add, self._seen, 1),
                                    (np.minimum, self._lows, numbers), (np.maximum, self._highs, numbers)):
            gather.at(curve, points, what)

    def _fold(self) -> None:
        """Make every two points of the curve one."""
        self._width *= 2
        for gather, curve, empty in ((np.add, self._sums, 0), (np.add, self._seen, 0),
                                     (np.minimum, self._lows, math.inf), (np.maximum, self._highs, -math.inf)):
            curve[:CURVE_POINTS // 2] = gather(curve[::2], curve[1::2])
            curve[CURVE_POINTS // 2:] = empty

    @property
    def mean(self) -> float:
        return self._moments[3] / self._moments[0] if self._moments[0] else math.nan

    @property
    def slope_per_minute(self) -> float:
        """The drift: least squares over all frames. NaN for fewer than two."""
        n, t, tt, v, tv = self._moments
        spread = n * tt - t * t
        return (n * tv - t * v) / spread if n > 1 and spread > 0 else math.nan

    def result(self) -> dict[str, Any]:
        """Everything as JSON knows it; None where there is no number.

        The curve: the middle of each point in seconds, the mean, the least and the most of the frames in it.
        """
        points = np.flatnonzero(self._seen)
        seconds = (points * self._width + (np.minimum(self._width, self.count - points * self._width) - 1) / 2)
        return {"mean": finite(self.mean), "least": finite(self._least), "most": finite(self._most),
                "first_second": _mean(self._opening), "last_second": _mean(self._closing),
                "slope_per_minute": finite(self.slope_per_minute), "frames": int(self._moments[0]),
                "curve": {"seconds": np.round(seconds / self.rate_hz, 3).tolist(),
                          "values": _short(self._sums[points] / self._seen[points]),
                          "least": _short(self._lows[points]), "most": _short(self._highs[points])}}


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


class Previous:
    """Pairs of adjacent frames over pieces: the last `depth` frames are carried into the next piece."""

    def __init__(self, depth: int = 1):
        self.depth = depth
        self._kept: Tensor | None = None

    def join(self, frames: Tensor) -> Tensor:
        """`frames` (T, ...) behind what is carried; 0 to `depth` frames more than T."""
        joined = frames if self._kept is None else torch.cat([self._kept, frames])
        self._kept = joined[-self.depth:].clone()
        return joined
