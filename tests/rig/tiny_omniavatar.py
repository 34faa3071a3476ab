"""Writes a tiny Wan 2.1 T2V of six blocks and a tiny OmniAvatar for it, as its authors publish theirs: a pytorch_model
of LoRA pairs with PEFT's names, the whole patch embedding and the speech's layers.

    from tiny_omniavatar import write_tiny_omniavatar        (needs torch and safetensors; neither ComfyUI nor the pack)

Speech is that of the tiny wav2vec2 of 12 layers, 64 wide.
"""
from pathlib import Path

import torch
from make_tiny_models import DIM, FFN_DIM, Shapes, draw, layer, wan
from safetensors.torch import save_file

BLOCKS, RANK, HIDDEN, SPEECH = 6, 4, 32, 14 * 64
BASE, FILE = "lodestar_tiny_omniavatar_wan21_t2v.safetensors", "lodestar_tiny_omniavatar.pt"


def pair(path: str, into: int, out: int) -> Shapes:
    return {f"{path}.lora_A.default.weight": (RANK, into), f"{path}.lora_B.default.weight": (out, RANK)}


def omniavatar() -> Shapes:
    """Everything that the published file holds."""
    shapes = layer("patch_embedding", DIM, 33, 1, 2, 2) | layer("audio_proj.proj", HIDDEN, 4 * SPEECH)
    shapes |= layer("audio_proj.norm_out", HIDDEN)
    for index in range(BLOCKS // 2 - 1):
        shapes |= layer(f"audio_cond_projs.{index}", DIM, HIDDEN)
    for block in (f"blocks.{index}" for index in range(BLOCKS)):
        for part in (f"{name}.{matrix}" for name in ("self_attn", "cross_attn") for matrix in "qkvo"):
            shapes |= pair(f"{block}.{part}", DIM, DIM)
        shapes |= pair(f"{block}.ffn.0", DIM, FFN_DIM) | pair(f"{block}.ffn.2", FFN_DIM, DIM)
    return shapes


def write_tiny_omniavatar(folder: Path) -> list[Path]:
    """Both files into `folder` (ComfyUI's models/diffusion_models)."""
    paths = [folder / BASE, folder / FILE]
    save_file({name: draw(name, shape, False) for name, shape in wan(16, 16, layers=BLOCKS).items()}, paths[0])
    torch.save({name: draw(name, shape, False) for name, shape in omniavatar().items()}, paths[1])
    return paths
