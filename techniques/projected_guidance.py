"""Adaptive projected guidance (Sadat et al. 2024) as InfiniteTalk has it: guidance that does not oversaturate.

Each guidance direction is summed up with a momentum, capped in length, and loses what lies along the prediction itself.
"""
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

MOMENTUM, LARGEST_NORM = -0.75, 55.0    # the authors' own


@dataclass(frozen=True)
class Projection:
    """`momentum`: of the step before's direction. `largest_norm`: to which a direction is shortened, 0 for never."""
    momentum: float = MOMENTUM
    largest_norm: float = LARGEST_NORM

    def add_momentum(self, direction: Tensor, before: Tensor | None) -> Tensor:
        """This step's direction (B, ...) with the momentum of the sum of the step `before`, None in the first step."""
        return direction if before is None else direction + self.momentum * before

    def project(self, direction: Tensor, prediction: Tensor) -> Tensor:
        """Of a summed direction (B, ...) what stands across `prediction` (B, ...), after the cap."""
        axes = tuple(range(1, direction.ndim))
        if self.largest_norm:
            length = vector_norm(direction, dim=axes, keepdim=True)
            direction = direction * (self.largest_norm / length).clamp(max=1)
        wide = torch.float32 if direction.device.type == "mps" else torch.float64   # which Apple's chips do not have
        along = prediction.to(wide)
        along = along / vector_norm(along, dim=axes, keepdim=True).clamp(min=1e-12)
        share = (direction.to(wide) * along).sum(axes, keepdim=True)
        return (direction.to(wide) - share * along).to(direction.dtype)
