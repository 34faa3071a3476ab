"""Reads LongCat-Video checkpoints: one safetensors or GGUF file, or the authors' folder of indexed shards.

The weights say what they are (LongCat-Video, Avatar 1.0 or 1.5; bf16, float 8, the official int8, scaled float 8 or
int8, GGUF); everything else is refused by name. Files are mapped, not copied: a tensor is copied only where its dtype
has to change, or where one layer's q, k and v come apart.
"""
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor, nn

from ...networks.gguf_file import read_gguf
from ...networks.longcat.checkpoint_formats import convert_to_official
from ...networks.longcat.config import LongCatConfig
from ...networks.longcat.network import LongCat
from ...networks.longcat.versions import Version, version_of
from ...networks.packed import Packed, Weight, count_elements
from .. import attach
from ..weight_loading import WEIGHT_DTYPES, load_weights, strip_prefix, why_unreadable
from .model import Float8Operations, LongCatModelConfig
from .operations import PackedLinear, PackedOperations

INDEX = "*.safetensors.index.json"
GGUF = ".gguf"
UNSEEN = ("keep_padding", "class_range", "class_interval")      # of a config: nothing in the weights shows them

Weights = dict[str, Weight]
logger = logging.getLogger("lodestar")


def load_longcat(path: str, weight_dtype: str = "default", disable_dynamic: bool = False):
    """A file or a folder -> ComfyUI MODEL. ValueError names `model_name` and what is wrong with it.

    `weight_dtype`: a key of WEIGHT_DTYPES. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own.
    """
    name = Path(path).name
    weights, config_json = read_checkpoint(Path(path))
    config = config_of(name, weights, config_json)
    refuse_misfits(name, config, weights)
    kinds = sorted({weight.kind for weight in weights.values() if isinstance(weight, Packed)})
    if kinds and WEIGHT_DTYPES[weight_dtype] is not None:
        raise ValueError(f"weight_dtype: got {weight_dtype}, but {name} is {', '.join(kinds)} already; choose default")
    manager = comfy.model_management
    load_device, offload_device = manager.get_torch_device(), manager.unet_offload_device()
    stored, cast = dtypes(weights, bool(kinds), WEIGHT_DTYPES[weight_dtype], load_device)
    operations = PackedOperations if kinds else \
        operations_for(stored, cast, load_device, weight_dtype.endswith("_fast"))
    model_config = LongCatModelConfig(config, find_version(name, config, config_json), operations)
    model_config.set_inference_dtype(stored, cast)
    model = model_config.get_model(weights, device=torch.device("meta"))
    fill(model.diffusion_model, weights, stored, cast or stored)
    model.device = offload_device
    model.to(offload_device)
    patcher = attach.patcher_of(model, load_device, offload_device, disable_dynamic)
    patcher.cached_patcher_init = (load_longcat, (path, weight_dtype))     # how ComfyUI makes one for another device
    return patcher


def dtypes(weights: Weights, packed: bool, chosen: torch.dtype | None, device) -> tuple:
    """What plain weights are kept in, and what they are cast to for computing (None: the same): ComfyUI's own rules."""
    manager, supported = comfy.model_management, LongCatModelConfig.supported_inference_dtypes
    count = sum(map(count_elements, weights.values()))
    stored = chosen or manager.unet_dtype(model_params=count, supported_dtypes=supported,
                                          weight_dtype=None if packed else comfy.utils.weight_dtype(weights))
    cast = manager.unet_manual_cast(stored, device, supported)
    return (cast, None) if packed and stored.itemsize == 1 else (stored, cast)


def operations_for(stored: torch.dtype, cast: torch.dtype | None, device, fast: bool) -> type[comfy.ops.manual_cast]:
    picked = comfy.ops.pick_operations(stored, cast, device, fp8_optimizations=fast)
    return Float8Operations if picked is comfy.ops.fp8_ops else comfy.ops.manual_cast


def fill(network, weights: Weights, stored: torch.dtype, computed: torch.dtype) -> None:
    """Give the network its weights without a second copy of them; `weights` is emptied.

    With a float 8 `stored` only the blocks' large matrices are in it: norms, biases, embedders and all that is computed
    in float32 keep more. What comes packed stays so in layers that unpack it.
    """
    ready: dict[str, Tensor] = {}
    for name in list(weights):
        weight = weights.pop(name)
        if isinstance(weight, Packed) and isinstance(layer_of(network, name), PackedLinear):
            ready |= weight.state(name)
        else:
            matrix = name.startswith("blocks.") and len(weight.shape) == 2 and "adaLN" not in name
            plain = weight.float() if isinstance(weight, Packed) else weight
            ready[name] = plain.to(stored if stored.itemsize > 1 or matrix else computed)
    network.load_state_dict(ready, assign=True)
    network.requires_grad_(False)
    if hasattr(comfy.model_management, "archive_model_dtypes"):     # newer ComfyUI casts each weight to what it noted
        comfy.model_management.archive_model_dtypes(network)


def layer_of(network: nn.Module, name: str) -> nn.Module | None:
    """The layer whose `weight` a name is."""
    path, _, part = name.rpartition(".")
    return network.get_submodule(path) if part == "weight" else None


# ---------------------------------------------------------------- reading

def read_checkpoint(path: Path) -> tuple[Weights, Mapping | None]:
    """(weights under their official names, the config that came with them or None)."""
    if path.is_dir():
        weights, metadata = read_folder(path)
        text = (path / "config.json").read_text("utf-8") if (path / "config.json").is_file() else None
    else:
        weights, metadata = read_file(path)
        text = metadata.get("config")
    try:
        weights = convert_to_official(strip_prefix(weights), metadata)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"model_name: {path.name} cannot be read: {error}") from error
    return weights, None if text is None else read_json(f"the config of {path.name}", text)


def read_file(path: Path) -> tuple[Weights, Mapping[str, str]]:
    """(weights, mapped from the file; its metadata)."""
    if path.suffix.lower() != GGUF:
        return load_weights(path, "model_name")
    try:
        return read_gguf(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"model_name: {why_unreadable(path, error)}") from error


def read_folder(folder: Path) -> tuple[Weights, Mapping[str, str]]:
    """(all shards that the folder's index names, their metadata)."""
    indices = sorted(folder.glob(INDEX))
    if len(indices) != 1:
        raise ValueError(f"model_name: {folder.name} has {len(indices)} files {INDEX}, wanted one; download the whole "
                         "folder of the official repository")
    listed = read_json(indices[0].name, indices[0].read_text("utf-8")).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"model_name: {indices[0].name} has no weight_map; download it again")
    if outside := [shard for shard in listed.values() if not isinstance(shard, str) or Path(shard).name != shard]:
        raise ValueError(f"model_name: {indices[0].name} names {outside[0]!r}, which is no file of its own folder; "
                         "download the whole folder of the official repository")
    shards = sorted(set(listed.values()))
    if gone := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ValueError(f"model_name: {folder.name} lacks {len(gone)} of {len(shards)} shards that its index names, "
                         f"{gone[0]} first; download them")
    weights: Weights = {}
    metadata: dict[str, str] = {}
    for shard in shards:
        found, notes = read_file(folder / shard)
        weights |= found
        metadata |= notes
    if absent := sorted(set(listed) - set(weights)):
        raise ValueError(f"model_name: the shards of {folder.name} lack {len(absent)} weights that the index names, "
                         f"{absent[0]} in {listed[absent[0]]} first; download that shard again")
    return weights, metadata


def read_json(name: str, text: str) -> Mapping:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"model_name: {name} is not readable JSON ({error}); download it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"model_name: {name} holds a {type(found).__name__}, wanted an object; download it again")
    return found


# ---------------------------------------------------------------- what it is

def config_of(name: str, weights: Weights, config_json: Mapping | None) -> LongCatConfig:
    """Inferred from the weights; what they cannot show comes from the config, which must agree with them."""
    try:
        seen = LongCatConfig.from_weights(weights)
        said = None if config_json is None else LongCatConfig.from_json(config_json)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model_name: {name} is no LongCat-Video checkpoint: {error}. It has {len(weights)} weights, "
                         f"such as {', '.join(list(weights)[:3]) or 'none'}; load it with the loader of its own "
                         "model") from error
    if said is None:
        return seen
    for field, value in flat(said).items():
        if field not in UNSEEN and flat(seen).get(field) != value:
            raise ValueError(f"model_name: the config of {name} says {field} {value}, its weights have "
                             f"{flat(seen).get(field)}: they belong to different models; download both again")
    return said


def flat(config: LongCatConfig) -> dict:
    """A config's values in one dict, the audio path's beside the others."""
    fields = asdict(config)
    return {**fields, **(fields["audio"] or {}), "audio": config.audio is not None}


def find_version(name: str, config: LongCatConfig, config_json: Mapping | None) -> Version:
    """By the speech features that the network takes, and the config that came with them."""
    if config.audio is None:
        return version_of(None)
    try:
        return version_of(config.audio.width, None if config_json is None else config_json["audio_block"])
    except ValueError as error:
        raise ValueError(f"model_name: {name} is no LongCat version that is known here: {error}") from error


def refuse_misfits(name: str, config: LongCatConfig, weights: Weights) -> None:
    """Every weight of the network is there in its shape, and nothing besides."""
    expected = LongCat(config, torch.nn, optimized_attention, device="meta").state_dict()
    wanted = {key: tuple(tensor.shape) for key, tensor in expected.items()}
    found = {key: tuple(weight.shape) for key, weight in weights.items()}
    if missing := [key for key in wanted if key not in found]:
        raise ValueError(f"model_name: {name} lacks {len(missing)} of {len(wanted)} weights, {missing[0]} first; it is "
                         "incomplete, or one shard of several, which belong in one folder with their index")
    if unknown := [key for key in found if key not in wanted]:
        raise ValueError(f"model_name: {name} has {len(unknown)} weights that LongCat-Video has not, {unknown[0]} "
                         "first; it is another model, or packed in an unknown way. Use the official file")
    for key, shape in wanted.items():
        if found[key] != shape:
            raise ValueError(f"model_name: {name} has {key} in shape {found[key]}, wanted {shape}; it is damaged or "
                             "another model")
