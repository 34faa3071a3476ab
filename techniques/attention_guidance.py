"""Normalized attention guidance (Chen et al. 2025): a negative prompt inside the text cross-attention.

The same queries attend to both texts; the difference of the two outputs is what CFG's difference of two predictions is,
so a model that is distilled to one prediction can be guided away from something.
"""
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

SMALLEST = 1e-6


@dataclass(frozen=True)
class AttentionGuidance:
    """`scale`: 1 is none. `tau`: how much longer than the positive output the guided one may be, by their L1 norms.
    `alpha`: how much of it is taken. The defaults are those in use for Wan's text cross-attention."""
    scale: float = 11.0
    tau: float = 2.5
    alpha: float = 0.25

    def guide(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Two attention outputs (B, N, C), of the same queries -> one."""
        guided = torch.lerp(negative, positive, self.scale)
        lengths = [vector_norm(part, ord=1, dim=-1, keepdim=True, dtype=torch.float32).clamp(min=SMALLEST)
                   for part in (positive, guided)]
        shorter = (self.tau * lengths[0] / lengths[1]).clamp(max=1).to(guided)
        return torch.lerp(positive, guided * shorter, self.alpha)
