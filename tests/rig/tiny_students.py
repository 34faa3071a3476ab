"""Writes tiny causal students as their trainers save the real ones: Self-Forcing's file with two sets and FSDP's names,
AvatarForcing's with PEFT's names around OmniAvatar's network, LiveAvatar's LoRA for Wan 2.2 S2V.

    from tiny_students import write_tiny_students        (needs torch and safetensors; neither ComfyUI nor the pack)
"""
import re
from pathlib import Path

import torch
from make_tiny_models import DIM, FFN_DIM, Shapes, draw, wan
from safetensors.torch import save_file
from tiny_omniavatar import BLOCKS, omniavatar, pair
from torch import Tensor

SELF_FORCING, AVATAR_FORCING = "lodestar_tiny_self_forcing.pt", "lodestar_tiny_avatarforcing.pt"
LIVE_AVATAR = "lodestar_tiny_liveavatar.safetensors"
TARGET = re.compile(r"(blocks\.\d+\.(?:(?:self|cross)_attn\.[qkvo]|ffn\.[02]))\.(weight|bias)")


def drawn(shapes: Shapes, seed: str = "") -> dict[str, Tensor]:
    """`seed`: another word gives other weights."""
    return {name: draw(seed + name, shape, False) for name, shape in shapes.items()}


def sharded_name(name: str) -> str:
    """As FSDP leaves it: a wrapper around the network, one more around each block."""
    return "model._fsdp_wrapped_module." + re.sub(r"^(blocks\.\d+\.)", r"\1_fsdp_wrapped_module.", name)


def self_forcing() -> dict:
    shapes = wan(16, 16)
    return {"generator": {f"model.{name}": weight for name, weight in drawn(shapes).items()},
            "generator_ema": {sharded_name(name): weight for name, weight in drawn(shapes, "ema ").items()},
            "critic": {f"model.{name}": torch.zeros(2) for name in list(shapes)[:3]}, "step": 600}


def avatar_forcing() -> dict:
    """Wan's own layers stand beneath the LoRA's, as PEFT puts them."""
    weights = drawn(omniavatar()) | {name: weight for name, weight in drawn(wan(16, 16, layers=BLOCKS)).items()
                                     if not name.startswith("patch_embedding")}
    return {"generator": {"model." + TARGET.sub(r"\1.base_layer.\2", name): weight for name, weight in weights.items()}}


def live_avatar() -> dict[str, Tensor]:
    """Of the two blocks of the tiny S2V."""
    shapes: Shapes = {}
    for block in ("blocks.0", "blocks.1"):
        for part in (f"{name}.{matrix}" for name in ("self_attn", "cross_attn") for matrix in "qkvo"):
            shapes |= pair(f"{block}.{part}", DIM, DIM)
        shapes |= pair(f"{block}.ffn.0", DIM, FFN_DIM) | pair(f"{block}.ffn.2", FFN_DIM, DIM)
    return drawn(shapes)


def write_tiny_students(models: Path) -> list[Path]:
    """Into ComfyUI's `models`: two in diffusion_models, LiveAvatar's in loras."""
    folder, loras = models / "diffusion_models", models / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    torch.save(self_forcing(), folder / SELF_FORCING)
    torch.save(avatar_forcing(), folder / AVATAR_FORCING)
    save_file(live_avatar(), loras / LIVE_AVATAR)
    return [folder / SELF_FORCING, folder / AVATAR_FORCING, loras / LIVE_AVATAR]
