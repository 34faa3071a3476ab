"""HuMo's reference pictures as it was trained: fitted whole on white, in slots behind the video's latents.

In the 17B a slot has noise of its own and the picture stands in the concat channels, marked by the mask; what is not
known there is the latent of a grey video. The 1.7B has the picture's latent itself in the slot.
"""
import torch
from torch import Tensor

# Of a grey video in model space, per channel of its first latent, its second and all further ones; core has the same.
GREY = (
    (0.8660, -0.4326, -0.0017, -0.4884, -0.5283, 0.9207, -0.9896, 0.4433,
     -0.5543, -0.0113, 0.5753, -0.6000, -0.8346, -0.3497, -0.1926, -0.6938),
    (1.0869, -1.2370, 0.0206, -0.4357, -0.6411, 2.0307, -1.5972, 1.2659,
     -0.8595, -0.4654, 0.9638, -1.6330, -1.4310, -0.1098, -0.3856, -1.4583),
    (0.8642, -1.8583, 0.1577, 0.1350, -0.3641, 2.5863, -1.9670, 1.6065,
     -1.0475, -0.8678, 1.1734, -1.8138, -1.5933, -0.7721, -0.3289, -1.3745))


def grey_latents(latents: int, height: int, width: int) -> Tensor:
    """(1, 16, latents, height, width) of a grey video, in model space."""
    rows = torch.tensor(GREY)[torch.arange(latents).clamp(max=2)]
    return rows.T[None, :, :, None, None].expand(1, -1, -1, height, width).clone()


def concat_channels(grey: Tensor, references: Tensor | None, slots: int) -> Tensor:
    """The 17B's 4 mask and 16 latent channels (1, 20, T, h, w), of which the last `slots` are references.

    `grey`: (1, 16, T, h, w). `references`: (1, 16, slots, h, w) in model space; None for the null condition, where the
    slots are marked all the same and hold the grey video.
    """
    mask = torch.zeros_like(grey[:, :4])
    mask[:, :, grey.shape[2] - slots:] = 1
    known = grey.clone()
    if references is not None:
        known[:, :, grey.shape[2] - slots:] = references
    return torch.cat([mask, known], 1)


def fit_on_white(picture: Tensor, width: int, height: int) -> Tensor:
    """(H, W, 3) of 0..1 -> (height, width, 3): the whole picture, in the middle of white, in steps of 1 / 255."""
    import numpy
    from PIL import Image

    image = Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    scale = min(width / image.width, height / image.height)
    size = max(int(image.width * scale), 1), max(int(image.height * scale), 1)
    page = Image.new("RGB", (width, height), (255, 255, 255))
    page.paste(image.resize(size, Image.Resampling.LANCZOS), ((width - size[0]) // 2, (height - size[1]) // 2))
    return torch.from_numpy(numpy.asarray(page).copy()).float() / 255
