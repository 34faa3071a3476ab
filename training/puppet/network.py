"""The puppet's network: LongCat-Avatar with a few million parameters, as the pack itself runs it."""
from pathlib import Path

import torch
from lodestar.networks.longcat.checkpoint_formats import convert_to_official
from lodestar.networks.longcat.config import LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.packed import PackedLayers, state_of
from lodestar.pipelines.headless.longcat_sampling import attention
from safetensors.torch import load_file

from .lora import add, is_lora

CHUNK, CONTEXT = 13, 4      # latents: 49 and 13 frames
CONFIG = {  # the fields of an official config.json; speech is 5 x 16 values at 25 Hz (techniques/audio/mel.py)
    "in_channels": 16, "out_channels": 16, "hidden_size": 192, "depth": 6, "num_heads": 3, "caption_channels": 64,
    "mlp_ratio": 4, "adaln_tembed_dim": 32, "frequency_embedding_size": 64, "patch_size": [1, 2, 2],
    "text_tokens_zero_pad": False, "audio_window": 5, "audio_block": 5, "audio_channel": 16, "intermediate_dim": 128,
    "output_dim": 64, "context_tokens": 4, "vae_scale": 4, "audio_prenorm": False, "class_range": 24,
    "class_interval": 4}


def puppet(device="cpu") -> LongCat:
    """Randomly initialised; what is added to the residual stream begins at zero, as in other diffusion transformers."""
    network = LongCat(LongCatConfig.from_json(CONFIG), torch.nn, attention, torch.float32, device)
    for name, weight in network.named_parameters():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            torch.nn.init.zeros_(weight)
        elif weight.ndim > 1:
            torch.nn.init.xavier_uniform_(weight.flatten(1))
        elif name.endswith("bias"):
            torch.nn.init.zeros_(weight)
    return network


def load_trained(path: Path, base: Path | None = None) -> LongCat:
    """The network of a file of weights, fp16 or with int8 rows, in float32; of a LoRA, that of `base` with it."""
    weights = load_file(path)
    if is_lora(weights):
        if base is None:
            raise ValueError(f"{path}: got a LoRA, wanted the weights that it belongs to as well")
        network = load_trained(base)
        add(network, weights)
        return network
    found = convert_to_official(weights, {})
    network = LongCat(LongCatConfig.from_weights(found), PackedLayers, attention, torch.float32)
    network.load_state_dict({name: weight if weight.dtype == torch.int8 else weight.float()
                             for name, weight in state_of(found).items()})
    return network.eval()
