"""A report in five words: the figures that matter most, each good, to look at, or bad, and the worst moment.

The limits stand on the help page of Take Report; they are of talking people, and of one video alone. What is not in a
report is not judged.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate

GOOD, LOOK, BAD = "good", "look here", "bad"
FIGURES = 5


class Figure(NamedTuple):
    """One figure of a report. `seconds`: where it is worst, None where it has no moment."""
    name: str
    value: str
    word: str
    badness: float      # 0 is best; up to 1 is good, up to 2 to look at, above is bad
    seconds: float | None


def judge(report: dict[str, Any]) -> list[Figure]:
    """The first five that were measured: face, colour, sharpness, seams, lips, standing still, copies."""
    measures, video = report["measures"], report["video"]
    found = (face(measures), colour(measures), sharp(measures), seams(report), lips(measures, video["fps"]),
             still(measures, video["fps"]), copies(measures))
    return [figure for figure in found if figure is not None][:FIGURES]


def worst_of(figures: list[Figure]) -> Figure | None:
    """The worst figure that has a moment."""
    return max((figure for figure in figures if figure.seconds is not None), key=lambda figure: figure.badness,
               default=None)


def figure_of(name: str, value: str, amount: float, good: float, look: float, seconds: float | None) -> Figure:
    """`amount`: grows as it gets worse; good up to `good`, to look at up to `look`."""
    badness = amount / good if amount <= good else 1 + (amount - good) / (look - good)
    return Figure(name, value, GOOD if amount <= good else LOOK if amount <= look else BAD, max(badness, 0.0), seconds)


def face(measures: dict[str, Any]) -> Figure | None:
    """Whether the last second shows the same face: 1 less the cosine, whose own limit for one person is 0.36."""
    track = measures.get("identity")
    if not track or track["last_second"] is None:
        return None
    last = track["last_second"]
    return figure_of("same face", f"{last:.2f}", 1 - last, 0.45, 0.637, extreme_at(track, "least", min))


def colour(measures: dict[str, Any]) -> Figure | None:
    track = measures["colour_drift"]
    last = track["last_second"]
    return None if last is None else figure_of("colour drift", f"{last:.1f}", last, 2, 5,
                                               extreme_at(track, "most", max))


def sharp(measures: dict[str, Any]) -> Figure | None:
    """The last second's sharpness over the first's, either way."""
    track = measures["sharpness"]
    first, last = track["first_second"], track["last_second"]
    if not first or not last:
        return None
    return figure_of("sharpness", f"{last / first:.0%}", max(last / first, first / last) - 1, 0.25, 0.67,
                     extreme_at(track, "least", min) if last < first else extreme_at(track, "most", max))


def seams(report: dict[str, Any]) -> Figure | None:
    found = report["measures"].get("seams") or {}
    if not report["borders"] or found.get("score") is None:
        return None
    at = max(found["jumps"], key=found["jumps"].get, default=None)
    return figure_of("seams", f"{found['score']:.1f}", found["score"], 1.5, 2.5,
                     None if at is None else int(at) / report["video"]["fps"])


def lips(measures: dict[str, Any], fps: float) -> Figure | None:
    """How late or early the mouth is: SyncNet's word, else that of opening and loudness where they go together."""
    if scores := measures.get("syncnet"):
        seconds = scores["offset_frames"] / 25
    elif (found := measures.get("lip_sync")) and found["correlation"] >= 0.2:
        seconds = found["lag_frames"] / fps
    else:
        return None
    words = "in time" if not seconds else f"{abs(seconds) * 1000:.0f} ms {'late' if seconds > 0 else 'early'}"
    return figure_of("lips", words, abs(seconds), 0.08, 0.16, None)


def still(measures: dict[str, Any], fps: float) -> Figure | None:
    found = measures["freeze"]
    longest = max(found["stretches"], key=lambda stretch: stretch[1] - stretch[0], default=None)
    return figure_of("standing still", f"{found['share']:.0%}", found["share"], 0.02, 0.1,
                     None if longest is None else longest[0] / fps)


def copies(measures: dict[str, Any]) -> Figure | None:
    found = measures.get("likeness")
    return None if not found else figure_of("copied frames", f"{found['copied_share']:.0%}",
                                            found["copied_share"], 0.05, 0.25, None)


def extreme_at(track: dict[str, Any], name: str, pick: Callable) -> float | None:
    """When the curve is least or most."""
    values, seconds = track["curve"][name], track["curve"]["seconds"]
    return seconds[values.index(pick(values))] if values else None


def as_dict(figures: list[Figure]) -> list[dict[str, Any]]:
    return [{"name": figure.name, "value": figure.value, "word": figure.word, "seconds": figure.seconds}
            for figure in figures]


class Thumbnails:
    """Small pictures of a video at even distances, at most MOST of them, whatever its length."""
    MOST, WIDTH = 128, 200

    def __init__(self) -> None:
        self._frame, self._every, self._kept = 0, 1, list[tuple[int, Tensor]]()

    def add(self, frames: Tensor) -> None:
        """Frames (T, H, W, 3)."""
        for frame in frames:
            if self._frame % self._every == 0:
                height = max(round(self.WIDTH * frame.shape[0] / frame.shape[1]), 1)
                small = interpolate(frame.movedim(-1, 0)[None], (height, self.WIDTH), mode="bilinear", antialias=True)
                self._kept.append((self._frame, small[0].movedim(0, -1).mul(255).round().byte()))
            self._frame += 1
            if len(self._kept) > self.MOST:
                self._every *= 2
                self._kept = self._kept[::2]

    def at(self, frame: float) -> Tensor | None:
        """(h, WIDTH, 3) uint8, the nearest one."""
        return min(self._kept, key=lambda kept: abs(kept[0] - frame))[1] if self._kept else None
