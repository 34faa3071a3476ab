"""A network on ComfyUI's classes with weights from our own hands: what its loader does for one, in the same order."""
import math
from collections.abc import Mapping

import comfy.model_detection
import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from . import attach
from .weight_loading import WEIGHT_DTYPES

LISTED = 3      # of weights that are missing, named in an error


def fill_network(config, weights: dict[str, Tensor], weight_dtype: str = "default", disable_dynamic: bool = False):
    """ComfyUI MODEL of `config`, one of comfy.supported_models, with `weights` by its network's own names.

    `weight_dtype`: a key of WEIGHT_DTYPES. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own.
    """
    manager = comfy.model_management
    load_device, offload_device = manager.get_torch_device(), manager.unet_offload_device()
    set_dtypes(config, weights, weight_dtype, load_device)
    model = config.get_model(weights)
    patcher = attach.patcher_of(model, load_device, offload_device, disable_dynamic)
    model.to(offload_device)
    dynamic = getattr(patcher, "is_dynamic", bool)()
    model.load_model_weights(weights, "", **({"assign": True} if dynamic else {}))
    return patcher


def fill_whole(kind: type, weights: dict[str, Tensor], metadata: dict | None, what: str, weight_dtype: str = "default",
               disable_dynamic: bool = False, **settings):
    """ComfyUI MODEL of weights that are to be all of a network's. `kind`: a config of ours, whose `network` is the
    class; `settings`: of it, beside what ComfyUI finds. Raises ValueError, begun with `what`, where they are not.
    """
    weights, metadata = comfy.utils.convert_old_quants(weights, "", metadata=metadata)
    config = find_config(weights, metadata, kind, what, **settings)
    check_fit(kind.network(**config.unet_config, operations=torch.nn, device="meta"), weights, what)   # type: ignore
    return fill_network(config, weights, weight_dtype, disable_dynamic)


def check_fit(network: torch.nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Raises ValueError, begun with `what`, unless `weights` are those of `network`, a module on the meta device."""
    wanted = network.state_dict()
    if missing := [name for name in wanted if name not in weights]:
        raise ValueError(f"{what} lacks {len(missing)} of {len(wanted)} weights: {', '.join(missing[:LISTED])}"
                         f"{', ...' if len(missing) > LISTED else ''}. It is incomplete; download it again")
    for name, weight in wanted.items():
        packed = f"{name.rpartition('.')[0]}.comfy_quant" in weights       # has a shape of its format's
        if not packed and weights[name].shape != weight.shape:
            raise ValueError(f"{what} has {name} of {tuple(weights[name].shape)}, wanted {tuple(weight.shape)}; it is "
                             "another model's")


def find_config(weights: dict[str, Tensor], metadata: dict | None, kind: type, what: str, **settings):
    """What ComfyUI finds in the weights, as `kind`, a config of ours, with further `settings` of the network. Raises
    ValueError, begun with `what`, where it finds nothing."""
    found = comfy.model_detection.model_config_from_unet(weights, "", metadata=metadata)
    if found is None:
        raise ValueError(f"{what} lacks those of its {len(weights)} weights that ComfyUI would know it by, such as "
                         "head.modulation; it is incomplete. Download it again")
    config = kind({**found.unet_config, **settings})
    config.quant_config = found.quant_config
    return config


def set_dtypes(config, weights: Mapping[str, Tensor], chosen: str, device: torch.device) -> None:
    """What weights are kept in and computed in, by ComfyUI's own rules."""
    manager, supported = comfy.model_management, config.supported_inference_dtypes
    packed = config.quant_config is not None
    stored = WEIGHT_DTYPES[chosen] or manager.unet_dtype(
        model_params=sum(math.prod(weight.shape) for weight in weights.values()), supported_dtypes=list(supported),
        weight_dtype=None if packed else comfy.utils.weight_dtype(weights))
    config.set_inference_dtype(stored, manager.unet_manual_cast(None if packed else stored, device, supported))
    config.optimizations["fp8"] = chosen.endswith("_fast")
