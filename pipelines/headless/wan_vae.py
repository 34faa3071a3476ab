"""Wan 2.1's VAE without ComfyUI: its own weights, in diffusers' network."""
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

RENAMED = (     # Wan's own names of the VAE's weights to those of diffusers
    (r"^conv1\.", "quant_conv."), (r"^conv2\.", "post_quant_conv."), (r"coder\.conv1\.", "coder.conv_in."),
    (r"head\.0\.", "norm_out."), (r"head\.2\.", "conv_out."), (r"middle\.1\.", "mid_block.attentions.0."),
    (r"middle\.0\.", "mid_block.resnets.0."), (r"middle\.2\.", "mid_block.resnets.1."),
    (r"downsamples\.", "down_blocks."), (r"residual\.0\.", "norm1."), (r"residual\.2\.", "conv1."),
    (r"residual\.3\.", "norm2."), (r"residual\.6\.", "conv2."), (r"shortcut\.", "conv_shortcut."))
UPSAMPLER = re.compile(r"upsamples\.(\d+)\.")


class WanVae:
    """Of any width. Latents (1, 16, t, h, w) as networks see them; frames in 0..1."""

    def __init__(self, weights: dict[str, Tensor]):
        from diffusers import AutoencoderKLWan
        self.vae: Any = AutoencoderKLWan(base_dim=len(weights["encoder.conv1.bias"]), z_dim=len(weights["conv2.bias"]))
        self.vae.load_state_dict({diffusers_name(name): weight.float() for name, weight in weights.items()})
        self.vae.eval()
        self.mean, self.spread = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in
                                  (self.vae.config.latents_mean, self.vae.config.latents_std))

    @classmethod
    def read(cls, path: Path) -> "WanVae":
        return cls(load_file(path))

    def encode(self, frames: Tensor) -> Tensor:
        """(T, H, W, 3), T = 1 + whole latents."""
        found = self.vae.encode(frames.movedim(-1, 0)[None] * 2 - 1).latent_dist.mode()
        return (found - self.mean) / self.spread

    def open_stream(self) -> "LatentStream":
        return LatentStream(self)


class LatentStream:
    """A FrameStream that decodes latent by latent with the decoder's own cache. A take is made from its beginning, so
    nothing warms up."""
    warmup_latents = 0

    def __init__(self, wan: WanVae):
        self.wan, decoder = wan, wan.vae.decoder
        self.cache: list = [None] * sum(isinstance(module, torch.nn.Conv3d) for module in decoder.modules())

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        wanted = self.wan.vae.post_quant_conv(latents * self.wan.spread + self.wan.mean)
        for latent in wanted.split(1, 2):
            frames = self.wan.vae.decoder(latent, feat_cache=self.cache, feat_idx=[0])
            yield (frames[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)

    def flush(self) -> Iterator[Tensor]:
        return iter(())

    def peek(self) -> None:
        return None


def diffusers_name(name: str) -> str:
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return UPSAMPLER.sub(lambda found: _up_block(int(found[1])), name)


def _up_block(number: int) -> str:
    """Wan counts the decoder's parts in one row: three residual blocks, then what enlarges, four times."""
    level, part = divmod(number, 4)
    return f"up_blocks.{level}.{f'resnets.{part}' if part < 3 else 'upsamplers.0'}."
