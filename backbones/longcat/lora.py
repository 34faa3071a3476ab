"""A LoRA file on a LongCat model: official layout or ordinary pairs, through ComfyUI's own patches.

Layers whose weights are packed (int8, scaled float 8, GGUF) get theirs on the unpacked weight in every call, as the
authors' side branch does it: packing the sum again would lose most of a LoRA. The factors keep the parts of their file,
in no wider a dtype than the model computes in, and are to ComfyUI a model beside the model.
"""
import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.ops
import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor, nn

from ...networks.longcat.checkpoint_formats import wan_names
from ...networks.longcat.lora import is_official, parts_of
from .. import attach
from .operations import PackedLinear

PREFIX = "diffusion_model."
logger = logging.getLogger("lodestar")


class Factor(nn.Module, comfy.ops.CastWeightBiasOp):
    """One tensor of a LoRA, where ComfyUI keeps it: on the device, or brought there for a call."""
    comfy_cast_weights = True
    bias = None

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)


class OnWeight:
    """One layer's patches, called by ComfyUI on the layer's unpacked weight (out, in).

    `patches`: as core lists them, with a Factor in place of each tensor.
    """

    def __init__(self, key: str):
        self.key = key
        self.patches: list[tuple] = []

    def __call__(self, weight: Tensor) -> Tensor:
        held: list[tuple] = []

        def bring(factor: Any) -> Any:
            if not isinstance(factor, Factor):
                return factor
            held.append((factor, *comfy.ops.cast_bias_weight(factor, device=weight.device, dtype=weight.dtype,
                                                             offloadable=True)))
            return held[-1][1]

        patches = [(strength, each(value, bring), *rest) for strength, value, *rest in self.patches]
        weight = comfy.lora.calculate_weight(patches, weight, self.key, intermediate_dtype=weight.dtype)
        for cast in held:
            comfy.ops.uncast_bias_weight(*cast)
        return weight


class LoraFactors(nn.Module):
    """All factors of one file for the layers whose weights are packed; ComfyUI sees its size."""

    def __init__(self):
        super().__init__()
        self.factors = nn.ModuleList()

    def hold(self, value: Any, computed: torch.dtype) -> Any:
        """`value`, an adapter or what core has in its place, with a Factor for every matrix in it."""
        def keep(part: Any) -> Any:
            if not isinstance(part, Tensor) or part.ndim < 2:
                return part
            self.factors.append(Factor(part.to(computed) if computed.itemsize <= part.dtype.itemsize else part))
            return self.factors[-1]
        return each(value, keep)


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A LoRA's patch with every part of it changed."""
    if isinstance(value, WeightAdapterBase):
        return type(value)(value.loaded_keys, each(value.weights, change))
    if isinstance(value, (tuple, list)):
        return type(value)(each(part, change) for part in value)
    return change(value)


def with_lora(model, weights: Mapping[str, Tensor], strength: float, name: str):
    """A clone of `model` with the LoRA file `name` on it. ValueError where no layer of it fits."""
    own, patches = shapes_of(model.model), patches_of(model.model, weights)
    unfit = {key for key, patch in patches.items() if not fits(patch, rows_of(key, own))}
    if len(unfit) == len(patches):
        raise ValueError(f"{name}: got {example(patches, own, weights)}, and no layer of this model fits it: the LoRA "
                         f"was made for another model ({type(model.model).__name__} was given)")
    if unfit:
        layers = {layer_of(key) for key in patches}
        logger.warning("%s: %d of %d layers have other sizes than the model's and are left out: %s", name,
                       len({layer_of(key) for key in unfit}), len(layers), ", ".join(sorted(map(layer_of, unfit))))
    held = {key: patch for key, patch in patches.items() if key not in unfit}
    factors = LoraFactors()
    functions: dict[str, OnWeight] = {}
    for key in list(held):
        layer = model.model.get_submodule(layer_of(key).rpartition(".")[0])
        if isinstance(layer, PackedLinear):
            value, offset = factors.hold(held.pop(key), layer.float_dtype), None if isinstance(key, str) else key[1]
            functions.setdefault(layer_of(key), OnWeight(layer_of(key))).patches.append((strength, value, 1.0, offset,
                                                                                         None))
    return attach.with_weight_patches(model, held, strength, functions, factors if functions else None)


def patches_of(base: nn.Module, weights: Mapping[str, Tensor]) -> dict:
    """Core's patches by core's keys: a weight's name, or with it the rows that are meant."""
    layers = comfy.lora.model_lora_keys_unet(base, {})
    if not is_official(weights):
        return comfy.lora.load_lora(comfy.lora_convert.convert_lora(weights), with_wan_names(base, layers))
    pairs: dict[str, Tensor] = {}
    places: dict[str, Any] = {}
    for path, parts in parts_of(weights).items():
        layer = PREFIX + path
        for number, part in enumerate(parts):
            name = layer if len(parts) == 1 else f"{layer}.{number}"
            pairs |= {f"{name}.lora_down.weight": part.down, f"{name}.lora_up.weight": part.up, f"{name}.alpha":
                      part.alpha}
            if layer in layers:
                places[name] = layers[layer] if len(parts) == 1 else (layers[layer], (0, part.first, len(part.up)))
    return comfy.lora.load_lora(pairs, places)


def with_wan_names(base: nn.Module, layers: Mapping[str, str]) -> dict:
    """Core's names of layers, and those that files made for WanVideoWrapper have: q, k and v are rows of one layer."""
    shapes = shapes_of(base)
    found: dict[str, Any] = dict(layers)
    for key in [key for key in shapes if key.startswith(PREFIX) and key.endswith(".weight")]:
        names = wan_names(key.removeprefix(PREFIX).removesuffix(".weight"))
        share = shapes[key][0] // len(names)
        for number, name in enumerate(names):
            found.setdefault(PREFIX + name, key if len(names) == 1 else (key, (0, number * share, share)))
    return found


def layer_of(key) -> str:
    return key if isinstance(key, str) else key[0]


def shapes_of(base: nn.Module) -> dict[str, tuple[int, ...]]:
    """Every weight's shape as the layer computes with it, whatever is kept of it."""
    shapes = {key: tuple(weight.shape) for key, weight in base.state_dict().items()}
    return shapes | {f"{path}.weight": (layer.out_features, layer.in_features) for path, layer in base.named_modules()
                     if isinstance(layer, PackedLinear)}


def rows_of(key, own: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of what a patch changes. (0, ...) where the rows that it means are not there."""
    shape = own[layer_of(key)]
    if isinstance(key, str):
        return shape
    _, first, length = key[1]
    return (length if first + length <= shape[0] else 0, *shape[1:])


def fits(patch, shape: tuple[int, ...]) -> bool:
    """Whether a pair's matrices have the rows and columns of the weight; other kinds of patch are core's to judge."""
    if getattr(patch, "name", None) != "lora":
        return True
    up, down = patch.weights[:2]
    return up.shape[0] == shape[0] and down.shape[1] == shape[1]


def example(patches: Mapping, own: Mapping[str, tuple[int, ...]], weights: Mapping[str, Tensor]) -> str:
    """What was got and, where a name matches, what was wanted."""
    if not patches:
        return f"keys such as {next(iter(weights), 'none')!r}"
    key, patch = next(iter(patches.items()))
    return (f"{layer_of(key)} of {patch.weights[0].shape[0]} x {patch.weights[1].shape[1]} (the model's is "
            f"{' x '.join(map(str, rows_of(key, own)))})")
