"""A picture as a user brings it, made into what a take wants: one RGB frame at the take's size, and its latent."""
import logging
from collections.abc import Sequence

import comfy.utils
import torch
from torch import Tensor

from .socket_values import SMALLEST_PICTURE
from .vae import encode_frames

FITS = ("crop", "pad", "white")
logger = logging.getLogger("lodestar")


def fit_picture(picture: Tensor, width: int, height: int, fit: str = "crop") -> Tensor:
    """(1, H, W, 3 or 4) in 0..1, on the CPU -> (1, height, width, 3).

    Alpha is flattened onto white. `crop` fills the size and cuts what is over; `pad` keeps everything on black bars,
    `white` on white ones, in steps of 1 / 255.
    Raises ValueError for what is too narrow to crop.
    """
    rows, columns = picture.shape[1:3]
    if fit == "crop" and min(rows * width / height, columns * height / width) < SMALLEST_PICTURE:
        raise ValueError(f"cropping {columns}x{rows} to the shape of {width}x{height} leaves fewer than "
                         f"{SMALLEST_PICTURE} pixels. Use pad (Reference Picture has it), or a picture of nearer "
                         "proportions")
    if picture.shape[-1] == 4:
        picture = picture[..., :3] * picture[..., 3:] + (1 - picture[..., 3:])
    if fit == "white":
        return fit_on_white(picture[0], width, height)[None]
    channels_first = picture.movedim(-1, 1)                     # BHWC -> BCHW
    if fit == "crop":
        return comfy.utils.common_upscale(channels_first, width, height, "area" if is_larger(picture, width, height)
                                          else "bicubic", "center").movedim(1, -1).clamp(0, 1)
    scale = min(width / picture.shape[2], height / picture.shape[1])
    inner_width, inner_height = (max(round(size * scale), 1) for size in (picture.shape[2], picture.shape[1]))
    inner = comfy.utils.common_upscale(channels_first, inner_width, inner_height, "area" if scale < 1 else "bicubic",
                                       "disabled").movedim(1, -1).clamp(0, 1)
    padded = torch.zeros(1, height, width, 3)
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    padded[:, top:top + inner_height, left:left + inner_width] = inner
    return padded


def leave_out_copies(pictures: Sequence[Tensor], first: Tensor | None) -> list[Tensor]:
    """Of pictures (1, H, W, 3) those that differ from `first` (n, H, W, 3) and from one another, in order."""
    seen = [] if first is None else list(first.split(1))
    found = []
    for picture in pictures:
        if not any(torch.equal(picture, other) for other in seen):
            seen.append(picture)
            found.append(picture)
    if len(found) < len(pictures):
        logger.warning("views: %d of %d show the same as another or as the reference; each is kept once",
                       len(pictures) - len(found), len(pictures))
    return found


def fit_on_white(picture: Tensor, width: int, height: int) -> Tensor:
    """(H, W, 3) of 0..1 -> (height, width, 3): the whole picture, in the middle of white, by Pillow's Lanczos."""
    import numpy
    from PIL import Image

    image = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    scale = min(width / image.width, height / image.height)
    size = max(int(image.width * scale), 1), max(int(image.height * scale), 1)
    page = Image.new("RGB", (width, height), (255, 255, 255))
    page.paste(image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return torch.from_numpy(numpy.asarray(page).copy()).float() / 255


def is_larger(picture: Tensor, width: int, height: int) -> bool:
    return picture.shape[2] >= width and picture.shape[1] >= height


def encode_picture(vae, picture: Tensor) -> Tensor:
    """One frame (1, H, W, 3) -> its latent (1, C, 1, h, w) in LATENT space."""
    return encode_frames(vae, picture)
