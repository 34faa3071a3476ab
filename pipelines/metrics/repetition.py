"""Repetition: motion that comes back after a fixed time, and frames that are the reference picture again (copy-paste).

Over a coarse picture s: r(k) = 1 - mean |s(t) - s(t+k)|^2 / (2 var s), the autocorrelation at a lag of k frames. A loop
has r = 1 at its period. Lags from half a second to 20 s, and at most half of the video, so that two periods are seen.
"""
import torch
from torch import Tensor

from .track import Track, cells, finite, luma

GRID = 16
LEAST_SECONDS, MOST_SECONDS = 0.5, 20.0
STRONG = 0.6            # a peak of at least this height ...
RISE = 0.25             # ... that stands this far above the valley before it is a period
COPIED = 0.02           # a frame this near to the reference (root mean square over cells, 0..1) is a copy of it


class Repetition:
    def __init__(self, fps: float):
        self.fps, self.frames = float(fps), 0
        self._lags = torch.arange(1, max(round(MOST_SECONDS * fps), 2) + 1)
        self._sums, self._pairs = torch.zeros(len(self._lags)).double(), torch.zeros(len(self._lags)).double()
        self._kept = torch.zeros(0, GRID * GRID).double()
        self._mean, self._spread = torch.zeros(GRID * GRID).double(), 0.0

    def add(self, frames: Tensor) -> None:
        seen = cells(luma(frames), GRID, GRID).flatten(1).double()
        self._gather(seen)
        joined = torch.cat([self._kept, seen])
        squares = torch.cdist(seen, joined, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        before = torch.arange(len(self._kept), len(joined))[:, None] - self._lags
        there = before >= 0
        self._sums += (squares.gather(1, before.clamp(min=0)) * there).sum(0)
        self._pairs += there.sum(0)
        self._kept = joined[-len(self._lags):].clone()

    def _gather(self, seen: Tensor) -> None:
        """Mean and summed squared distance to it over all frames so far (Chan's update)."""
        step, total = seen.mean(0) - self._mean, self.frames + len(seen)
        self._spread += float(((seen - seen.mean(0)) ** 2).sum() + (step ** 2).sum() * self.frames * len(seen) / total)
        self._mean = self._mean + step * (len(seen) / total)
        self.frames = total

    def autocorrelation(self) -> Tensor:
        """r of lags 1, 2, ... up to half of the video. Empty where nothing moves."""
        twice = 2 * self._spread / max(self.frames, 1)
        if twice < 1e-6:
            return torch.zeros(0)
        known = int((self._lags <= self.frames // 2).sum())
        return 1 - self._sums[:known] / self._pairs[:known].clamp(min=1) / twice

    def result(self) -> dict:
        r = self.autocorrelation()
        first = max(round(LEAST_SECONDS * self.fps), 2)
        peaks = [lag for lag in range(first, len(r))
                 if r[lag - 1] >= r[lag - 2] and r[lag - 1] > r[lag] and r[lag - 1] - r[:lag].min() >= RISE]
        best = max((float(r[lag - 1]) for lag in peaks), default=float("nan"))
        period = next((lag for lag in peaks if float(r[lag - 1]) >= max(STRONG, 0.95 * best)), None)
        return {"period_frames": period, "period_seconds": period / self.fps if period else None,
                "strength": finite(float(r[period - 1]) if period else best)}


class Likeness:
    """Each frame against the reference picture (1, H, W, 3) of the same proportions: correlation of coarse pictures."""

    def __init__(self, fps: float, reference: Tensor):
        self.track, self.copies = Track(fps), 0
        self._reference = cells(luma(reference), GRID, GRID).flatten(1)

    def add(self, frames: Tensor) -> None:
        seen = cells(luma(frames), GRID, GRID).flatten(1)
        self.copies += int((((seen - self._reference) ** 2).mean(1).sqrt() < COPIED).sum())
        seen, reference = (part - part.mean(1, keepdim=True) for part in (seen, self._reference))
        self.track.add((seen * reference).sum(1) / (seen.norm(dim=1) * reference.norm(dim=1)).clamp(min=1e-6))

    def result(self) -> dict:
        return {**self.track.result(), "copied_share": self.copies / max(self.track.count, 1)}
