"""A picture from a file, and cut to a size, without ComfyUI."""
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate


def read_picture(path: Path) -> Tensor:
    """(H, W, 3), float 0..1, upright. Raises ValueError for what is no picture."""
    try:
        return torch.from_numpy(np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))) / 255
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:   # a PNG's chunks: SyntaxError
        raise ValueError(f"{path}: no picture that Pillow can read ({error})") from error


def crop_picture(picture: Tensor, width: int, height: int) -> Tensor:
    """A picture (H, W, 3), cropped from the middle and scaled to (1, height, width, 3), as Long Take does."""
    scale = max(width / picture.shape[1], height / picture.shape[0])
    rows, columns = round(height / scale), round(width / scale)
    top, left = (picture.shape[0] - rows) // 2, (picture.shape[1] - columns) // 2
    cut = picture[top:top + rows, left:left + columns, :3].float().movedim(-1, 0)[None]
    return interpolate(cut, (height, width), mode="bilinear", antialias=True).movedim(1, -1)
