"""Writes tiny random LongCat-Video checkpoints and LoRA files in the authors' layouts: base, Avatar 1.0, Avatar 1.5.

    from tiny_longcat import write_tiny_longcat        (needs torch and safetensors; neither ComfyUI nor the pack)

Official key names, bf16, config in the file's metadata; Avatar 1.5 also as an int8 folder of two shards with index and
config.json. Speech features are 64 wide, as those of the tiny encoders made for them; text is 4096 wide, as umt5-xxl's.
"""
import json
import math
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, HEADS, DEPTH, FFN, ADALN, TEXT = 64, 2, 2, 256, 32, 4096
AUDIO_CHANNEL = 64
COMMON = {"in_channels": 16, "out_channels": 16, "hidden_size": HIDDEN, "depth": DEPTH, "num_heads": HEADS,
          "caption_channels": TEXT, "mlp_ratio": 4, "adaln_tembed_dim": ADALN, "frequency_embedding_size": 256,
          "patch_size": [1, 2, 2], "text_tokens_zero_pad": True}
AVATAR = {**COMMON, "audio_window": 5, "audio_channel": AUDIO_CHANNEL, "intermediate_dim": 32, "output_dim": 48,
          "context_tokens": 4, "vae_scale": 4, "audio_prenorm": False, "class_range": 24, "class_interval": 4}
CONFIGS = {"lodestar_tiny_longcat_video": COMMON, "lodestar_tiny_longcat_avatar": {**AVATAR, "audio_block": 12},
           "lodestar_tiny_longcat_avatar15": {**AVATAR, "audio_block": 5}}
INT8_FOLDER = "lodestar_tiny_longcat_avatar15_int8"
LORAS = ("lodestar_tiny_longcat_video", "lodestar_tiny_longcat_avatar15")
LORA_PARTS = {"attn.qkv": 3, "attn.proj": 1, "cross_attn.q_linear": 1, "cross_attn.kv_linear": 2, "ffn.w1": 1,
              "ffn.w2": 1, "ffn.w3": 1}
LORA_RANK, LORA_SCALE = 4, 0.5

Shapes = dict[str, tuple[int, ...]]
Weights = dict[str, Tensor]


def layer(name: str, *weight: int) -> Shapes:
    """A linear layer or convolution: weight (out, in, *kernel) and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def cross_attention(name: str, context: int) -> Shapes:
    shapes = layer(f"{name}.q_linear", HIDDEN, HIDDEN) | layer(f"{name}.kv_linear", 2 * HIDDEN, context)
    shapes |= {f"{name}.{norm}.weight": (HIDDEN // HEADS,) for norm in ("q_norm", "k_norm")}
    return shapes | layer(f"{name}.proj", HIDDEN, HIDDEN)


def shapes_of(config: dict) -> Shapes:
    """Every weight of the network by its official name."""
    shapes = layer("x_embedder.proj", HIDDEN, 16, 1, 2, 2)
    shapes |= layer("t_embedder.mlp.0", ADALN, 256) | layer("t_embedder.mlp.2", ADALN, ADALN)
    shapes |= layer("y_embedder.y_proj.0", HIDDEN, TEXT) | layer("y_embedder.y_proj.2", HIDDEN, HIDDEN)
    for block in (f"blocks.{index}" for index in range(DEPTH)):
        shapes |= layer(f"{block}.adaLN_modulation.1", 6 * HIDDEN, ADALN)
        shapes |= layer(f"{block}.attn.qkv", 3 * HIDDEN, HIDDEN) | layer(f"{block}.attn.proj", HIDDEN, HIDDEN)
        shapes |= {f"{block}.attn.{norm}.weight": (HIDDEN // HEADS,) for norm in ("q_norm", "k_norm")}
        shapes |= layer(f"{block}.pre_crs_attn_norm", HIDDEN) | cross_attention(f"{block}.cross_attn", HIDDEN)
        shapes |= {f"{block}.ffn.w1.weight": (FFN, HIDDEN), f"{block}.ffn.w2.weight": (HIDDEN, FFN),
                   f"{block}.ffn.w3.weight": (FFN, HIDDEN)}
        if "audio_block" in config:
            shapes |= layer(f"{block}.audio_adaLN_modulation.1", 3 * HIDDEN, ADALN)
            shapes |= layer(f"{block}.pre_video_crs_attn_norm", HIDDEN)
            shapes |= cross_attention(f"{block}.audio_cross_attn", config["output_dim"])
    if "audio_block" in config:
        features, inner, out = config["audio_block"] * AUDIO_CHANNEL, config["intermediate_dim"], config["output_dim"]
        shapes |= layer("audio_proj.proj1", inner, 5 * features) | layer("audio_proj.proj1_vf", inner, 8 * features)
        shapes |= layer("audio_proj.proj2", inner, inner)
        shapes |= layer("audio_proj.proj3", config["context_tokens"] * out, inner) | layer("audio_proj.norm", out)
    return shapes | layer("final_layer.adaLN_modulation.1", 2 * HIDDEN, ADALN) | layer("final_layer.linear", 64, HIDDEN)


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Random from its name: norms near 1, biases small, matrices that keep the size of what comes in."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if "norm" in name and name.endswith("weight"):
        return 1 + noise * 0.1
    return noise * 0.1 if len(shape) == 1 else noise / math.sqrt(math.prod(shape[1:]))


def weights_of(config: dict) -> Weights:
    return {name: draw(name, shape).bfloat16() for name, shape in shapes_of(config).items()}


def int8(weights: Weights) -> Weights:
    """Every linear layer but the last as rows of int8 with a scale each."""
    found = {}
    for name, tensor in weights.items():
        if tensor.ndim != 2 or name == "final_layer.linear.weight":
            found[name] = tensor
            continue
        scale = (tensor.float().abs().amax(1) / 127).clamp(min=1e-8)
        found[f"{name}_int8"] = (tensor.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        found[f"{name}_scale"] = scale
    return found


def write_folder(folder: Path, weights: Weights, config: dict, shards: int = 2) -> Path:
    """Shards, their index and config.json, as in the official repository."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(weights)
    placed: dict[str, str] = {}
    for shard in range(shards):
        file = f"quantized_model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards:(shard + 1) * len(names) // shards]
        save_file({name: weights[name] for name in part}, folder / file)
        placed |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())}, "weight_map": placed}
    (folder / "quantized_model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def lora_of(config: dict) -> Weights:
    """The layers and the layout of the official step-distilled files, small enough to stay near the model."""
    shapes, weights = shapes_of(config), {}
    for module in (f"blocks.{index}.{part}" for index in range(DEPTH) for part in LORA_PARTS):
        parts, (out, width) = LORA_PARTS[module.split(".", 2)[2]], shapes[f"{module}.weight"]
        prefix = "lora___lorahyphen___" + module.replace(".", "___lorahyphen___")
        weights[f"{prefix}.lora_down.weight"] = draw(f"{prefix}.down", (parts * LORA_RANK, width))
        ups = [f"{prefix}.lora_up.weight"] if parts == 1 else [
            f"{prefix}.lora_up.blocks.{j}.weight" for j in range(parts)]
        weights |= {up: draw(up, (out // parts, LORA_RANK)) for up in ups}
        weights[f"{prefix}.alpha_scale"] = torch.tensor(LORA_SCALE)
    return weights


def write_tiny_longcat(models: Path) -> list[Path]:
    """Write into `models`/diffusion_models, longcat and loras; the same bytes on each run, about 1 MB each."""
    for folder in ("diffusion_models", "loras"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    written = []
    for name, config in CONFIGS.items():
        written.append(models / "diffusion_models" / f"{name}.safetensors")
        save_file(weights_of(config), written[-1], metadata={"config": json.dumps(config)})
    avatar = CONFIGS["lodestar_tiny_longcat_avatar15"]
    written.append(write_folder(models / "longcat" / INT8_FOLDER, int8(weights_of(avatar)), avatar))
    for name in LORAS:
        written.append(models / "loras" / f"{name}_lora.safetensors")
        save_file(lora_of(CONFIGS[name]), written[-1])
    return written
