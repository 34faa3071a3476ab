"""The puppet's VAE as the claims use it: ComfyUI's own class, frames and latents in the network's space."""
from pathlib import Path

import torch
from lodestar.training.puppet import latents
from lodestar.training.puppet.hosts import wan_vae
from lodestar.training.puppet.vae import WIDTH
from safetensors.torch import load_file
from torch import Tensor


class PuppetVAE:
    def __init__(self, weights: Path):
        self.vae = wan_vae(WIDTH).eval()
        self.vae.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, 3) in 0..255 -> (B, 16, t, h, w)."""
        return latents.encode(self.vae, frames, "cpu")

    @torch.no_grad()
    def decode(self, made: Tensor) -> Tensor:
        """(B, 16, t, h, w) -> (B, T, H, W, 3) in 0..1."""
        import comfy.latent_formats
        with torch.autocast("cpu", torch.bfloat16):
            frames = self.vae.decode(comfy.latent_formats.Wan21().process_out(made))
        return (frames.float().movedim(1, -1) / 2 + 0.5).clamp(0, 1)
