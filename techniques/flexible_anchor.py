"""Lookahead Anchoring's fine-tune (Seo et al. 2025, section 3.2): the anchor's time is drawn for each example, so
that one network knows it in the chunk and at every distance ahead.

l ~ U[0, n-1+d_max], in latent frames here. The paper gives the anchor a projection of its own that begins as the patch
embedding; here, where its timestep sets an anchor apart, that is the patch embedding, which is trained along.
"""
import torch
from torch import Tensor

FARTHEST_FRAMES = 80        # d_max in pixel frames, of the paper


def draw_anchor_time(generator: torch.Generator, latents: int, farthest_latents: float) -> float:
    """RoPE time of the anchor for a chunk of so many latents, 0 to n-1+d_max."""
    if farthest_latents < 0 or latents < 1:
        raise ValueError(f"farthest: got {farthest_latents:g} latents ahead of a chunk of {latents}, wanted 0 or more "
                         "and 1 or more")
    return float(torch.rand((), generator=generator)) * (latents - 1 + farthest_latents)


def nearest_picture(frames: Tensor, wanted: float) -> int:
    """Of pictures at these pixel `frames` (P,), the one that was shown next to `wanted`."""
    return int((frames.double() - wanted).abs().argmin())
