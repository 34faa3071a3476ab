"""Writes tiny CogVideoX checkpoints that ComfyUI 0.33's own loader takes, under the names that it reads: the 2B with
its table of positions, the 5B, text and image to video, and CogVideoX 1.5, text and image to video.

    from tiny_cogvideox import write_tiny_cogvideox        (needs torch and safetensors; neither ComfyUI nor the pack)

The VAE cannot be tiny by file; its latents are as many and as long as Wan 2.1's, whose tiny VAE stands in for it.
"""
from pathlib import Path

import torch
from make_tiny_models import Shapes, draw, layer
from safetensors.torch import save_file
from torch import Tensor

DIM, TIME_DIM, TEXT_DIM, LAYERS, HEAD = 192, 64, 4096, 2, 64    # ComfyUI makes a table of thirds of the width
TEXT_TOKENS, TABLE_LATENTS, TABLE_SIZE = 226, 13, (30, 45)     # of the table that every published one has
PREFIX = "lodestar_tiny_cogvideox"
MODELS = {"2b": (16, False), "5b": (16, False), "5b_i2v": (32, False), "15": (16, True), "15_i2v": (32, True)}


def cogvideox(in_channels: int, paired: bool, ofs: bool = False) -> Shapes:
    """The network; `paired`: two latents a token frame, as 1.5 has."""
    shapes = layer("patch_embed.proj", DIM, *((in_channels * 8,) if paired else (in_channels, 2, 2)))
    shapes |= layer("patch_embed.text_proj", DIM, TEXT_DIM)
    shapes |= layer("time_embedding_linear_1", TIME_DIM, DIM) | layer("time_embedding_linear_2", TIME_DIM, TIME_DIM)
    if ofs:
        shapes |= layer("ofs_embedding_linear_1", TIME_DIM, TIME_DIM) | layer("ofs_embedding_linear_2", TIME_DIM,
                                                                              TIME_DIM)
    for block in (f"blocks.{index}" for index in range(LAYERS)):
        for norm in ("norm1", "norm2"):
            shapes |= layer(f"{block}.{norm}.linear", 6 * DIM, TIME_DIM) | layer(f"{block}.{norm}.norm", DIM)
        for part in ("q", "k", "v", "attn_out"):
            shapes |= layer(f"{block}.{part}", DIM, DIM)
        shapes |= layer(f"{block}.norm_q", HEAD) | layer(f"{block}.norm_k", HEAD)
        shapes |= layer(f"{block}.ff_proj", 4 * DIM, DIM) | layer(f"{block}.ff_out", DIM, 4 * DIM)
    shapes |= layer("norm_final", DIM) | layer("norm_out.linear", 2 * DIM, TIME_DIM) | layer("norm_out.norm", DIM)
    return shapes | layer("proj_out", 16 * (8 if paired else 4), DIM)


def sines(positions: Tensor, width: int) -> Tensor:
    """(N, width): sines, then cosines."""
    angles = positions.double()[:, None] * 10000.0 ** -(torch.arange(width // 2).double() / (width // 2))
    return torch.cat([angles.sin(), angles.cos()], 1)


def table() -> Tensor:
    """(1, text + T*H*W, DIM) as the 2B's authors made it: a quarter for time, the rest for column and row."""
    height, width = TABLE_SIZE
    time, side = DIM // 4, DIM // 8 * 3
    columns, rows = (sines(torch.arange(count) / 1.875, side) for count in (width, height))
    place = torch.cat([columns[None].expand(height, -1, -1), rows[:, None].expand(-1, width, -1)], 2).flatten(0, 1)
    times = sines(torch.arange(TABLE_LATENTS), time)
    whole = torch.cat([times[:, None].expand(-1, len(place), -1), place[None].expand(TABLE_LATENTS, -1, -1)], 2)
    return torch.cat([torch.zeros(TEXT_TOKENS, DIM).double(), whole.flatten(0, 1)])[None]


def as_published(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the names that their authors publish them by."""
    published = {}
    for name, weight in weights.items():
        layer, block = name, name.startswith("blocks.")
        for own, theirs in (("blocks.", "transformer_blocks."), (".attn_out.", ".attn1.to_out.0."),
                            (".ff_proj.", ".ff.net.0.proj."), (".ff_out.", ".ff.net.2."),
                            *((f".{part}.", f".attn1.to_{part}.") for part in "qkv"),
                            *((f".norm_{part}.", f".attn1.norm_{part}.") for part in "qk")) if block else (
                                ("_embedding_linear_", "_embedding.linear_"),):
            layer = layer.replace(own, theirs, 1)
        published[layer] = weight
    return published


def write_tiny_cogvideox(folder: Path) -> list[Path]:
    """All of them into `folder` (ComfyUI's models/diffusion_models)."""
    paths = []
    for name, (channels, paired) in MODELS.items():
        shapes = cogvideox(channels, paired, ofs=name == "15_i2v")
        weights = {key: draw(key, shape, False) for key, shape in shapes.items()}
        if name == "2b":
            weights["patch_embed.pos_embedding"] = table().to(torch.bfloat16)
        paths.append(folder / f"{PREFIX}_{name}.safetensors")
        save_file(weights, paths[-1])
    paths.append(folder / f"{PREFIX}_published.safetensors")     # the last, CogVideoX 1.5 I2V
    save_file(as_published(weights), paths[-1], metadata={"config": "{}"})
    return paths
