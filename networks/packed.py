"""Weights of linear layers that stay packed in memory and are unpacked in every call: scaled rows, and GGUF's blocks.

A network's layer keeps what `state` names: its `weight`, and what tells how to read it. A file's parts of one layer (q,
k and v) become one weight with `joined`.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .gguf_blocks import KINDS, decoded

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
        return unpacked(self.raw, self.parts, self.shape[-1]).reshape(self.shape)


Packed: TypeAlias = Scaled | Blocks
Weight: TypeAlias = Tensor | Scaled | Blocks


def unpacked(raw: Tensor, parts: Sequence[tuple[int, int]], width: int) -> Tensor:
    """Bytes of rows of several kinds -> (rows, width) float32."""
    sizes = [rows * width // KINDS[kind].length * KINDS[kind].size for kind, rows in parts]
    rows = [decoded(part, kind, width) for part, (kind, _) in zip(raw.split(sizes), parts, strict=True)]
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def joined(parts: Sequence[Weight]) -> Weight:
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


def count(weight: Weight) -> int:
    return math.prod(weight.shape)
