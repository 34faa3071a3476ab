"""SyncNet's scores: confidence (LSE-C, Sync-C), distance (LSE-D, Sync-D) and the offset of mouth and sound, after Chung
and Zisserman, 2016, in one pass and in bounded memory.

As the authors do: 25 fps, the face's place in a running median of 13 frames, a crop of 1.4 times the face and somewhat
lower, distances at 31 offsets averaged over the video, zeros for sound beyond its ends. What differs: whoever calls
says where the face is (YuNet in a report; the authors have S3FD and a tracker that fills gaps), windows with a frame
without a face are left out, medians at the ends are of what is there, and no frame goes through a JPEG. Frames at
another rate are taken by time: each 25th of a second is the frame shown at its middle, as FFmpeg does.
"""
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pairwise_distance

from ...networks.syncnet import WINDOW_FRAMES, WINDOW_STEPS
from .mfcc import COEFFICIENTS, SAMPLE_RATE, STEP, SpeechMfcc

RATE_HZ, REACH_FRAMES = 25, 15
FRAME_SAMPLES, FRAME_STEPS = SAMPLE_RATE // RATE_HZ, SAMPLE_RATE // RATE_HZ // STEP
SMOOTHED_FRAMES, SIDE, GREY = 13, 224, 110
SCALE = 0.4         # how much of the face's size is added on each side
GROUP = 8           # windows that go through the network at once


class Embedder(Protocol):
    def of_sound(self, mfcc: Tensor) -> Tensor: ...
    def of_lips(self, crops: Tensor) -> Tensor: ...


class SyncNetScores:
    """Fed frames (T, H, W, 3) with their face boxes (T, 4): left, top, right, bottom in pixels, NaN without a face.

    `sound`: mono samples at 16 kHz from the first frame on, in pieces; read as far as the frames have come.
    """

    def __init__(self, network: Embedder, fps: Fraction, sound: Iterable[np.ndarray]):
        self._network, self._faces, self._sound = network, FaceCrops(fps), SoundWindows(network, sound)
        self._crops: list[Tensor | None] = []
        self._lips: deque[Tensor | None] = deque()      # of the windows that wait for sound to come
        self._window, self._windows, self._skipped = 0, 0, 0
        self._sums = torch.zeros(2 * REACH_FRAMES + 1, dtype=torch.float64)     # the earliest sound first

    def add(self, frames: Tensor, boxes: Tensor) -> None:
        for crop in self._faces.add(frames, boxes):
            self._crop(crop)

    def result(self) -> dict:
        """To be asked for once, at the end; all None where no window could be measured."""
        for crop in self._faces.finish():
            self._crop(crop)
        if len(self._crops) >= WINDOW_FRAMES:
            self._embed_lips()
        self._compare(end=True)
        counts = {"windows": self._windows, "skipped": self._skipped}
        if not self._windows:
            return {"confidence": None, "distance": None, "offset_frames": None, "offset_seconds": None, **counts,
                    "by_offset": None}
        distances = self._sums / self._windows
        best = int(distances.argmin())
        offset = REACH_FRAMES - best
        return {"confidence": float(distances.median() - distances[best]), "distance": float(distances[best]),
                "offset_frames": offset, "offset_seconds": offset / RATE_HZ, **counts,
                "by_offset": {"offsets": list(range(-REACH_FRAMES, REACH_FRAMES + 1)),
                              "distances": distances.flip(0).tolist()}}

    def _crop(self, crop: Tensor | None) -> None:
        self._crops.append(crop)
        if len(self._crops) == GROUP + WINDOW_FRAMES - 1:
            self._embed_lips()
            self._compare(end=False)

    def _embed_lips(self) -> None:
        """The embeddings of all windows of the crops that are kept; None where a face is missing."""
        count = len(self._crops) - WINDOW_FRAMES + 1
        whole = [all(crop is not None for crop in self._crops[first:first + WINDOW_FRAMES]) for first in range(count)]
        if any(whole):
            strip = torch.stack([torch.zeros(3, SIDE, SIDE) if crop is None else crop for crop in self._crops])
            rows = self._network.of_lips(strip)
            self._lips.extend(row if seen else None for row, seen in zip(rows, whole, strict=True))
        else:
            self._lips.extend([None] * count)
        self._crops = self._crops[count:]

    def _compare(self, end: bool) -> None:
        """Every window whose sound is known to the farthest offset; at the end all. The last window of the video does
        not count, as in the authors' code."""
        shown = self._window + len(self._lips) - 1
        while self._lips and (end or self._window + REACH_FRAMES < shown):
            limit = min(shown, self._sound.count(self._window + REACH_FRAMES + 1))
            if self._window < limit:
                self._add(self._lips[0], limit)
            self._sound.forget(self._window - REACH_FRAMES)
            self._lips.popleft()
            self._window += 1

    def _add(self, lips: Tensor | None, limit: int) -> None:
        if lips is None:
            self._skipped += 1
            return
        places = range(self._window - REACH_FRAMES, self._window + REACH_FRAMES + 1)
        nothing = torch.zeros_like(lips)
        sounds = torch.stack([self._sound.rows[place] if 0 <= place < limit else nothing for place in places])
        self._sums += pairwise_distance(lips.expand_as(sounds), sounds).double()
        self._windows += 1


class SoundWindows:
    """The embedding of the 0.2 s of sound that begin with each frame, as far as it is asked for."""

    def __init__(self, network: Embedder, pieces: Iterable[np.ndarray]):
        self.rows: dict[int, Tensor] = {}       # by the window's first frame
        self._network, self._pieces, self._ended = network, iter(pieces), False
        self._mfcc, self._steps = SpeechMfcc(), np.zeros((0, COEFFICIENTS))
        self._made = self._samples = 0

    def count(self, wanted: int) -> int:
        """How many windows there are: at least `wanted`, fewer only where the sound ends."""
        while (found := min(self._made, max(self._samples // FRAME_SAMPLES - WINDOW_FRAMES, 0))) < wanted:
            if self._ended:
                return found
            piece = next(self._pieces, None)
            self._ended = piece is None
            if piece is not None:
                self._samples += len(piece)
                self._steps = np.concatenate([self._steps, self._mfcc.add(piece)])
            self._embed_sound()
        return found

    def forget(self, place: int) -> None:
        self.rows.pop(place, None)

    def _embed_sound(self) -> None:
        """Whole groups; what is left when the sound has ended."""
        while (ready := (len(self._steps) - WINDOW_STEPS) // FRAME_STEPS + 1) >= (1 if self._ended else GROUP):
            count = min(ready, GROUP)
            windows = np.lib.stride_tricks.sliding_window_view(self._steps, WINDOW_STEPS, 0)[::FRAME_STEPS][:count]
            rows = self._network.of_sound(torch.from_numpy(windows.astype(np.float32)))
            self.rows.update(zip(range(self._made, self._made + count), rows, strict=True))
            self._made += count
            self._steps = self._steps[count * FRAME_STEPS:]


class FaceCrops:
    """Frames at any rate with their boxes -> SyncNet's input, 25 times a second: (3, 224, 224), BGR, 0..255."""

    def __init__(self, fps: Fraction):
        self._fps, self._frame, self._tick, self._cut = Fraction(fps), 0, 0, 0
        self._pictures: deque[Tensor] = deque()             # uint8, of the ticks that are not cut yet
        self._places: deque[np.ndarray] = deque()           # x, y, half the size; from SMOOTHED_FRAMES // 2 before

    def add(self, frames: Tensor, boxes: Tensor) -> list[Tensor | None]:
        found = []
        for frame, box in zip(frames, boxes, strict=True):
            picture = None
            while frame_at(self._tick, self._fps) == self._frame:
                picture = frame.mul(255).round().clamp(0, 255).byte().cpu() if picture is None else picture
                self._pictures.append(picture)
                self._places.append(place_of(box))
                self._tick += 1
                if len(self._pictures) > SMOOTHED_FRAMES // 2:
                    found.append(self._next())
            self._frame += 1
        return found

    def finish(self) -> list[Tensor | None]:
        return [self._next() for _ in range(len(self._pictures))]

    def _next(self) -> Tensor | None:
        picture, before = self._pictures.popleft(), min(self._cut, SMOOTHED_FRAMES // 2)
        known = np.isfinite(self._places[before]).all()
        crop = face_crop(picture, *np.nanmedian(np.stack(self._places), 0)) if known else None
        self._cut += 1
        if before == SMOOTHED_FRAMES // 2:
            self._places.popleft()
        return crop


def frame_at(tick: int, fps: Fraction) -> int:
    """The frame that is shown in the middle of a 25th of a second."""
    return int((2 * tick + 1) * fps / (2 * RATE_HZ))


def place_of(box: Tensor) -> np.ndarray:
    """A box's middle and half its longer side."""
    left, top, right, bottom = box.tolist()
    return np.array([(left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top) / 2])


def face_crop(picture: Tensor, x: float, y: float, half: float) -> Tensor:
    """(H, W, 3), uint8, RGB -> a square from the top of the face to below it; grey where the picture ends."""
    sides = y - half, y + half * (1 + 2 * SCALE), x - half * (1 + SCALE), x + half * (1 + SCALE)
    top, bottom, left, right = (int(np.floor(side)) for side in sides)
    bottom, right = max(bottom, top + 1), max(right, left + 1)
    crop = torch.full((bottom - top, right - left, 3), float(GREY))
    inside = picture[max(top, 0):max(bottom, 0), max(left, 0):max(right, 0)]
    down, across = max(-top, 0), max(-left, 0)
    crop[down:down + inside.shape[0], across:across + inside.shape[1]] = inside.float()
    return interpolate(crop.flip(-1).movedim(-1, 0)[None], (SIDE, SIDE), mode="bilinear")[0].round()
