"""Where the person is in the frames of a video reference: what came as masks or boxes, or the faces that are found."""
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ..pipelines.metrics.faces import FacesMissing
from ..pipelines.take.reference_frames import small_picture
from ..techniques.reference_tokens import WHEN_EMPTY, Box, tokens_in_boxes, tokens_in_masks
from .face_finder import FaceFinder, find_faces

Boxes = list[Box | None]


@dataclass(frozen=True, eq=False)
class Regions:
    """One of: `masks` (T, H, W), `boxes` in pixels, both spread evenly over the video, or the `finder` of faces.
    `missing`: why no faces are looked for, though nothing came."""
    masks: Tensor | None = None
    boxes: tuple[Box | None, ...] = ()
    finder: FaceFinder | None = None
    missing: str = ""

    @classmethod
    def of(cls, came: Any, when_empty: str) -> "Regions":
        """From a MASK, core's bounding boxes, or nothing. Raises ValueError where frames without a face are left out
        and none can be found."""
        if isinstance(came, Tensor):
            return cls(masks=came)
        if came is not None:
            return cls(boxes=tuple(came))
        try:
            return cls(finder=find_faces())
        except FacesMissing as error:
            if when_empty != WHEN_EMPTY[0]:
                raise ValueError(f"regions: {error}") from error
            return cls(missing=str(error))

    def describe(self, frame: Tensor) -> Tensor:
        """What tells frames apart (D,): the face's pose and expression, else its pixels, else those of all."""
        box, pose = self.finder.largest(frame) if self.finder is not None else (None, None)
        if box is None or pose is None:
            rows, columns = frame.shape[:2]
            left, top, right, bottom = box or (0.0, 0.0, 1.0, 1.0)
            part = frame[max(int(top * rows), 0):max(int(bottom * rows), 1), max(int(left * columns), 0):
                         max(int(right * columns), 1)]
            return small_picture(part if part.numel() else frame)
        return pose

    def tokens(self, frames: Tensor, shares: Sequence[Fraction], fit: "Fit", grow: float, when_empty: str) -> Tensor:
        """(n, rows, columns) bool of frames (n, H, W, 3), of which each stands at a share 0..1 of the video."""
        if self.masks is not None:
            masks = torch.stack([fit.mask(self.masks[place_of(share, len(self.masks))]) for share in shares])
            return tokens_in_masks(masks, fit.grid, grow, when_empty)
        if self.boxes:
            rows, columns = frames.shape[1:3]
            pixels = [self.boxes[place_of(share, len(self.boxes))] for share in shares]
            boxes: Boxes = [box and (box[0] / columns, box[1] / rows, box[2] / columns, box[3] / rows)
                            for box in pixels]
        elif self.finder is not None:
            boxes = [self.finder.largest(frame)[0] for frame in frames]
        else:
            boxes = [None] * len(frames)
        return tokens_in_boxes([fit.box(box, frames.shape[2], frames.shape[1]) for box in boxes], fit.grid, grow,
                               when_empty)

    @property
    def notes(self) -> tuple[str, ...]:
        if self.missing:
            return (f"no faces are looked for, so all tokens are kept: {self.missing}",)
        if self.finder is not None and self.finder.most > 1:
            return (f"{self.finder.most} people are in it; the largest face of each frame is taken",)
        return ()


def place_of(share: Fraction, count: int) -> int:
    return min(int(share * count), count - 1)


@dataclass(frozen=True)
class Fit:
    """Cropping to `width` x `height` pixels, the middle, of which there are `grid` (rows, columns) tokens."""
    width: int
    height: int
    grid: tuple[int, int]

    def mask(self, mask: Tensor) -> Tensor:
        """(H, W) -> (height, width)."""
        return comfy.utils.common_upscale(mask[None, None], self.width, self.height, "bilinear", "center")[0, 0]

    def box(self, box: Box | None, width: int, height: int) -> Box | None:
        """Of a picture of `width` x `height`, as shares of it; None where nothing of it is left."""
        if box is None:
            return None
        wide, high = min(1.0, height * self.width / self.height / width), min(1.0, width * self.height / self.width
                                                                              / height)
        left, right = ((edge - (1 - wide) / 2) / wide for edge in (box[0], box[2]))
        top, bottom = ((edge - (1 - high) / 2) / high for edge in (box[1], box[3]))
        if min(right, 1) <= max(left, 0) or min(bottom, 1) <= max(top, 0):
            return None
        return left, top, right, bottom
