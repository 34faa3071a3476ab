"""Videos as training clips: which there are, where each is cut, its frames, its sound, its face.

A video is read once, frame by frame at the clips' rate, and its sound in pieces beside, so RAM is that of one clip
however long it is. The crop about a face stands still within a clip.
"""
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..frames_at_times import FileFrames
from .clip_store import MANIFEST

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".wmv")
SOUND_RATE = 16_000         # Hz
LOOKS_PER_SECOND = 5        # how often a face is looked for
FACE_SHARE = 0.8            # of the looks that must find one
CROP_SIZE = 2.4             # the crop's shorter side in sizes of the face: head and shoulders
LEAST_SCALE = 0.5           # of the clips' size that a crop must have
SMALL_SIDE = 640            # pixels of the pictures in which a face is looked for
SAMPLES, SAMPLE_BYTES = 16, 1 << 16     # of a file, for its digest
FindFace = Callable[[Tensor], Tensor]   # frames (T, H, W, 3) -> boxes (T, 4), NaN where there is none


class ClipLeftOut(ValueError):
    """Why a clip, or a whole video, is not used."""


def find_videos(source: Path) -> list[Path]:
    """All videos below a folder, in the order of their names, without those in a folder of clips; of a file itself.
    ValueError where there is nothing, or no video."""
    endings = ", ".join(ENDINGS)
    if source.is_file():
        if source.suffix.lower() not in ENDINGS:
            raise ValueError(f"folder: {source} is no video ({endings}). Give a folder of videos, or one video file")
        return [source]
    if not source.is_dir():
        raise ValueError(f"folder: {source} is no folder on the machine that ComfyUI runs on, and no file. Give a "
                         "folder with videos in it, or one video file")
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
                   and not any((parent / MANIFEST).exists() for parent in path.parents))
    if not found:
        raise ValueError(f"folder: {source} has no videos ({endings}). Put some there, or give another")
    return found


def file_digest(path: Path) -> str:
    """Of its length and pieces from all over it: a copy has the same, another encoding never. OSError where it cannot
    be read."""
    size = path.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for piece in range(SAMPLES):
            file.seek(max(size - SAMPLE_BYTES, 0) * piece // (SAMPLES - 1))
            found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Box:
    """A part of a picture in pixels."""
    left: float
    top: float
    right: float
    bottom: float


def centre_box(wide: int, high: int, width: int, height: int) -> Box:
    """The largest part of a picture of `wide` x `high`, in its middle, with the proportions of the clips."""
    scale = min(wide / width, high / height)
    return Box((wide - scale * width) / 2, (high - scale * height) / 2, (wide + scale * width) / 2,
               (high + scale * height) / 2)


def face_box(faces: Tensor, wide: int, high: int, width: int, height: int) -> Box:
    """The part about the faces (N, 4) of a clip: head and shoulders, inside the picture. Raises ClipLeftOut where it
    would have to be enlarged too much."""
    left, top, right, bottom = faces.contiguous().median(0).values.tolist()   # torch 2.11 reads past an expanded one
    size = CROP_SIZE * max(right - left, bottom - top) / min(width, height)
    size = min(size, wide / width, high / height)
    if size < LEAST_SCALE:
        raise ClipLeftOut(f"the face is {round(right - left)} pixels wide, too small for {width}x{height}")
    across, down = size * width, size * height
    x = min(max((left + right) / 2 - across / 2, 0), wide - across)
    y = min(max(top + 0.6 * (bottom - top) - down / 2, 0), high - down)
    return Box(x, y, x + across, y + down)


def cut(frame: Tensor, box: Box, width: int, height: int) -> Tensor:
    """A part of (H, W, 3) in 0..1 -> (height, width, 3) bytes."""
    left, top, right, bottom = (round(edge) for edge in (box.left, box.top, box.right, box.bottom))
    part = frame[top:max(bottom, top + 1), left:max(right, left + 1)].movedim(-1, 0)[None]
    larger = part.shape[-1] > width
    sized = interpolate(part, (height, width), mode="area") if larger else interpolate(
        part, (height, width), mode="bicubic", align_corners=False)
    return sized[0].movedim(0, -1).clamp(0, 1).mul(255).round().byte()


def face_mask(faces: Tensor, frames: int, box: Box, grid: tuple[int, int], temporal_ratio: int) -> Tensor:
    """(1, T, h, w): how much of each latent cell is the face. `faces` (N, 4): boxes at even times of a clip of `frames`
    pixel frames; `grid`: latent cells each way."""
    latents, (rows, columns) = (frames - 1) // temporal_ratio + 1, grid
    middles = (torch.arange(latents) * temporal_ratio - temporal_ratio / 2 + 0.5).clamp(min=0)
    place = (middles * (len(faces) - 1) / max(frames - 1, 1)).round().long()
    found = faces[place].double()
    down = _cover(found[:, 1], found[:, 3], box.top, box.bottom, rows)
    across = _cover(found[:, 0], found[:, 2], box.left, box.right, columns)
    return (down[:, :, None] * across[:, None, :]).nan_to_num(0)[None].half()


def _cover(begin: Tensor, end: Tensor, first: float, last: float, cells: int) -> Tensor:
    """(T, cells): which share of each cell between `first` and `last` lies between `begin` and `end` (T,)."""
    edges = torch.linspace(first, last, cells + 1, dtype=torch.float64)
    size = (last - first) / cells
    inside = torch.minimum(end[:, None], edges[1:]) - torch.maximum(begin[:, None], edges[:-1])
    return (inside / size).clamp(0, 1)


class Video:
    """One file at a rate of frames a second. Raises ValueError where it is no video."""

    def __init__(self, path: Path, rate: Fraction):
        self.source, self.rate = FileFrames(path), rate
        self.name = path.name
        seconds = self.source.seconds
        assert seconds is not None
        self.frames = int(seconds * rate)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height as it is shown, turned as the file says."""
        first = next(iter(self.source.at([Fraction(0)])))
        return first.shape[1], first.shape[0]

    def at(self, numbers: Sequence[int]) -> Iterator[Tensor]:
        """Frames (H, W, 3) by rising numbers."""
        return self.source.at([number / self.rate for number in numbers])

    def look_for_faces(self, first: int, frames: int, find_face: FindFace) -> Tensor:
        """Boxes (N, 4) in pixels at even times of a clip. Raises ClipLeftOut where too few frames have one."""
        looks = max(round(frames / self.rate * LOOKS_PER_SECOND), 2)
        numbers = [first + round(look * (frames - 1) / (looks - 1)) for look in range(looks)]
        boxes = torch.cat([self._look(frame, find_face) for frame in self.at(numbers)])
        found = boxes.isfinite().all(1)
        if found.float().mean() < FACE_SHARE:
            raise ClipLeftOut(f"a face in {int(found.sum())} of {looks} frames only")
        nearest = (torch.arange(looks)[:, None] - torch.arange(looks)[found][None]).abs().argmin(1)
        return boxes[found][nearest]

    @staticmethod
    def _look(frame: Tensor, find_face: FindFace) -> Tensor:
        factor = max(max(frame.shape[:2]) / SMALL_SIDE, 1.0)
        size = [round(side / factor) for side in frame.shape[:2]]
        small = interpolate(frame.movedim(-1, 0)[None], size, mode="area")[0].movedim(0, -1)
        return find_face(small[None]) * factor


class SoundAlong:
    """A video's sound, mono at SOUND_RATE, read forwards; only what may still be asked for is held."""

    def __init__(self, source: FileFrames):
        self._pieces = source.sound_pieces(SOUND_RATE)
        self.silent = self._pieces is None
        self._held: np.ndarray = np.zeros(0, np.float32)
        self._first = 0

    def between(self, first: int, end: int) -> Tensor:
        """Samples `first` to `end`; silence where there are none. What lies before `first` is forgotten."""
        self._drop(first)
        while self._pieces is not None and self._first + len(self._held) < end:
            piece = next(self._pieces, None)
            if piece is None:
                self._pieces = None
            else:
                self._held = np.concatenate([self._held, piece.mean(0)])
                self._drop(first)
        found = torch.zeros(end - first)
        part = torch.from_numpy(self._held[max(first - self._first, 0):max(end - self._first, 0)].copy())
        begin = max(self._first - first, 0)
        found[begin:begin + len(part)] = part
        return found

    def _drop(self, first: int) -> None:
        over = min(max(first - self._first, 0), len(self._held))
        self._held, self._first = self._held[over:], self._first + over
