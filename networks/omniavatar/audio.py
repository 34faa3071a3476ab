"""OmniAvatar's audio: features of 4 pixel frames become one short vector per latent, added to all of its tokens.

Silence is an encoding like any other; zeros are what guidance calls unconditional audio, and still add a constant, as
bias and norm stay. Samples of a batch are independent, which upstream's own reshape is not.
"""
import torch
from torch import Tensor, nn

from .settings import RATIO


def pack_frames(features: Tensor) -> Tensor:
    """One row per pixel frame (B, 4 (n - 1) + 1, C) -> one per latent (B, n, 4 C), the first row standing for four."""
    first = features[:, :1].expand(-1, RATIO - 1, -1)
    return torch.cat([first, features], 1).unflatten(1, (-1, RATIO)).flatten(2)


class AudioPack(nn.Module):
    """(B, n, 4 C) -> (B, n, hidden)."""

    def __init__(self, width: int, hidden: int, operations, dtype: torch.dtype | None = None, device=None):
        super().__init__()
        self.proj = operations.Linear(width, hidden, dtype=dtype, device=device)
        self.norm_out = operations.LayerNorm(hidden, dtype=dtype, device=device)

    def forward(self, packed: Tensor) -> Tensor:
        return self.norm_out(self.proj(packed))


def add_to_tokens(tokens: Tensor, residual: Tensor) -> Tensor:
    """`tokens` (B, n * S, C), in the order of their latents, each with its latent's of `residual` (B, n, C)."""
    return (tokens.unflatten(1, (residual.shape[1], -1)) + residual[:, :, None]).flatten(1, 2)
