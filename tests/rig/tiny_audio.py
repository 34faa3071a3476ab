"""Writes tiny random speech encoders: a wav2vec2 of one layer, 1024 wide, which Wan S2V takes, and for LongCat Avatar a
wav2vec2 of 12 layers (1.0) and a whisper of 32 (1.5), both 64 wide.

    from tiny_audio import write_tiny_encoders        (needs torch and safetensors; neither ComfyUI nor transformers)

Official key names, config in the file's metadata. They show that everything runs; their features are coloured noise
that follows the sound.
"""
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

NAME = "lodestar_tiny_wav2vec2.safetensors"
CONFIG: dict[str, Any] = {
    "model_type": "wav2vec2", "hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16,
    "intermediate_size": 64, "conv_dim": [32] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": True, "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 64, "do_stable_layer_norm": True,
    "do_normalize": True,
}
LONGCAT_NAME, LONGCAT_CONFIG = "lodestar_tiny_longcat_wav2vec2.safetensors", {
    **CONFIG, "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 2, "conv_bias": False,
    "feat_extract_norm": "group", "num_conv_pos_embedding_groups": 16, "do_stable_layer_norm": False}
WHISPER_NAME, WHISPER_CONFIG = "lodestar_tiny_longcat_whisper.safetensors", {
    "model_type": "whisper", "d_model": 64, "encoder_layers": 32, "encoder_attention_heads": 2, "encoder_ffn_dim": 64,
    "num_mel_bins": 128, "max_source_positions": 1500}


def linear(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    """A linear layer or convolution: weight (out, in, *kernel) and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The weights of a wav2vec2, by their official names. A group norm has none but behind the first convolution."""
    width, inner, kernel = config["hidden_size"], config["intermediate_size"], config["num_conv_pos_embeddings"]
    found: dict[str, tuple[int, ...]] = {"masked_spec_embed": (width,)}
    previous = 1
    for index, (channels, size) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        layer = f"feature_extractor.conv_layers.{index}"
        found |= linear(f"{layer}.conv", channels, previous, size)
        if not config["conv_bias"]:
            del found[f"{layer}.conv.bias"]
        if config["feat_extract_norm"] == "layer" or index == 0:
            found |= linear(f"{layer}.layer_norm", channels)
        previous = channels
    found |= linear("feature_projection.layer_norm", previous)
    found |= linear("feature_projection.projection", width, previous)
    found |= {"encoder.pos_conv_embed.conv.weight_g": (1, 1, kernel), "encoder.pos_conv_embed.conv.bias": (width,),
              "encoder.pos_conv_embed.conv.weight_v": (width, width // config["num_conv_pos_embedding_groups"], kernel)}
    for block in (f"encoder.layers.{index}" for index in range(config["num_hidden_layers"])):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{block}.attention.{part}", width, width)
        found |= linear(f"{block}.feed_forward.intermediate_dense", inner, width)
        found |= linear(f"{block}.feed_forward.output_dense", width, inner)
        found |= linear(f"{block}.layer_norm", width) | linear(f"{block}.final_layer_norm", width)
    return found | linear("encoder.layer_norm", width)


def whisper_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The encoder's half of a whisper, by its official names."""
    width, inner = config["d_model"], config["encoder_ffn_dim"]
    found = linear("model.encoder.conv1", width, config["num_mel_bins"], 3)
    found |= linear("model.encoder.conv2", width, width, 3) | linear("model.encoder.layer_norm", width)
    found["model.encoder.embed_positions.weight"] = (config["max_source_positions"], width)
    for block in (f"model.encoder.layers.{index}" for index in range(config["encoder_layers"])):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{block}.self_attn.{part}", width, width)
        del found[f"{block}.self_attn.k_proj.bias"]
        found |= linear(f"{block}.self_attn_layer_norm", width) | linear(f"{block}.final_layer_norm", width)
        found |= linear(f"{block}.fc1", inner, width) | linear(f"{block}.fc2", width, inner)
    return found


def draw(name: str, shape: tuple[int, ...], width: int, generator: torch.Generator) -> Tensor:
    if name.endswith("weight") and len(shape) > 1:      # unit gain
        return torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5
    if name.endswith("weight_v"):                       # a direction; weight_g is its length at each kernel step
        return torch.randn(shape, generator=generator)
    if name.endswith("weight_g"):
        return torch.full(shape, (width / CONFIG["num_conv_pos_embeddings"]) ** 0.5)
    return torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)   # norms, biases, the mask


def write(path: Path, shapes: dict[str, tuple[int, ...]], config: dict) -> Path:
    generator, width = torch.Generator().manual_seed(0), config.get("hidden_size", 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: draw(name, shape, width, generator).half() for name, shape in shapes.items()}, path,
              metadata={"config": json.dumps(config)})
    return path


def write_tiny_wav2vec2(folder: Path) -> Path:
    """Write the one for Wan S2V into `folder` (ComfyUI's models/audio_encoders); the same bytes on each run, 9 MB."""
    return write(folder / NAME, shapes(CONFIG), CONFIG)


def write_tiny_encoders(folder: Path) -> list[Path]:
    """Write all three into `folder`; those for LongCat have about 1 MB each."""
    return [write_tiny_wav2vec2(folder), write(folder / LONGCAT_NAME, shapes(LONGCAT_CONFIG), LONGCAT_CONFIG),
            write(folder / WHISPER_NAME, whisper_shapes(WHISPER_CONFIG), WHISPER_CONFIG)]
