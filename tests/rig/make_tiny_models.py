"""Write tiny random-weight models, Wan 2.1 / 2.2 for ComfyUI's own loaders and LongCat: they show that everything runs.

    python tests/rig/make_tiny_models.py OUT_DIR        (a ComfyUI base directory: files go to OUT_DIR/models/...)

Needs torch and safetensors, not ComfyUI. Every weight is drawn from its own name, so the files are the same on every
run and adding one tensor changes no other. What the models generate is coloured noise that follows its inputs.
"""
import argparse
import math
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

DIM, FFN_DIM, LAYERS = 128, 256, 2       # the loaders read heads = dim // 128 from the weights
TEXT_DIM, TIME_DIM, CLIP_DIM = 4096, 256, 1280
AUDIO_DIM, AUDIO_LAYERS, AUDIO_INJECTORS = 1024, 25, 12
VAE_DIM, VAE_LATENT_CHANNELS, VAE_MULT = 8, 16, (1, 2, 4, 4)
GAIN = {"decoder.head.2.weight": 0.4, "encoder.head.2.weight": 0.4}   # pictures in range, latents of about unit size


def layer(name: str, *weight: int) -> Shapes:
    """A linear layer or convolution: weight (out, in, *kernel) and its bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def attention(name: str, picture: bool = False) -> Shapes:
    shapes: Shapes = {}
    for part in ("q", "k", "v", "o") + (("k_img", "v_img") if picture else ()):
        shapes |= layer(f"{name}.{part}", DIM, DIM)
    for norm in ("norm_q", "norm_k") + (("norm_k_img",) if picture else ()):
        shapes[f"{name}.{norm}.weight"] = (DIM,)
    return shapes


def wan(in_channels: int, out_channels: int, picture: bool = False, layers: int = LAYERS) -> Shapes:
    """The Wan transformer; `picture` adds the CLIP picture branch of Wan 2.1 I2V."""
    shapes = layer("patch_embedding", DIM, in_channels, 1, 2, 2)
    shapes |= layer("text_embedding.0", DIM, TEXT_DIM) | layer("text_embedding.2", DIM, DIM)
    shapes |= layer("time_embedding.0", DIM, TIME_DIM) | layer("time_embedding.2", DIM, DIM)
    shapes |= layer("time_projection.1", DIM * 6, DIM)
    for block in (f"blocks.{index}" for index in range(layers)):
        shapes |= {f"{block}.modulation": (1, 6, DIM)} | layer(f"{block}.norm3", DIM)
        shapes |= attention(f"{block}.self_attn") | attention(f"{block}.cross_attn", picture)
        shapes |= layer(f"{block}.ffn.0", FFN_DIM, DIM) | layer(f"{block}.ffn.2", DIM, FFN_DIM)
    shapes |= {"head.modulation": (1, 2, DIM)} | layer("head.head", out_channels * 4, DIM)
    if picture:
        shapes |= layer("img_emb.proj.0", CLIP_DIM) | layer("img_emb.proj.1", CLIP_DIM, CLIP_DIM)
        shapes |= layer("img_emb.proj.3", DIM, CLIP_DIM) | layer("img_emb.proj.4", DIM)
    return shapes


def wan_s2v() -> Shapes:
    """Wan 2.2 S2V: the transformer, its audio encoder and injectors, the pose encoder and the motion packer."""
    shapes = wan(16, 16) | {"trainable_cond_mask.weight": (3, DIM)} | layer("cond_encoder", DIM, 16, 1, 2, 2)
    audio = "casual_audio_encoder"
    shapes |= {f"{audio}.weights": (1, AUDIO_LAYERS, 1, 1), f"{audio}.encoder.padding_tokens": (1, 1, 1, DIM)}
    shapes |= layer(f"{audio}.encoder.conv1_local.conv", DIM, AUDIO_DIM, 3)
    shapes |= layer(f"{audio}.encoder.conv1_global.conv", DIM // 4, AUDIO_DIM, 3)
    shapes |= layer(f"{audio}.encoder.conv2.conv", DIM // 2, DIM // 4, 3)
    shapes |= layer(f"{audio}.encoder.conv3.conv", DIM, DIM // 2, 3) | layer(f"{audio}.encoder.final_linear", DIM, DIM)
    for index in range(AUDIO_INJECTORS):
        shapes |= attention(f"audio_injector.injector.{index}")
        shapes |= layer(f"audio_injector.injector_adain_layers.{index}.linear", DIM * 2, DIM)
    shapes |= layer("frame_packer.proj", DIM, 16, 1, 2, 2)
    return shapes | layer("frame_packer.proj_2x", DIM, 16, 2, 4, 4) | layer("frame_packer.proj_4x", DIM, 16, 4, 8, 8)


def residual(name: str, into: int, out: int) -> Shapes:
    shapes: Shapes = {f"{name}.residual.0.gamma": (into, 1, 1, 1), f"{name}.residual.3.gamma": (out, 1, 1, 1)}
    shapes |= layer(f"{name}.residual.2", out, into, 3, 3, 3) | layer(f"{name}.residual.6", out, out, 3, 3, 3)
    return shapes | (layer(f"{name}.shortcut", out, into, 1, 1, 1) if into != out else {})


def middle_and_head(name: str, width: int, head_width: int, out: int) -> Shapes:
    shapes = residual(f"{name}.middle.0", width, width) | residual(f"{name}.middle.2", width, width)
    shapes |= {f"{name}.middle.1.norm.gamma": (width, 1, 1)}
    shapes |= layer(f"{name}.middle.1.to_qkv", width * 3, width, 1, 1)
    shapes |= layer(f"{name}.middle.1.proj", width, width, 1, 1)
    return shapes | {f"{name}.head.0.gamma": (head_width, 1, 1, 1)} | layer(f"{name}.head.2", out, head_width, 3, 3, 3)


def wan_vae() -> Shapes:
    """The Wan 2.1 causal video VAE at a twelfth of its width: 8x8 pixels and 4 frames per latent."""
    widths = [VAE_DIM * mult for mult in VAE_MULT]
    latent = VAE_LATENT_CHANNELS
    shapes = layer("conv1", latent * 2, latent * 2, 1, 1, 1) | layer("conv2", latent, latent, 1, 1, 1)
    shapes |= layer("encoder.conv1", VAE_DIM, 3, 3, 3, 3) | layer("decoder.conv1", widths[-1], latent, 3, 3, 3)
    shapes |= middle_and_head("encoder", widths[-1], widths[-1], latent * 2)
    shapes |= middle_and_head("decoder", widths[-1], widths[0], 3)
    into, names = VAE_DIM, (f"encoder.downsamples.{index}" for index in range(11))
    for stage, width in enumerate(widths):
        shapes |= residual(next(names), into, width) | residual(next(names), width, width)
        into = width
        if stage < 3:
            down = next(names)
            shapes |= layer(f"{down}.resample.1", width, width, 3, 3)
            shapes |= layer(f"{down}.time_conv", width, width, 3, 1, 1) if stage > 0 else {}
    into, names = widths[-1], (f"decoder.upsamples.{index}" for index in range(15))
    for stage, width in enumerate(reversed(widths)):
        for _ in range(3):
            shapes |= residual(next(names), into, width)
            into = width
        if stage < 3:
            up, into = next(names), width // 2
            shapes |= layer(f"{up}.resample.1", into, width, 3, 3)
            shapes |= layer(f"{up}.time_conv", width * 2, width, 3, 1, 1) if stage < 2 else {}
    return shapes


def smooth(weight: Tensor) -> Tensor:
    """Make a random kernel a blur with random gains plus some grain, so that a decoded picture has areas, not dust."""
    time, height = weight.shape[2:4]
    past = {1: [1.0], 3: [0.4, 0.6, 1.0]}[time]
    across = {1: [1.0], 3: [0.6, 1.0, 0.6]}[height]
    blur = torch.einsum("t,h,w->thw", *map(torch.tensor, (past, across, across)))
    gain = weight.mean(dim=(-3, -2, -1), keepdim=True) * blur.numel()
    return gain * blur / blur.norm() * 0.9 + weight * 0.4


def draw(name: str, shape: tuple[int, ...], vae: bool) -> Tensor:
    """One tensor, random from its name, scaled so that activations keep the size they came in with."""
    if name.endswith(("gamma", "casual_audio_encoder.weights")) or (name.endswith("weight") and len(shape) == 1):
        return torch.ones(shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith(("bias", "modulation", "padding_tokens", "cond_mask.weight")):
        return noise * 0.1
    weight = noise / math.sqrt(math.prod(shape[1:]))
    if vae and len(shape) == 5:
        weight = smooth(weight)
    return weight * GAIN.get(name, 1.0)


MODELS = {
    "diffusion_models/lodestar_tiny_wan21_t2v": lambda: wan(16, 16),
    "diffusion_models/lodestar_tiny_wan21_i2v": lambda: wan(36, 16, picture=True),
    "diffusion_models/lodestar_tiny_wan22_i2v": lambda: wan(36, 16),
    "diffusion_models/lodestar_tiny_wan22_i2v_low": lambda: wan(36, 16),
    "diffusion_models/lodestar_tiny_wan22_ti2v": lambda: wan(48, 48),
    "diffusion_models/lodestar_tiny_wan22_s2v": wan_s2v,
    "vae/lodestar_tiny_wan_vae": wan_vae,
}


def write_model(out_dir: Path, name: str) -> Path:
    """Write OUT_DIR/models/<name>.safetensors and return its path."""
    path = out_dir / "models" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    vae = name.startswith("vae/")
    weights = {key: draw(key, shape, vae) for key, shape in MODELS[name]().items()}
    if name.endswith("_low"):       # of a pair, whose two are alike but for their weights
        weights["blocks.0.modulation"] = -weights["blocks.0.modulation"]
    save_file(weights, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path, help="a ComfyUI base directory; files go below its models folder")
    out_dir = parser.parse_args().out_dir
    for name in MODELS:
        print(write_model(out_dir, name))
    from tiny_animate import write_tiny_animate
    from tiny_audio import write_tiny_encoders
    from tiny_cogvideox import write_tiny_cogvideox
    from tiny_hunyuan import write_tiny_hunyuan
    from tiny_longcat import write_tiny_longcat
    from tiny_omniavatar import write_tiny_omniavatar
    from tiny_students import write_tiny_students
    from tiny_talk import write_tiny_talk

    print(*write_tiny_encoders(out_dir / "models" / "audio_encoders"), sep="\n")
    print(*write_tiny_cogvideox(out_dir / "models" / "diffusion_models"), sep="\n")
    print(*write_tiny_longcat(out_dir / "models"), sep="\n")
    print(*write_tiny_omniavatar(out_dir / "models" / "diffusion_models"), sep="\n")
    print(*write_tiny_hunyuan(out_dir / "models" / "diffusion_models"), sep="\n")
    print(*write_tiny_talk(out_dir / "models"), sep="\n")
    print(*write_tiny_animate(out_dir / "models"), sep="\n")
    print(*write_tiny_students(out_dir / "models"), sep="\n")


if __name__ == "__main__":
    main()
