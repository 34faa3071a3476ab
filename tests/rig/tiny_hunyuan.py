"""Tiny HunyuanVideo checkpoints under their published names: text-to-video (which "replace" image-to-video is, too),
image-to-video with channels for what is known, SkyReels V1's, and HunyuanVideo 1.5 without its glyph encoder."""
from pathlib import Path

from make_tiny_models import Shapes, draw, layer
from safetensors.torch import save_file

DIM, TEXT, POOLED, VISION = 128, 64, 768, 1152     # heads are DIM // 128
DOUBLE, SINGLE = 2, 2


def embedder(name: str, width: int, first: str = "mlp.0", second: str = "mlp.2") -> Shapes:
    return layer(f"{name}.{first}", DIM, width) | layer(f"{name}.{second}", DIM, DIM)


def refiner(text: int) -> Shapes:
    shapes = layer("txt_in.input_embedder", DIM, text) | embedder("txt_in.t_embedder", 256)
    shapes |= embedder("txt_in.c_embedder", text, "linear_1", "linear_2")
    for block in (f"txt_in.individual_token_refiner.blocks.{index}" for index in range(2)):
        shapes |= layer(f"{block}.norm1", DIM) | layer(f"{block}.norm2", DIM)
        shapes |= layer(f"{block}.self_attn_qkv", 3 * DIM, DIM) | layer(f"{block}.self_attn_proj", DIM, DIM)
        shapes |= layer(f"{block}.mlp.fc1", 4 * DIM, DIM) | layer(f"{block}.mlp.fc2", DIM, 4 * DIM)
        shapes |= layer(f"{block}.adaLN_modulation.1", 2 * DIM, DIM)
    return shapes


def double_block(name: str) -> Shapes:
    shapes: Shapes = {}
    for stream in (f"{name}.img", f"{name}.txt"):
        shapes |= layer(f"{stream}_mod.linear", 6 * DIM, DIM)
        shapes |= layer(f"{stream}_attn_qkv", 3 * DIM, DIM) | layer(f"{stream}_attn_proj", DIM, DIM)
        shapes |= {f"{stream}_attn_{part}_norm.weight": (128,) for part in "qk"}
        shapes |= layer(f"{stream}_mlp.fc1", 4 * DIM, DIM) | layer(f"{stream}_mlp.fc2", DIM, 4 * DIM)
    return shapes


def single_block(name: str) -> Shapes:
    shapes = layer(f"{name}.linear1", 7 * DIM, DIM) | layer(f"{name}.linear2", DIM, 5 * DIM)
    shapes |= {f"{name}.{part}_norm.weight": (128,) for part in "qk"}
    return shapes | layer(f"{name}.modulation.linear", 3 * DIM, DIM)


def hunyuan(channels: int, out_channels: int, patch: int, single: int, text: int = TEXT) -> Shapes:
    shapes = layer("img_in.proj", DIM, channels, 1, patch, patch) | refiner(text) | embedder("time_in", 256)
    for index in range(DOUBLE):
        shapes |= double_block(f"double_blocks.{index}")
    for index in range(single):
        shapes |= single_block(f"single_blocks.{index}")
    shapes |= layer("final_layer.linear", out_channels * patch ** 2, DIM)
    return shapes | layer("final_layer.adaLN_modulation.1", 2 * DIM, DIM)


def hunyuan_1(channels: int) -> Shapes:
    shapes = hunyuan(channels, 16, 2, SINGLE) | embedder("guidance_in", 256)
    return shapes | embedder("vector_in", POOLED, "in_layer", "out_layer")


def hunyuan_15() -> Shapes:
    shapes = hunyuan(65, 32, 1, 0) | {"cond_type_embedding.weight": (3, DIM)}
    shapes |= layer("vision_in.proj.0", VISION) | layer("vision_in.proj.1", VISION, VISION)
    return shapes | layer("vision_in.proj.3", DIM, VISION) | layer("vision_in.proj.4", DIM)


MODELS = {"lodestar_tiny_hunyuan_t2v": lambda: hunyuan_1(16), "lodestar_tiny_hunyuan_i2v": lambda: hunyuan_1(33),
          "lodestar_tiny_hunyuan_skyreels": lambda: hunyuan_1(32), "lodestar_tiny_hunyuan15": hunyuan_15}


def write_tiny_hunyuan(folder: Path) -> list[Path]:
    """Write the four below a `diffusion_models` folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, shapes in MODELS.items():
        paths.append(folder / f"{name}.safetensors")
        save_file({key: draw(key, shape, False) for key, shape in shapes().items()}, paths[-1])
    return paths
