"""HuMo's latents of a grey video, which ComfyUI's own model has, too."""
import torch
from torch import Tensor

GREY = (    # in model space, per channel of its first latent, its second and all further ones
    (0.8660, -0.4326, -0.0017, -0.4884, -0.5283, 0.9207, -0.9896, 0.4433,
     -0.5543, -0.0113, 0.5753, -0.6000, -0.8346, -0.3497, -0.1926, -0.6938),
    (1.0869, -1.2370, 0.0206, -0.4357, -0.6411, 2.0307, -1.5972, 1.2659,
     -0.8595, -0.4654, 0.9638, -1.6330, -1.4310, -0.1098, -0.3856, -1.4583),
    (0.8642, -1.8583, 0.1577, 0.1350, -0.3641, 2.5863, -1.9670, 1.6065,
     -1.0475, -0.8678, 1.1734, -1.8138, -1.5933, -0.7721, -0.3289, -1.3745))


def latents(frames: int, height: int, width: int) -> Tensor:
    """(1, 16, frames, height, width)."""
    rows = torch.tensor(GREY)[torch.arange(frames).clamp(max=2)]
    return rows.T[None, :, :, None, None].expand(1, -1, -1, height, width).clone()
