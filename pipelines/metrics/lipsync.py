"""Lip sync: does the mouth open when there is sound, and how many frames late.

Correlation of a track of mouth openings with the loudness of the speech, at each lag. A positive lag is a mouth that
comes after its sound. It is no SyncNet: it knows open and shut, not which sound; 0.3 to 0.7 is usual for real speech.
"""
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from torch import Tensor

from .track import finite, luma

REACH_FRAMES = 15
FLOOR = 1e-5            # mean square of what counts as silence: -50 dB
LEAST_PAIRS = 25
NEEDED_SPREAD = 1e-12


class SpeechEnergy:
    """Mono samples in pieces of any length -> one loudness per video frame: log10 of the mean square, at least -5."""

    def __init__(self, fps: float, sample_rate: int):
        self._step = sample_rate / fps
        self._frame = self._sample = 0
        self._rest = np.zeros(0)

    def add(self, samples: np.ndarray) -> np.ndarray:
        """The loudness of each frame that is complete now."""
        return self._cut(np.concatenate([self._rest, np.asarray(samples, dtype=np.float64)]), end=False)

    def finish(self) -> np.ndarray:
        """The last frame, where a part of it has sound."""
        return self._cut(self._rest, end=True)

    def _cut(self, samples: np.ndarray, end: bool) -> np.ndarray:
        found = []
        while True:
            first, last = (round((self._frame + side) * self._step) - self._sample for side in (0, 1))
            if last > len(samples) and not (end and first < len(samples)):
                break
            found.append(np.log10(np.mean(samples[first:last] ** 2) + FLOOR))
            self._frame += 1
        used = min(round(self._frame * self._step) - self._sample, len(samples))
        self._rest, self._sample = samples[used:], self._sample + used
        return np.array(found)


def loudness(pieces: Iterable[np.ndarray], sample_rate: int, fps: float) -> Iterator[float]:
    """Per video frame, of mono samples that begin with the first frame."""
    energy = SpeechEnergy(fps, sample_rate)
    for piece in pieces:
        yield from energy.add(piece)
    yield from energy.finish()


def mouth_opening(frames: Tensor, box: Sequence[int]) -> Tensor:
    """How much of a mouth's box is the dark inside of a mouth, 0..1, per frame (T,).

    Dark is below 0.65 of the skin, which is the box's upper-quartile brightness, and fully so below 0.35. `box`: top,
    left, bottom, right in pixels. A plain estimate: a beard, a shadow or a head that leaves the box mislead it.
    """
    top, left, bottom, right = box
    inside = luma(frames[:, top:bottom, left:right]).flatten(1)
    skin = inside.quantile(0.75, dim=1, keepdim=True).clamp(min=1e-3)
    return ((0.65 * skin - inside) / (0.3 * skin)).clamp(0, 1).mean(1)


class LipSync:
    """Fed openings and loudness of the same frames; NaN where nothing is known."""

    def __init__(self, fps: float):
        self.fps = float(fps)
        self.lags = np.arange(-REACH_FRAMES, REACH_FRAMES + 1)
        self._sums = np.zeros((len(self.lags), 6))      # n, x, y, xx, yy, xy
        self._kept = np.zeros((2, 0))

    def add(self, openings: Tensor | np.ndarray, energies: Tensor | np.ndarray) -> None:
        new = np.stack([np.asarray(openings, dtype=np.float64), np.asarray(energies, dtype=np.float64)])
        joined = np.concatenate([self._kept, new], 1)
        kept, total = self._kept.shape[1], joined.shape[1]
        for row, lag in enumerate(self.lags):
            back = abs(lag)
            first = max(kept, back)
            if first >= total:
                continue
            now, before = slice(first, total), slice(first - back, total - back)
            x, y = (joined[0, now], joined[1, before]) if lag >= 0 else (joined[0, before], joined[1, now])
            known = np.isfinite(x) & np.isfinite(y)
            x, y = x[known], y[known]
            self._sums[row] += [len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y]
        self._kept = joined[:, -REACH_FRAMES:].copy()

    def result(self) -> dict:
        """All None where mouth or sound never changes, or too few frames are known."""
        n, x, y, xx, yy, xy = self._sums.T
        n = np.maximum(n, 1)
        spread = (xx / n - (x / n) ** 2) * (yy / n - (y / n) ** 2)
        usable = (self._sums[:, 0] >= LEAST_PAIRS) & (spread > NEEDED_SPREAD)
        r = np.where(usable, (xy / n - x * y / n ** 2) / np.sqrt(np.where(usable, spread, 1)), np.nan)
        if not usable.any():
            return {"correlation": None, "lag_frames": None, "lag_seconds": None, "confidence": None,
                    "at_no_lag": None, "by_lag": None}
        best = int(np.nanargmax(r))
        return {"correlation": float(r[best]), "lag_frames": int(self.lags[best]),
                "lag_seconds": float(self.lags[best] / self.fps), "confidence": float(r[best] - np.nanmedian(r)),
                "at_no_lag": finite(r[REACH_FRAMES]),
                "by_lag": {"lags": self.lags.tolist(), "correlations": [finite(value) for value in r]}}
