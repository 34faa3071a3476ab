"""Forms in which LongCat-Video checkpoints come, made one: packings, and layers under the names of Wan's.

Packings: the authors' int8 rows (X.weight_int8, X.weight_scale), scaled float 8 (a marker `scaled_fp8` with
X.scale_weight, or X.weight_scale), and ComfyUI's own (X.comfy_quant, or a list in the metadata). Names: a file made for
WanVideoWrapper calls the layers as Wan's are called, with q, k and v apart.
"""
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from ..packed import Scaled, Weight, join_rows

MARKER, LISTED = "scaled_fp8", "_quantization_metadata"
SCALES = (".weight_scale", ".scale_weight")
INPUT_SCALES = (".input_scale", ".scale_input")     # for multiplying in float 8; here weights are unpacked instead
FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
WAN = ("patch_embedding.weight", "blocks.0.self_attn.o.weight", "blocks.0.ffn.w1.weight")    # Wan's own has no w1
JOINED = {"attn.qkv": ("self_attn.q", "self_attn.k", "self_attn.v"), "cross_attn.kv_linear": ("cross_attn.k",
          "cross_attn.v")}
RENAMED = {"patch_embedding": "x_embedder.proj", "text_embedding": "y_embedder.y_proj", "time_embedding": "t_embedder",
           "multitalk_audio_proj": "audio_proj", "head.head": "final_layer.linear",
           "head.modulation": "final_layer.adaLN_modulation"}
RENAMED_IN_BLOCK = {"self_attn.o": "attn.proj", "self_attn.norm_q": "attn.q_norm", "self_attn.norm_k": "attn.k_norm",
                    "cross_attn.q": "cross_attn.q_linear", "cross_attn.o": "cross_attn.proj",
                    "cross_attn.norm_q": "cross_attn.q_norm", "cross_attn.norm_k": "cross_attn.k_norm",
                    "norm3": "pre_crs_attn_norm", "norm_x": "pre_video_crs_attn_norm",
                    "modulation": "adaLN_modulation", "audio_modulation": "audio_adaLN_modulation"}


def convert_to_official(weights: Mapping[str, Weight], metadata: Mapping[str, str]) -> dict[str, Weight]:
    """{official name: weight}. ValueError where a packing is not read."""
    packed = attach_scales(weights, formats_of(weights, metadata))
    return rename_from_wan(packed) if all(name in packed for name in WAN) else packed


# ---------------------------------------------------------------- packings

def formats_of(weights: Mapping[str, Weight], metadata: Mapping[str, str]) -> dict[str, dict]:
    """What ComfyUI's own marks say of each layer: {layer: its settings}."""
    found = dict(json.loads(metadata[LISTED])["layers"]) if LISTED in metadata else {}
    for name, mark in weights.items():
        if name.endswith(".comfy_quant") and isinstance(mark, Tensor):
            found[name.removesuffix(".comfy_quant")] = json.loads(bytes(mark.tolist()))
    return found


def attach_scales(weights: Mapping[str, Weight], formats: Mapping[str, dict]) -> dict[str, Weight]:
    """Each weight with its scale as one; marks and scales of inputs left out."""
    scales = {name.removesuffix(ending): scale for name, scale in weights.items() for ending in SCALES
              if name.endswith(ending) and isinstance(scale, Tensor)}
    found: dict[str, Weight] = {}
    for name, weight in weights.items():
        layer = name.removesuffix("_int8").removesuffix(".weight")
        if name == MARKER or name.endswith((*SCALES, *INPUT_SCALES, ".comfy_quant")):
            continue
        if not isinstance(weight, Tensor) or not name.endswith((".weight", ".weight_int8")):
            found[name] = weight
        elif layer in formats or layer in scales and weight.dtype in (torch.int8, *FLOAT8):
            found[f"{layer}.weight"] = attach_scale(layer, weight, scales.get(layer), formats.get(layer, {}))
        else:
            found[name] = weight
    for layer, scale in scales.items():     # one beside a weight that is none of these is not for us to leave out
        if isinstance(weight := found.get(f"{layer}.weight"), Tensor) and not (scale == 1).all():
            raise ValueError(f"{layer} has a scale of its own and a weight in {weight.dtype}, which needs none; "
                             "download the model in another packing")
    return found


def attach_scale(layer: str, weight: Tensor, scale: Tensor | None, settings: Mapping) -> Scaled:
    kind = settings.get("format", str(weight.dtype).removeprefix("torch."))
    wanted = FORMATS.get(kind, weight.dtype)
    rotated = settings.get("convrot") or settings.get("params", {}).get("convrot")
    if "format" in settings and kind not in FORMATS or rotated or wanted.itemsize != weight.dtype.itemsize:
        raise ValueError(f"{layer} is packed as {kind}{' with rotation' if rotated else ''}, which is not read here "
                         f"(read are {', '.join(FORMATS)}, the official int8 and GGUF); download the model in one of "
                         "these")
    scale = torch.ones(()) if scale is None else scale
    if scale.numel() not in (1, weight.shape[0]):
        raise ValueError(f"{layer} has scales of shape {tuple(scale.shape)} for {weight.shape[0]} rows, wanted one, or "
                         "one for each row; download the model in a packing of this kind")
    return Scaled(weight.view(wanted), scale.float().flatten().expand(weight.shape[0]).contiguous())


# ---------------------------------------------------------------- names

def rename_from_wan(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """Wan's names -> the official ones; q, k and v become one layer."""
    parts = {part: whole for whole, group in JOINED.items() for part in group}
    found: dict[str, Weight] = {}
    waiting: dict[str, dict[str, Weight]] = {}
    for name, weight in weights.items():
        layer, _, ending = name.rpartition(".")
        block, inner = split_block(layer)
        if block and inner in parts:
            waiting.setdefault(f"{block}{parts[inner]}.{ending}", {})[inner] = weight
        else:
            found[f"{block}{rename_prefix(inner, RENAMED_IN_BLOCK if block else RENAMED)}.{ending}"] = weight
    for name, group in waiting.items():
        wanted = next(places for whole, places in JOINED.items() if f".{whole}." in f".{name}")
        if missing := [part for part in wanted if part not in group]:
            raise ValueError(f"the weights lack {missing[0]} beside {', '.join(group)}; the file is incomplete, "
                             "download it again")
        found[name] = join_rows([group[part] for part in wanted])
    return found


def wan_names(layer: str) -> list[str]:
    """What Wan's names are for a layer, or for the parts of one: the parts from the first row on, in equal shares."""
    block, inner = split_block(layer)
    if block and inner in JOINED:
        return [f"{block}{part}" for part in JOINED[inner]]
    table = {new: old for old, new in (RENAMED_IN_BLOCK if block else RENAMED).items()}
    return [f"{block}{rename_prefix(inner, table)}"]


def split_block(layer: str) -> tuple[str, str]:
    """("blocks.N." or "", the rest)."""
    if not layer.startswith("blocks."):
        return "", layer
    number, _, inner = layer.removeprefix("blocks.").partition(".")
    return f"blocks.{number}.", inner


def rename_prefix(layer: str, table: Mapping[str, str]) -> str:
    """`layer` with the beginning that stands in `table` replaced: whole words only, the longest first."""
    for old in sorted(table, key=len, reverse=True):
        if layer == old or layer.startswith(f"{old}."):
            return table[old] + layer[len(old):]
    return layer
