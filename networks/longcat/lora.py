"""Official LongCat LoRA files (the distilled and refinement weights): their parts, and ordinary pairs of them.

A fused layer (qkv, kv, modulation) is trained in 2, 3 or 6 parts, each with rows of its own: a part is an ordinary
pair.
For a loader that knows no parts they become one pair with a block-diagonal up matrix: the same weights, more
parameters. The scale is the file's own `alpha_scale`.
"""
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

PREFIX, DOT = "lora___lorahyphen___", "___lorahyphen___"


class Pair(NamedTuple):
    """down (rank, in), up (rows, rank), alpha: the change of the layer's `rows` from `first` on is alpha / rank * up @
    down."""
    down: Tensor
    up: Tensor
    alpha: Tensor
    first: int


def is_official(weights: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(PREFIX) for name in weights)


def parts_of(weights: Mapping[str, Tensor]) -> dict[str, list[Pair]]:
    """{module path: its parts from the first row to the last}. Raises ValueError on another layout."""
    found = {}
    for name, down in weights.items():
        if name.endswith(".lora_down.weight"):
            layer = name.removesuffix(".lora_down.weight")
            found[layer.removeprefix(PREFIX).replace(DOT, ".")] = pairs_of(weights, layer, down)
    if not found:
        raise ValueError(f"LoRA: got keys such as {next(iter(weights), 'none')!r}, wanted the official LongCat layout "
                         f"({PREFIX}...)")
    return found


def pairs_of(weights: Mapping[str, Tensor], layer: str, down: Tensor) -> list[Pair]:
    ups = ups_of(weights, layer)
    if sum(up.shape[1] for up in ups) != down.shape[0]:
        raise ValueError(f"{layer}: got a down matrix of rank {down.shape[0]} and up matrices of rank "
                         f"{sum(up.shape[1] for up in ups)}, wanted the same rank: the file is damaged")
    scale, first, pairs = weights[f"{layer}.alpha_scale"].float(), 0, []
    for part, up in zip(down.split([up.shape[1] for up in ups]), ups, strict=True):
        pairs.append(Pair(part, up, scale * len(part), first))
        first += len(up)
    return pairs


def ups_of(weights: Mapping[str, Tensor], layer: str) -> list[Tensor]:
    """The up matrices of one layer: the one, or its blocks."""
    if f"{layer}.lora_up.weight" in weights:
        return [weights[f"{layer}.lora_up.weight"]]
    blocks = sum(name.startswith(f"{layer}.lora_up.blocks.") for name in weights)
    if not blocks:
        raise ValueError(f"{layer}: got no lora_up, wanted one for every lora_down: the file is damaged")
    return [weights[f"{layer}.lora_up.blocks.{block}.weight"] for block in range(blocks)]


def ordinary(weights: Mapping[str, Tensor], prefix: str = "diffusion_model.") -> dict[str, Tensor]:
    """{prefix + module path + .lora_down.weight | .lora_up.weight | .alpha}: (rank, in), (out, rank), scalar, the parts
    of a layer as one pair.

    alpha is alpha_scale * rank, as every LoRA loader divides by the rank. Raises ValueError on another layout.
    """
    found = {}
    for path, pairs in parts_of(weights).items():
        found[f"{prefix}{path}.lora_down.weight"] = torch.cat([pair.down for pair in pairs])
        found[f"{prefix}{path}.lora_up.weight"] = torch.block_diag(*(pair.up for pair in pairs))
        found[f"{prefix}{path}.alpha"] = sum(pair.alpha for pair in pairs)
    return found
