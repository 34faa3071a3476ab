"""How EverAnimate's training spoils a clip's pictures, and moves the person's: one draw for all frames.

Local histogram equalisation of the lightness, saturation, brightness and patches of low resolution, each by a chance of
its own; the paper names colour shift, sharpness and saturation.
"""
import random
from dataclasses import dataclass
from typing import TypeAlias

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

Frames: TypeAlias = NDArray[numpy.uint8]
CHANCES = {"equalise": 0.9, "saturation": 0.3, "brightness": 0.1, "erase": 0.9}
LUMA = (0.2989, 0.587, 0.114)
LEAST_PATCH = 8     # pixels
MOST_SHIFT, LEAST_SCALE, MOST_SCALE, MOVES = 0.1, 0.8, 1.2, 0.5


@dataclass(frozen=True)
class Patch:
    """A patch in parts of the picture: its size, and where it is in the room that is left. `factor`: by which its
    resolution falls."""
    height: float
    width: float
    top: float
    left: float
    factor: int


@dataclass(frozen=True)
class Draw:
    """None, and no patches, where a thing is left alone."""
    equalise: tuple[float, int] | None = None       # clip limit, tiles each way
    saturation: float | None = None
    brightness: float | None = None
    patches: tuple[Patch, ...] = ()


def draw_spoiling(draw: random.Random) -> Draw:
    """As often and as much as in the authors' code, and in its order; it also draws a blur, which it never applies."""
    def is_on(name: str) -> bool:
        return draw.random() < CHANCES[name]

    flag, equalising = is_on("equalise"), (draw.uniform(1.0, 64.0), draw.randint(1, 32))
    saturates, saturation = is_on("saturation"), draw.uniform(1.3, 3.0)
    brightens, brightness = is_on("brightness"), draw.uniform(0.8, 1.2)
    draw.random(), draw.choice((3, 5, 7)), draw.uniform(0.2, 1.2)
    erases = is_on("erase")
    patches = tuple(Patch(draw.uniform(0.1, 0.3), draw.uniform(0.1, 0.3), draw.uniform(0.0, 1.0),
                          draw.uniform(0.0, 1.0), draw.randint(8, 32)) for _ in range(draw.randint(1, 4)))
    return Draw(equalising if flag else None, saturation if saturates else None, brightness if brightens else None,
                patches if erases else ())


def spoil(frames: Frames, draw: Draw) -> Tensor:
    """(T, H, W, 3) 0..255 -> (T, 3, H, W) from -1 to 1."""
    if draw.equalise is not None:
        frames = numpy.stack([equalise(frame, *draw.equalise) for frame in frames])
    pictures = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    if draw.saturation is not None:
        grey = (torch.tensor(LUMA)[:, None, None] * pictures).sum(1, keepdim=True)
        pictures = (draw.saturation * pictures + (1 - draw.saturation) * grey).clamp(0, 1)
    if draw.brightness is not None:
        pictures = (pictures * draw.brightness).clamp(0, 1)
    for patch in draw.patches:
        pictures = coarsen(pictures, patch)
    return pictures * 2 - 1


def equalise(frame: Frames, limit: float, tiles: int) -> Frames:
    """The lightness of (H, W, 3), tile by tile."""
    import cv2
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=limit, tileGridSize=(tiles, tiles)).apply(lab[..., 0])
    return numpy.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def coarsen(pictures: Tensor, patch: Patch) -> Tensor:
    """(T, 3, H, W) with a patch at a part of its resolution."""
    rows, columns = pictures.shape[-2:]
    height, width = max(LEAST_PATCH, int(rows * patch.height)), max(LEAST_PATCH, int(columns * patch.width))
    top, left = int(patch.top * (rows - height)), int(patch.left * (columns - width))
    part = pictures[..., top:top + height, left:left + width]
    small = interpolate(part, (max(1, height // patch.factor), max(1, width // patch.factor)), mode="area")
    pictures = pictures.clone()
    pictures[..., top:top + height, left:left + width] = interpolate(small, (height, width), mode="bilinear")
    return pictures


def move_picture(picture: Tensor, scale: float, right: float, down: float) -> Tensor:
    """(1, 3, H, W), scaled and shifted in parts of half the picture."""
    theta = torch.tensor([[[scale, 0, right], [0, scale, down]]], dtype=picture.dtype)
    grid = affine_grid(theta, list(picture.shape), align_corners=False)
    return grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
