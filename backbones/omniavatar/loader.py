"""Reads OmniAvatar's published file beside Wan 2.1 T2V's: layers of its own go into the network, LoRA pairs become
ComfyUI's own patches, which stream, offload and work on float 8 weights as any LoRA does.
"""
from pathlib import Path

import comfy.lora
import comfy.utils
import torch

from ...networks.omniavatar.weights import PACK, Published, check_base, read_published
from .. import attach
from ..network_loading import fill_network, find_config
from ..weight_loading import load_weights, strip_prefix
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
    config = config_of(weights, metadata, published, base.name)
    refuse_gaps(config, weights, base.name)
    patcher = fill_network(config, weights, weight_dtype, disable_dynamic)
    patcher.cached_patcher_init = (load_network, (base, file, weight_dtype))     # how ComfyUI makes one elsewhere
    return patcher


def read(file: Path) -> Published:
    weights, _ = load_weights(file, "omniavatar_name")
    try:
        return read_published(weights)
    except ValueError as error:
        raise ValueError(f"omniavatar_name: {file.name} is not OmniAvatar's: {error}. Wanted pytorch_model.pt from its "
                         "repository, or the same as safetensors") from error


def config_of(weights: dict, metadata: dict | None, published: Published, name: str) -> OmniAvatarConfig:
    """What ComfyUI finds in the weights, with the speech's sizes."""
    hidden, width = published.whole[PACK].shape
    return find_config(weights, metadata, OmniAvatarConfig, f"base_name: {name}", audio_width=width,
                       audio_hidden=hidden)


def refuse_gaps(config: OmniAvatarConfig, weights: dict, name: str) -> None:
    """ValueError where the base lacks one of the network's weights."""
    whole = OmniAvatarNetwork(**config.unet_config, operations=torch.nn, device="meta")
    if missing := [key for key in whole.state_dict() if key not in weights]:
        raise ValueError(f"base_name: {name} lacks {len(missing)} weights of Wan 2.1 text-to-video, {missing[0]} "
                         "first; it is incomplete, or one shard of several. Use one whole file")
