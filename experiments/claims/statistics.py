"""Statistics of the claims: paired bootstrap over characters, drift per minute, lip sync; NaN is unknown."""
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES, LEVEL = 10_000, 0.95


class Interval(NamedTuple):
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def interval(values: np.ndarray, resamples: int = RESAMPLES) -> Interval:
    """Mean of (characters,) with its percentile bootstrap interval, the same on every run. Of few characters it would
    be too narrow, so it is widened as Student's t is wider than the normal (Hesterberg). Characters of which nothing is
    known are left out; fewer than three say nothing."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    count, mean = len(known), float(known.mean()) if len(known) else np.nan
    if count < 3:
        return Interval(mean, -np.inf, np.inf)
    low, high = stats.bootstrap((known,), np.mean, n_resamples=resamples, confidence_level=LEVEL, method="percentile",
                                rng=np.random.default_rng(0)).confidence_interval
    wider = student_quantile(count - 1) / stats.norm.ppf((1 + LEVEL) / 2) * (count / (count - 1)) ** 0.5
    return Interval(mean, mean + wider * float(low - mean), mean + wider * float(high - mean))


def student_quantile(freedom: int) -> float:
    """The quantile of (1 + LEVEL) / 2 of Student's t."""
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def slopes(positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(characters, M) over (M,) -> (characters,): least squares, of what is known; NaN for fewer than two points."""
    found = np.full(len(values), np.nan)
    for row, line in enumerate(np.asarray(values, np.float64)):
        known = np.isfinite(line)
        x = np.asarray(positions, np.float64)[known]
        spread = np.square(x - x.mean()).sum() if known.sum() > 1 else 0
        if spread > 0:
            found[row] = ((x - x.mean()) * (line[known] - line[known].mean())).sum() / spread
    return found


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """NaN where one of them never changes."""
    first, second = first - first.mean(), second - second.mean()
    size = np.sqrt(np.square(first).sum() * np.square(second).sum())
    return float((first * second).sum() / size) if size > 1e-9 else np.nan


def by_lag(seen: np.ndarray, true: np.ndarray, reach: int) -> np.ndarray:
    """Correlations (2 * reach + 1,) of what is seen (S, T) with what was to be done (S, T + 2 * reach), which begins
    `reach` frames before, at lags -reach..reach: a positive lag is a mouth that comes after its sound."""
    frames = seen.shape[1]
    return np.array([correlation(seen, true[:, reach - lag:reach - lag + frames]) for lag in range(-reach, reach + 1)])


def best_lag(correlations: np.ndarray) -> float:
    """In frames; NaN where no correlation is known."""
    if not np.isfinite(correlations).any():
        return np.nan
    return float(np.nanargmax(correlations) - len(correlations) // 2)
