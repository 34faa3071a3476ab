"""Reads OmniAvatar's published file beside Wan 2.1 T2V's: layers of its own go into the network, LoRA pairs become
ComfyUI's own patches, which stream, offload and work on float 8 weights as any LoRA does.
"""
import math
from pathlib import Path

import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.utils
import torch

from ...networks.omniavatar.weights import PACK, Published, check_base, read_published
from .. import attach
from ..weight_loading import WEIGHT_DTYPES, load_weights, strip_prefix
from .model import OmniAvatarConfig, OmniAvatarNetwork


def load_omniavatar(base: Path, file: Path, strength: float = 1.0, weight_dtype: str = "default"):
    """Two files -> ComfyUI MODEL. ValueError names the input at fault. `strength`: of the LoRA; 1 is as trained."""
    model, pairs = load_network(base, file, weight_dtype), read(file).ordinary_pairs()
    patches = comfy.lora.load_lora(pairs, comfy.lora.model_lora_keys_unet(model.model, {}))
    return attach.with_weight_patches(model, patches, strength, {})


def load_network(base: Path, file: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The network without the LoRA. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own."""
    published = read(file)
    weights, metadata = load_weights(base, "base_name")
    weights = strip_prefix(weights)
    try:
        check_base(weights, published)
    except ValueError as error:
        raise ValueError(f"base_name, omniavatar_name: {base.name} and {file.name}: {error}") from error
    weights, metadata = comfy.utils.convert_old_quants({**weights, **published.whole}, "", metadata=metadata)
    config = config_of(weights, metadata, published)
    refuse_gaps(config, weights, base.name)
    manager = comfy.model_management
    load_device, offload_device = manager.get_torch_device(), manager.unet_offload_device()
    set_dtypes(config, weights, weight_dtype, load_device)
    model = config.get_model(weights)
    patcher = attach.patcher_of(model, load_device, offload_device, disable_dynamic)
    model.to(offload_device)
    dynamic = getattr(patcher, "is_dynamic", bool)()
    model.load_model_weights(weights, "", **({"assign": True} if dynamic else {}))
    patcher.cached_patcher_init = (load_network, (base, file, weight_dtype))     # how ComfyUI makes one elsewhere
    return patcher


def read(file: Path) -> Published:
    weights, _ = load_weights(file, "omniavatar_name")
    try:
        return read_published(weights)
    except ValueError as error:
        raise ValueError(f"omniavatar_name: {file.name} is not OmniAvatar's: {error}. Wanted pytorch_model.pt from its "
                         "repository, or the same as safetensors") from error


def config_of(weights: dict, metadata: dict | None, published: Published) -> OmniAvatarConfig:
    """What ComfyUI finds in the weights, with the speech's sizes."""
    found = comfy.model_detection.model_config_from_unet(weights, "", metadata=metadata)
    hidden, width = published.whole[PACK].shape
    config = OmniAvatarConfig({**found.unet_config, "audio_width": width, "audio_hidden": hidden})
    config.quant_config = found.quant_config
    return config


def refuse_gaps(config: OmniAvatarConfig, weights: dict, name: str) -> None:
    """ValueError where the base lacks one of the network's weights."""
    whole = OmniAvatarNetwork(**config.unet_config, operations=torch.nn, device="meta")
    if missing := [key for key in whole.state_dict() if key not in weights]:
        raise ValueError(f"base_name: {name} lacks {len(missing)} weights of Wan 2.1 text-to-video, {missing[0]} "
                         "first; it is incomplete, or one shard of several. Use one whole file")


def set_dtypes(config: OmniAvatarConfig, weights: dict, chosen: str, device: torch.device) -> None:
    """What weights are kept in and computed in, by ComfyUI's own rules."""
    manager, supported = comfy.model_management, config.supported_inference_dtypes
    packed = config.quant_config is not None
    stored = WEIGHT_DTYPES[chosen] or manager.unet_dtype(
        model_params=sum(math.prod(weight.shape) for weight in weights.values()), supported_dtypes=list(supported),
        weight_dtype=None if packed else comfy.utils.weight_dtype(weights))
    config.set_inference_dtype(stored, manager.unet_manual_cast(None if packed else stored, device, supported))
    config.optimizations["fp8"] = chosen.endswith("_fast")

