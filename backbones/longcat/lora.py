"""Official LongCat LoRA files as ordinary LoRA pairs (paper 001's distilled and refinement weights).

Fused layers are trained in 2, 3 or 6 parts, which become one pair with a block-diagonal up matrix: the same weights.
The scale is the file's own `alpha_scale`.
"""
from collections.abc import Mapping

import torch
from torch import Tensor

PREFIX, DOT = "lora___lorahyphen___", "___lorahyphen___"


def is_official(weights: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(PREFIX) for name in weights)


def ordinary(weights: Mapping[str, Tensor], prefix: str = "diffusion_model.") -> dict[str, Tensor]:
    """{prefix + module path + .lora_down.weight | .lora_up.weight | .alpha}: (rank, in), (out, rank), scalar.

    alpha is alpha_scale * rank, as every LoRA loader divides by the rank. Raises ValueError on another layout.
    """
    pairs = {}
    for name, down in weights.items():
        if not name.endswith(".lora_down.weight"):
            continue
        stem = name.removesuffix(".lora_down.weight")
        path = prefix + stem.removeprefix(PREFIX).replace(DOT, ".")
        pairs[f"{path}.lora_down.weight"] = down
        pairs[f"{path}.lora_up.weight"] = whole_up(weights, stem)
        if pairs[f"{path}.lora_up.weight"].shape[1] != down.shape[0]:
            raise ValueError(f"{stem}: got a down matrix of rank {down.shape[0]} and up matrices of rank "
                             f"{pairs[f'{path}.lora_up.weight'].shape[1]}, wanted the same rank: the file is damaged")
        pairs[f"{path}.alpha"] = weights[f"{stem}.alpha_scale"].float() * down.shape[0]
    if not pairs:
        raise ValueError(f"LoRA: got keys such as {next(iter(weights), 'none')!r}, wanted the official LongCat layout "
                         f"({PREFIX}...)")
    return pairs


def whole_up(weights: Mapping[str, Tensor], stem: str) -> Tensor:
    """The up matrix (out, rank) of one layer: as it is, or its parts along the diagonal."""
    if f"{stem}.lora_up.weight" in weights:
        return weights[f"{stem}.lora_up.weight"]
    parts = sum(name.startswith(f"{stem}.lora_up.blocks.") for name in weights)
    if not parts:
        raise ValueError(f"{stem}: got no lora_up, wanted one for every lora_down: the file is damaged")
    return torch.block_diag(*(weights[f"{stem}.lora_up.blocks.{part}.weight"] for part in range(parts)))
