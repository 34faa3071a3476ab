"""What is measured of a take while it is made, a number for each chunk: how far its colours are from the first one's,
and whether its face is still the first one's. One frame of each group that is decoded is looked at."""
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from .colour import ciede2000, lab_of_light, linear_light
from .faces import PER_SECOND, FacesMissing, OpenCvFaces


class ColourTrace:
    """How far each chunk's colours are from those of the first that this run made, as CIEDE2000 of its mean light."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}     # by the chunk's index
        self._sums: dict[int, tuple[Tensor, int]] = {}

    def add(self, chunk: int, frames: Tensor) -> None:
        """Frames (T, H, W, 3) of a chunk: one in each group is enough, every eighth pixel."""
        light = linear_light(frames[-1, ::8, ::8].float()).mean((0, 1)).cpu()
        total, count = self._sums.get(chunk, (torch.zeros(3), 0))
        self._sums[chunk] = total + light, count + 1
        first, last = (lab_of_light(total / count) for total, count in (
            next(iter(self._sums.values())), self._sums[chunk]))
        self.found[chunk] = round(float(ciede2000(first, last)), 2)


class IdentityTrace:
    """The mean cosine of each chunk's face to the first face that this run made, as Take Report's identity.

    `folders` are searched for OpenCV's two files. `note`: why nothing is measured; empty where it is.
    """

    def __init__(self, folders: Sequence[Path]):
        self.found: dict[int, float] = {}     # by the chunk's index
        self.note = ""
        self._first: Tensor | None = None
        self._sums: dict[int, tuple[float, int]] = {}
        try:
            self._faces: OpenCvFaces | None = OpenCvFaces(folders, PER_SECOND)
        except FacesMissing as error:
            self._faces, self.note = None, str(error)

    def add(self, chunk: int, frames: Tensor) -> None:
        """Frames (T, H, W, 3) of a chunk; those without a face tell nothing."""
        if self._faces is None:
            return
        face = self._faces.of_picture(frames[-1].float().cpu())
        if face is None:
            self.note = self.note or ("" if self.found else "no face is found in it")
            return
        self.note, self._first = "", face if self._first is None else self._first
        total, count = self._sums.get(chunk, (0.0, 0))
        self._sums[chunk] = total + float(torch.cosine_similarity(face, self._first, dim=0)), count + 1
        self.found[chunk] = round(self._sums[chunk][0] / self._sums[chunk][1], 3)
