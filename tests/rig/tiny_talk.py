"""Writes tiny random talking models by their official key names: Wan 2.1 I2V of 80 channels with an InfiniteTalk model
patch, which ComfyUI 0.33 can make so small, and its wav2vec2;
HuMo 17B and 1.7B.

    from tiny_talk import write_tiny_talk        (needs torch and safetensors; neither ComfyUI nor the pack)
"""
import json
import math
import zlib
from pathlib import Path

import make_tiny_models
import tiny_audio
import torch
from safetensors.torch import save_file
from torch import Tensor

DIM, HEADS, FFN, LAYERS, TEXT, TIME, CLIP = 80, 4, 160, 2, 4096, 256, 1280
PATCH_BLOCKS, TOKENS, TOKEN_DIM, INNER = 40, 32, 32, 8      # ComfyUI builds all 40 blocks
SPEECH_LAYERS, SPEECH_WIDTH, SLOTS, LATER_SLOTS = 12, 768, 5, 8
INFINITETALK = "lodestar_tiny_infinitetalk"
LORA = f"{INFINITETALK}_lora.safetensors"
ENCODER = "lodestar_tiny_chinese_wav2vec2.safetensors"      # as wide as the model patch, whose input is fixed
HUMO = {"lodestar_tiny_humo_17b": 36, "lodestar_tiny_humo_1_7b": 16}        # name: channels of its input
CONFIG = {"config": json.dumps({"transformer": {"num_heads": HEADS, "text_dim": TEXT}})}

Shapes = dict[str, tuple[int, ...]]


def layer(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def attention(name: str, picture: bool = False) -> Shapes:
    found: Shapes = {}
    for part in ("q", "k", "v", "o") + (("k_img", "v_img") if picture else ()):
        found |= layer(f"{name}.{part}", DIM, DIM)
    return found | {f"{name}.{norm}.weight": (DIM,) for norm in
                    ("norm_q", "norm_k") + (("norm_k_img",) if picture else ())}


def wan(channels: int, picture: bool) -> Shapes:
    found = layer("patch_embedding", DIM, channels, 1, 2, 2)
    found |= layer("text_embedding.0", DIM, TEXT) | layer("text_embedding.2", DIM, DIM)
    found |= layer("time_embedding.0", DIM, TIME) | layer("time_embedding.2", DIM, DIM)
    found |= layer("time_projection.1", DIM * 6, DIM)
    for block in (f"blocks.{index}" for index in range(LAYERS)):
        found |= {f"{block}.modulation": (1, 6, DIM)} | layer(f"{block}.norm3", DIM)
        found |= attention(f"{block}.self_attn") | attention(f"{block}.cross_attn", picture)
        found |= layer(f"{block}.ffn.0", FFN, DIM) | layer(f"{block}.ffn.2", DIM, FFN)
    found |= {"head.modulation": (1, 2, DIM)} | layer("head.head", 16 * 4, DIM)
    if picture:
        found |= layer("img_emb.proj.0", CLIP) | layer("img_emb.proj.1", CLIP, CLIP)
        found |= layer("img_emb.proj.3", DIM, CLIP) | layer("img_emb.proj.4", DIM)
    return found


def speech_patch() -> Shapes:
    found = layer("audio_proj.proj1", INNER, SLOTS * SPEECH_LAYERS * SPEECH_WIDTH)
    found |= layer("audio_proj.proj1_vf", INNER, LATER_SLOTS * SPEECH_LAYERS * SPEECH_WIDTH)
    found |= layer("audio_proj.proj2", INNER, INNER) | layer("audio_proj.proj3", TOKENS * TOKEN_DIM, INNER)
    found |= layer("audio_proj.norm", TOKEN_DIM)
    for block in (f"blocks.{index}" for index in range(PATCH_BLOCKS)):
        audio_in = f"{block}.audio_cross_attn"
        found |= layer(f"{audio_in}.q_linear", DIM, DIM) | layer(f"{audio_in}.proj", DIM, DIM)
        found |= layer(f"{audio_in}.kv_linear", 2 * DIM, TOKEN_DIM) | layer(f"{block}.norm_x", DIM)
    return found


def lora(rank: int = 4) -> Shapes:
    """As step-distilled LoRAs for Wan are published."""
    name = "diffusion_model.blocks.0.self_attn.q"
    return {f"{name}.lora_down.weight": (rank, DIM), f"{name}.lora_up.weight": (DIM, rank)}


def humo(channels: int) -> Shapes:
    """HuMo: the Wan transformer with speech attention. Its audio projection has one size, 39 million parameters."""
    found, wide = make_tiny_models.wan(channels, 16), make_tiny_models.DIM
    found |= layer("audio_proj.audio_proj_glob_1.layer", 512, 8 * 5 * 1280)
    found |= layer("audio_proj.audio_proj_glob_2.layer", 512, 512)
    found |= layer("audio_proj.audio_proj_glob_3.layer", 16 * 1536, 512)
    found |= layer("audio_proj.audio_proj_glob_norm.layer", 1536)
    for index in range(make_tiny_models.LAYERS):
        name = f"blocks.{index}.audio_cross_attn_wrapper"
        found |= make_tiny_models.attention(f"{name}.audio_cross_attn") | layer(f"{name}.norm1_audio", wide)
        for part in "kv":
            found |= layer(f"{name}.audio_cross_attn.{part}", wide, 1536)
    return found


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("weight") and len(shape) == 1:
        return torch.ones(shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return noise * (0.1 if name.endswith(("bias", "modulation")) else 1 / math.sqrt(math.prod(shape[1:])))


def write(path: Path, shapes: Shapes, metadata: dict[str, str] | None = None, half: bool = False, draw=draw) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: draw(name, shape) for name, shape in shapes.items()}
    save_file({name: weight.half() if half else weight for name, weight in weights.items()}, path, metadata=metadata)
    return path


def write_tiny_talk(models: Path) -> list[Path]:
    config = {**tiny_audio.LONGCAT_CONFIG, "hidden_size": SPEECH_WIDTH, "num_attention_heads": 12}
    encoder = tiny_audio.write(models / "audio_encoders" / ENCODER, tiny_audio.shapes(config), config)
    return [encoder,
            write(models / "diffusion_models" / f"{INFINITETALK}_i2v.safetensors", wan(36, picture=True), CONFIG),
            write(models / "model_patches" / f"{INFINITETALK}.safetensors", speech_patch()),
            write(models / "loras" / LORA, lora()),
            *(write(models / "diffusion_models" / f"{name}.safetensors", humo(channels), half=True)
              for name, channels in HUMO.items())]
