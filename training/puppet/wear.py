"""What a VAE, a codec and a screen do to frames, roughly: blur, quantised blocks, a slight tint, noise."""
import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

BLOCK = 8


def wear_pictures(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in 0..1, H and W multiples of 8; each wears in its own way, one in four hardly at all."""
    count = len(pictures)

    def each(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

    much = (each(0, 4 / 3) - 1 / 3).clamp(0, 1)
    out = pictures.lerp(blur(pictures), much * each(0, 1.2).clamp(max=1))
    out = out.lerp(blur(out), much * each(-1, 1).clamp(min=0))
    out = quantise(out, much * each(-0.05, 0.08).clamp(min=0) + 1e-3)
    out = out * each(0.95, 1.05) * each(0.97, 1.03, 3) + each(-0.03, 0.03) + each(-0.015, 0.015, 3)
    noise = torch.randn(pictures.shape, generator=generator)
    return (out + noise * much * each(-0.02, 0.03).clamp(min=0)).clamp(0, 1)


def blur(pictures: Tensor) -> Tensor:
    """By a binomial of five, a standard deviation of one pixel."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(line, line).expand(3, 1, 5, 5)
    return conv2d(pad(pictures, (2, 2, 2, 2), "replicate"), kernel, groups=3)


def quantise(pictures: Tensor, step: Tensor) -> Tensor:
    """Cosine transform of 8x8 blocks, rounded to multiples of `step` (B, 1, 1, 1) that grow with frequency."""
    count, channels, height, width = pictures.shape
    place = torch.arange(BLOCK)
    basis = torch.cos(math.pi / BLOCK * (place + 0.5) * place[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    blocks = pictures.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    coarse = (step * (1 + 0.5 * (place + place[:, None])))[:, :, None, None]
    rounded = ((basis @ blocks @ basis.T) / coarse).round() * coarse
    return (basis.T @ rounded @ basis).transpose(3, 4).reshape(pictures.shape)
