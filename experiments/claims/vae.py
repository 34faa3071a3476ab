"""The puppet's VAE as the claims use it: ComfyUI's own class, frames and latents in the network's space."""
from pathlib import Path

import torch
from lodestar.training.puppet import flat_vae, latents
from lodestar.training.puppet.precision import fast
from lodestar.training.puppet.vae import load_vae
from torch import Tensor


class PuppetVAE:
    def __init__(self, weights: Path):
        self.vae = load_vae(weights).eval()

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, 3) in 0..255 -> (B, 16, t, h, w)."""
        return latents.encode(self.vae, frames, "cpu")

    @torch.no_grad()
    def decode(self, made: Tensor) -> Tensor:
        """(B, 16, t, h, w) -> (B, T, H, W, 3) in 0..1."""
        import comfy.latent_formats
        with fast():
            frames = flat_vae.decode(self.vae, comfy.latent_formats.Wan21().process_out(made))
        return (frames.float().movedim(1, -1) / 2 + 0.5).clamp(0, 1)
