"""Writes tiny random models by their official key names: Wan-Animate, whose face encoder has one size, and its
successor.

    from tiny_animate import write_tiny_animate        (needs torch and safetensors; neither ComfyUI nor the pack)
"""
import json
from pathlib import Path

import make_tiny_models
import tiny_talk
import torch
from make_tiny_models import DIM, Shapes, layer

ANIMATE, ANIMATE_2 = "lodestar_tiny_wan22_animate", "lodestar_tiny_wan_animate_2"
LORA = "lodestar_tiny_everanimate_lora"
LAYERS = 5          # the face joins every fifth
APPEARANCE = (32, 64, 128, 256, 512, 512, 512, 512)
CONFIG = {"config": json.dumps({"transformer": {"model_type": "animate2"}})}


def animate() -> Shapes:
    """Wan 2.2 Animate: Wan image-to-video, the pose's patches, and the face's motion encoder, encoder and adapter."""
    found = make_tiny_models.wan(36, 16, picture=True, layers=LAYERS) | layer("pose_patch_embedding", DIM, 16, 1, 2, 2)
    found |= motion_encoder("motion_encoder")
    for block in (f"face_adapter.fuser_blocks.{index}" for index in range(LAYERS // 5)):
        found |= layer(f"{block}.linear1_kv", 2 * DIM, DIM) | layer(f"{block}.linear1_q", DIM, DIM)
        found |= layer(f"{block}.linear2", DIM, DIM)
        found |= {f"{block}.q_norm.weight": (DIM,), f"{block}.k_norm.weight": (DIM,)}
    found |= layer("face_encoder.conv1_local.conv", 4096, 512, 3) | layer("face_encoder.conv2.conv", 1024, 1024, 3)
    found |= layer("face_encoder.conv3.conv", 1024, 1024, 3) | layer("face_encoder.out_proj", DIM, 1024)
    return found | {"face_encoder.padding_tokens": (1, 1, 1, DIM)}


def everanimate_lora(rank: int = 4) -> Shapes:
    """As EverAnimate's is published: no prefix, no alpha."""
    found: Shapes = {}
    for block in (f"blocks.{index}" for index in range(LAYERS)):
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"):
            found |= {f"{block}.{part}.lora_A.default.weight": (rank, DIM),
                      f"{block}.{part}.lora_B.default.weight": (DIM, rank)}
    return found


def motion_encoder(name: str) -> Shapes:
    convs = f"{name}.enc.net_app.convs"
    found: Shapes = {f"{convs}.0.0.weight": (32, 3, 1, 1), f"{convs}.0.1.bias": (1, 32, 1, 1)}
    for index, (into, out) in enumerate(zip(APPEARANCE[:-1], APPEARANCE[1:], strict=True), 1):
        block = f"{convs}.{index}"
        found |= {f"{block}.conv1.0.weight": (into, into, 3, 3), f"{block}.conv1.1.bias": (1, into, 1, 1),
                  f"{block}.conv2.0.kernel": (4, 4), f"{block}.conv2.1.weight": (out, into, 3, 3),
                  f"{block}.conv2.2.bias": (1, out, 1, 1), f"{block}.skip.0.kernel": (4, 4),
                  f"{block}.skip.1.weight": (out, into, 1, 1)}
    found[f"{convs}.{len(APPEARANCE)}.weight"] = (512, 512, 4, 4)
    for index, width in enumerate((512, 512, 512, 512, 20)):
        found |= layer(f"{name}.enc.fc.{index}", width, 512)
    return found | {f"{name}.dec.direction.weight": (512, 20)}


def write_tiny_animate(models: Path) -> list[Path]:
    folder = models / "diffusion_models"
    return [tiny_talk.write(models / "loras" / f"{LORA}.safetensors", everanimate_lora()),
            tiny_talk.write(folder / f"{ANIMATE}.safetensors", animate(), half=True, draw=draw),
            tiny_talk.write(folder / f"{ANIMATE_2}.safetensors", make_tiny_models.wan(36, 16, picture=True), CONFIG)]


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name.endswith("kernel"):
        taps = torch.tensor([1.0, 3, 3, 1])
        return taps[:, None] * taps / 64
    drawn = tiny_talk.draw(name, shape)
    return drawn * shape[1] ** 0.5 if name.startswith("motion_encoder") and name.endswith("weight") else drawn
