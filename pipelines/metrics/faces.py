"""Whose face is in a frame, how far the mouth is open and where the face is, by OpenCV's YuNet and SFace.

Both come as small ONNX files of OpenCV's own model zoo (names below) in a folder of the user's; nothing is downloaded.
Any build of OpenCV will do. A drawn character needs another detector: any function from frames to a Detection.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .lipsync import mouth_opening

DETECTOR, RECOGNISER = "face_detection_yunet*.onnx", "face_recognition_sface*.onnx"
PER_SECOND = 5          # embeddings; mouths are measured in every frame
BUILDS = ("opencv-python, opencv-python-headless, opencv-contrib-python or opencv-contrib-python-headless, of 4.8 or "
          "newer")
FILES = {DETECTOR: "face_detection_yunet_2023mar.onnx", RECOGNISER: "face_recognition_sface_2021dec.onnx"}


class FacesMissing(ValueError):
    """Faces cannot be found here; the text says what is missing and how to get it."""


class Detection(NamedTuple):
    """Per frame; NaN where there is no face. None: not searched for."""
    embeddings: Tensor | None = None    # (T, D)
    openings: Tensor | None = None      # (T,)
    boxes: Tensor | None = None         # (T, 4): the face's left, top, right, bottom in pixels


class OpenCvFaces:
    """The largest face of each frame: `faces(frames)` takes (T, H, W, 3), in order, and returns a Detection."""

    def __init__(self, folders: Sequence[Path], fps: float):
        """`folders` are searched for the two files, in order. Raises FacesMissing."""
        found = [next((path for folder in folders for path in sorted(Path(folder).glob(pattern))), None)
                 for pattern in (DETECTOR, RECOGNISER)]
        try:
            import cv2
        except ImportError as error:
            raise FacesMissing(f"faces need OpenCV (cv2) in this Python: install one of {BUILDS}") from error
        if not hasattr(cv2, "FaceDetectorYN") or not hasattr(cv2, "FaceRecognizerSF"):
            raise FacesMissing(f"faces need a newer OpenCV than {cv2.__version__}: install one of {BUILDS}")
        if missing := [FILES[name] for name, path in zip((DETECTOR, RECOGNISER), found, strict=True) if path is None]:
            raise FacesMissing(f"faces need {' and '.join(missing)} of OpenCV's model zoo"
                               + (f" in {folders[0]}" if folders else ""))
        try:
            self._detector: Any = cv2.FaceDetectorYN.create(str(found[0]), "", (320, 320))
            self._recogniser: Any = cv2.FaceRecognizerSF.create(str(found[1]), "")
        except cv2.error as error:
            raise FacesMissing(f"OpenCV cannot read {found[0]} or {found[1]}: {error}. Get them again") from error
        self._every, self._frame = max(round(fps / PER_SECOND), 1), 0

    def __call__(self, frames: Tensor) -> Detection:
        found = [self._detect(frame, (self._frame + index) % self._every == 0) for index, frame in enumerate(frames)]
        self._frame += len(frames)
        width = max(len(embedding) for embedding, _, _ in found)
        return Detection(torch.stack([embedding.expand(width) for embedding, _, _ in found]),
                         torch.tensor([opening for _, opening, _ in found]), torch.stack([box for _, _, box in found]))

    def of_picture(self, picture: Tensor) -> Tensor | None:
        """The embedding (D,) of a picture (H, W, 3); None without a face."""
        embedding, _, _ = self._detect(picture, True)
        return embedding if embedding.isfinite().all() else None

    def all_boxes(self, frame: Tensor) -> list[tuple[tuple[float, ...], None]]:
        """Of a picture (H, W, 3) every face's box, left, top, right, bottom in pixels."""
        found = self._find(_picture_of(frame))
        return [((*row[:2].tolist(), *(row[:2] + row[2:4]).tolist()), None) for row in found]

    def _find(self, picture: np.ndarray) -> np.ndarray:
        """YuNet's rows, one a face."""
        self._detector.setInputSize((picture.shape[1], picture.shape[0]))
        _, faces = self._detector.detect(picture)
        return np.zeros((0, 15), dtype=np.float32) if faces is None else faces

    def _detect(self, frame: Tensor, who: bool) -> tuple[Tensor, float, Tensor]:
        unknown = torch.full((1,), torch.nan)
        picture = _picture_of(frame)
        faces = self._find(picture)
        if not len(faces):
            return unknown, float("nan"), unknown.expand(4)
        face = max(faces, key=lambda row: row[2] * row[3])
        opening = float("nan")
        if box := mouth_box(face, picture.shape[0], picture.shape[1]):
            opening = float(mouth_opening(frame[None], box)[0])
        place = torch.tensor([*face[:2], *(face[:2] + face[2:4])])
        if not who:
            return unknown, opening, place
        embedding = self._recogniser.feature(self._recogniser.alignCrop(picture, face))
        return torch.from_numpy(np.array(embedding)).flatten().double(), opening, place


def _picture_of(frame: Tensor) -> np.ndarray:
    """(H, W, 3) of bytes as OpenCV wants it: blue, green, red."""
    return np.ascontiguousarray(frame.flip(-1).mul(255).round().clamp(0, 255).byte().cpu().numpy())


def mouth_box(face: np.ndarray, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Top, left, bottom, right around the mouth corners of a YuNet row, inside the picture; None if nothing is left."""
    right, left = face[10:12], face[12:14]
    (x, y), reach = (right + left) / 2, max(float(np.hypot(*(left - right))), 4.0)
    box = (max(int(y - 0.45 * reach), 0), max(int(x - 0.6 * reach), 0),
           min(int(y + 0.75 * reach) + 1, height), min(int(x + 0.6 * reach) + 1, width))
    return box if box[2] > box[0] and box[3] > box[1] else None
