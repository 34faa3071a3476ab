"""The official int8 checkpoint (Avatar 1.5): one scale per output row, kept int8 in memory and dequantised per call.

W = weight_int8 * weight_scale, in the dtype of what comes in; everything else of the network is as it was.
"""
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """`weight` (out, in) int8, `weight_scale` (out,) float32, `bias` (out,) or None."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, dtype=None, device=None):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=torch.int8, device=device), requires_grad=False)
        self.weight_scale = nn.Parameter(torch.empty(outputs, dtype=torch.float32, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype, device=device)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x) * self.weight_scale.to(x)[:, None]
        return nn.functional.linear(x, weight, None if self.bias is None else self.bias.to(x))


def module_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official int8 keys as this network's own: X.weight_int8 -> X.weight."""
    return {name.removesuffix("_int8"): tensor for name, tensor in weights.items()}


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) -> int8 rows and their float32 scales, as the official file was made."""
    scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-8)
    return (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale
