"""HuMo's reference pictures as it was trained: whole on white, in slots behind the video's latents.

In the 17B a slot has noise of its own and the picture stands in the concat channels, marked by the mask; what is not
known there is the latent of a grey video. The 1.7B has the picture's latent itself in the slot.
"""
import torch
from torch import Tensor

MOST = 8    # beside 97 frames: the authors' grey video at 480p has 33 latents


def check_count(pictures: int, name: str) -> None:
    """Raises ValueError for more pictures than the model `name` has slots for."""
    if pictures > MOST:
        raise ValueError(f"got {pictures} pictures or more, wanted 1 to {MOST} for {name}, each takes a latent of the "
                         "clip. Choose the best ones (ImageFromBatch)")


def concat_channels(grey: Tensor, references: Tensor | None, slots: int) -> Tensor:
    """The 17B's 4 mask and 16 latent channels (B, 20, T, h, w), of which the last `slots` are references.

    `grey`: (B, 16, T, h, w). `references`: (B, 16, slots, h, w) in model space; None for the null condition, where the
    slots are marked all the same and hold the grey video.
    """
    mask = torch.zeros_like(grey[:, :4])
    mask[:, :, grey.shape[2] - slots:].fill_(1)     # an assigned 1 would be brought from the host
    known = grey.clone()
    if references is not None:
        known[:, :, grey.shape[2] - slots:] = references
    return torch.cat([mask, known], 1)
