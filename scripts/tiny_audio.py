"""Writes a tiny random wav2vec2 for the audio node: one transformer layer, 1024 wide, so that Wan S2V takes its width.

    from tiny_audio import write_tiny_wav2vec2        (needs torch and safetensors; neither ComfyUI nor transformers)

Official key names, config in the file's metadata. It shows that everything runs; its features are coloured noise that
follows the sound.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

NAME = "lodestar_tiny_wav2vec2.safetensors"
CONFIG = {
    "model_type": "wav2vec2", "hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16,
    "intermediate_size": 64, "conv_dim": [32] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": True, "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 64, "do_stable_layer_norm": True,
    "do_normalize": True,
}


def linear(name: str, *weight: int) -> dict[str, tuple[int, ...]]:
    """A linear layer or convolution: weight (out, in, *kernel) and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The weights of a wav2vec2 with a LayerNorm front end, by their official names."""
    width, inner, kernel = config["hidden_size"], config["intermediate_size"], config["num_conv_pos_embeddings"]
    found: dict[str, tuple[int, ...]] = {"masked_spec_embed": (width,)}
    previous = 1
    for index, (channels, size) in enumerate(zip(config["conv_dim"], config["conv_kernel"], strict=True)):
        layer = f"feature_extractor.conv_layers.{index}"
        found |= linear(f"{layer}.conv", channels, previous, size) | linear(f"{layer}.layer_norm", channels)
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


def write_tiny_wav2vec2(folder: Path) -> Path:
    """Write the model into `folder` (ComfyUI's models/audio_encoders); the same bytes on each run, about 9 MB."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes(CONFIG).items():
        if name.endswith("weight") and len(shape) > 1:      # unit gain
            value = torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5
        elif name.endswith("weight_v"):                     # a direction; weight_g is its length at each kernel step
            value = torch.randn(shape, generator=generator)
        elif name.endswith("weight_g"):
            value = torch.full(shape, (CONFIG["hidden_size"] / CONFIG["num_conv_pos_embeddings"]) ** 0.5)
        else:                                               # norms pass through, biases and the mask are nothing
            value = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        state[name] = value.half()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    save_file(state, path, metadata={"config": json.dumps(CONFIG)})
    return path
