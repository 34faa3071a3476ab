"""A LoRA file on a LongCat model: official layout or ordinary pairs, through ComfyUI's own patches.

Layers whose weights are int8 get theirs on the dequantised weight in every call, as the authors' side branch does it:
rounding the sum to int8 again would lose most of a LoRA.
"""
import logging
from collections.abc import Mapping

import comfy.lora
import comfy.lora_convert
import torch
from torch import Tensor

from . import attach
from .longcat.lora import is_official, ordinary

logger = logging.getLogger("lodestar")


class OnWeight:
    """One layer's patch, called by ComfyUI on the layer's dequantised weight (out, in)."""

    def __init__(self, key: str, patch, strength: float):
        self.key, self.patch, self.strength = key, patch, strength

    def __call__(self, weight: Tensor) -> Tensor:
        return comfy.lora.calculate_weight([(self.strength, self.patch, 1.0, None, None)], weight, self.key,
                                           intermediate_dtype=weight.dtype)

    def move_to(self, device) -> int:
        """ComfyUI brings the factors to where the layer is used; bytes, which it counts."""
        weights = getattr(self.patch, "weights", ())
        tensors = [part.to(device) if isinstance(part, Tensor) else part for part in weights]
        if tensors:
            self.patch.weights = tuple(tensors)
        return sum(part.nbytes for part in tensors if isinstance(part, Tensor))


def with_lora(model, weights: Mapping[str, Tensor], strength: float, name: str):
    """A clone of `model` with the LoRA file `name` on it. ValueError where no layer of it fits."""
    own = model.model.state_dict()
    pairs = comfy.lora_convert.convert_lora(ordinary(weights) if is_official(weights) else weights)
    patches = comfy.lora.load_lora(pairs, comfy.lora.model_lora_keys_unet(model.model, {}))
    unfit = [key for key, patch in patches.items() if not fits(patch, own[key].shape)]
    if len(unfit) == len(patches):
        raise ValueError(f"{name}: got {example(patches, own, weights)}, and no layer of this model fits it: the LoRA "
                         f"was made for another model ({type(model.model).__name__} was given)")
    if unfit:
        logger.warning("%s: %d of %d layers have other sizes than the model's and are left out: %s", name, len(unfit),
                       len(patches), ", ".join(sorted(unfit)))
    held = {key: patch for key, patch in patches.items() if key not in unfit}
    functions = {key: OnWeight(key, held.pop(key), strength) for key in list(held) if own[key].dtype == torch.int8}
    return attach.with_weight_patches(model, held, strength, functions)


def fits(patch, shape: torch.Size) -> bool:
    """Whether a pair's matrices have the rows and columns of the weight; other kinds of patch are core's to judge."""
    if getattr(patch, "name", None) != "lora":
        return True
    up, down = patch.weights[:2]
    return up.shape[0] == shape[0] and down.shape[1] == shape[1]


def example(patches: Mapping, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What was got and, where a name matches, what was wanted."""
    if not patches:
        return f"keys such as {next(iter(weights), 'none')!r}"
    key, patch = next(iter(patches.items()))
    return (f"{key} of {patch.weights[0].shape[0]} x {patch.weights[1].shape[1]} (the model's is "
            f"{' x '.join(map(str, own[key].shape))})")
