"""Weights of linear layers that stay packed in memory and are unpacked in every call: scaled rows, and GGUF's blocks.

A network's layer keeps what `state` names: its `weight`, and what tells how to read it (`PackedWeight`). A file's parts
of one layer (q, k and v) become one weight with `join_rows`.
"""
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .gguf_blocks import KINDS, decode_blocks

SCALED = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)


@dataclass(frozen=True, eq=False)
class Scaled:
    """`rows` (out, in), int8 or float 8, times `scale` (out,) float32."""
    rows: Tensor
    scale: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.rows.shape)

    @property
    def kind(self) -> str:
        return str(self.rows.dtype).removeprefix("torch.")

    def state(self, name: str) -> dict[str, Tensor]:
        return {name: self.rows, f"{name}_scale": self.scale}

    def float(self) -> Tensor:
        return self.rows.float() * self.scale.reshape(-1, *[1] * (self.rows.ndim - 1))


@dataclass(frozen=True, eq=False)
class Blocks:
    """`raw`: the bytes of whole rows, of each of `parts` (a key of gguf_blocks.KINDS, rows) in turn."""
    raw: Tensor
    parts: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        return "GGUF " + ", ".join(dict.fromkeys(KINDS[kind].name for kind, _ in self.parts))

    def state(self, name: str) -> dict[str, Tensor]:
        return {name: self.raw, f"{name}_blocks": torch.tensor(self.parts)}

    def float(self) -> Tensor:
        return unpack_blocks(self.raw, self.parts, self.shape[-1]).reshape(self.shape)


Packed: TypeAlias = Scaled | Blocks
Weight: TypeAlias = Tensor | Scaled | Blocks


def unpack_blocks(raw: Tensor, parts: Sequence[tuple[int, int]], width: int) -> Tensor:
    """Bytes of rows of several kinds -> (rows, width) float32."""
    sizes = [rows * width // KINDS[kind].length * KINDS[kind].size for kind, rows in parts]
    rows = [decode_blocks(part, kind, width) for part, (kind, _) in zip(raw.split(sizes), parts, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def join_rows(parts: Sequence[Weight]) -> Weight:
    """The rows of all parts, of one width, under each other; packed alike they stay packed, else they are bfloat16."""
    scaled = [part for part in parts if isinstance(part, Scaled)]
    blocks = [part for part in parts if isinstance(part, Blocks)]
    if len(scaled) == len(parts) and len({part.rows.dtype for part in scaled}) == 1:
        return Scaled(torch.cat([part.rows for part in scaled]), torch.cat([part.scale for part in scaled]))
    if len(blocks) == len(parts):
        return Blocks(torch.cat([part.raw for part in blocks]), tuple(kind for part in blocks for kind in part.parts),
                      (sum(part.shape[0] for part in blocks), *blocks[0].shape[1:]))
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat(parts)
    return torch.cat([part.float() for part in parts]).bfloat16()


def count_elements(weight: Weight) -> int:
    return math.prod(weight.shape)


def quantize_int8(weight: Tensor) -> Scaled:
    """(out, in) float -> int8 rows with a scale each, as the official file was made."""
    scale = (weight.float().abs().amax(1) / 127).clamp(min=1e-8)
    return Scaled((weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale)


def state_of(weights: Mapping[str, Weight]) -> dict[str, Tensor]:
    """What `load_state_dict` takes of a network whose linear layers may come packed."""
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        found |= {name: weight} if isinstance(weight, Tensor) else weight.state(name)
    return found


class PackedWeight(nn.Module):
    """Of a linear layer whose weight is what its state dict brings: scaled rows, blocks, or a plain one."""
    weight: nn.Parameter
    in_features: int
    blocks: tuple[tuple[int, int], ...] = ()

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        scale, blocks = state_dict.get(f"{prefix}weight_scale"), state_dict.get(f"{prefix}weight_blocks")
        if scale is not None:
            self.weight_scale = nn.Parameter(scale, requires_grad=False)
        if blocks is not None:
            self.register_buffer("weight_blocks", blocks)
            self.blocks = tuple((kind, rows) for kind, rows in blocks.tolist())
        if scale is not None or blocks is not None:
            self.weight = nn.Parameter(state_dict[f"{prefix}weight"], requires_grad=False)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def unpack(self, weight: Tensor) -> Tensor:
        """The packed weight, already in the dtype of the call, as floats; one that a patch replaced as it is."""
        if self.weight.dtype == torch.uint8:
            return unpack_blocks(weight.to(torch.uint8), self.blocks, self.in_features).to(weight)
        scale = getattr(self, "weight_scale", None)
        return weight * scale.to(weight)[:, None] if scale is not None and self.weight.dtype in SCALED else weight


class PackedLinear(PackedWeight, nn.Linear):
    """Without ComfyUI: computes in the dtype of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x)
        return nn.functional.linear(x, self.unpack(self.weight.to(x)), bias)


class PackedLayers:
    """torch's layers for a network whose linear ones may come packed."""
    Linear, Conv3d, LayerNorm, RMSNorm = PackedLinear, nn.Conv3d, nn.LayerNorm, nn.RMSNorm
