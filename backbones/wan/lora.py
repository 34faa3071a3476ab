"""LoRA files as DiffSynth's trainer saves them (EverAnimate, Stable Video Infinity): the network's own names without a
prefix, and no alpha, which is then the rank. ComfyUI's loader knows the same layers with a prefix, merged alike.
"""
import logging
from collections.abc import Mapping

import comfy.lora
import comfy.lora_convert
from torch import Tensor

from .. import attach
from ..weight_loading import PREFIXES

PREFIX = PREFIXES[-1]
logger = logging.getLogger("lodestar")


def with_plain_lora(model, weights: Mapping[str, Tensor], strength: float, file_name: str):
    """A clone of a MODEL with the LoRA's patches, by core. Raises ValueError where it has none for this model, and for
    some layers only."""
    named = {key if key.startswith(PREFIXES) else PREFIX + key: weight for key, weight in weights.items()}
    layers = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(named)), layers)
    if not patches:
        raise ValueError(f"lora_name: {file_name} has no layer of this model: its first key is "
                         f"{next(iter(weights), 'none')!r}. Choose a LoRA that was trained for this model, or use "
                         "ComfyUI's own LoRA loader")
    clone = attach.with_weight_patches(model, patches, strength, {})
    logger.info("%s: %d layers have the LoRA", file_name, len(patches))
    return clone
