"""ComfyUI's tiny video autoencoders with random weights."""
import comfy.sd
import torch
from comfy.taesd.taehv import TAEHV


def light_vae(channels: int, dtype=torch.float32):
    """As Load VAE makes it of a file with the official names and shapes: 22.6 MB of random weights."""
    return comfy.sd.VAE(sd=light_weights(channels, dtype))


def light_weights(channels: int, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    return {name: torch.empty(value.shape).normal_(0, 0.5 / max(value[0].numel(), 1) ** 0.5,
                                                   generator=generator).to(dtype)
            for name, value in TAEHV(channels).state_dict().items()}
