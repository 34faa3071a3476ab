"""Tiny LongCat models in this process, and the same network headless, called as its authors call it."""
import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.attention import optimized_attention
from draws import random
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.networks.longcat.network import LongCat

BASE, AVATAR, AVATAR15 = ("lodestar_tiny_longcat_video", "lodestar_tiny_longcat_avatar",
                          "lodestar_tiny_longcat_avatar15")
INT8 = "lodestar_tiny_longcat_avatar15_int8"
SIZE, FRAMES = (8, 8), 5     # of latents


def path(tiny_models, name):
    folder = tiny_models / "models"
    return str(folder / "longcat" / name if name == INT8 else folder / "diffusion_models" / f"{name}.safetensors")


def load(tiny_models, name, weight_dtype="default"):
    model = load_longcat(path(tiny_models, name), weight_dtype)
    comfy.model_management.load_models_gpu([model])
    return model


def noise(frames=FRAMES, batch=1, seed=1):
    return random(batch, 16, frames, *SIZE, seed=seed)


def text(tokens=512, seed=3):
    """A prompt of 9 tokens, padded as umt5-xxl's."""
    rows = random(1, tokens, 4096, seed=seed)
    rows[:, 9:] = 0
    return rows


def speech(model, frames=FRAMES, seed=5):
    """Audio slots (1, 1, 4 * (latents - 1) + 1, 5, layers, channels) for an avatar."""
    layers = model.model.version.layers
    return random(1, 1, 4 * (frames - 1) + 1, 5, layers, 64, seed=seed)


def prompt(model, seed=3, **values):
    """CONDITIONING with text and, for an avatar, speech."""
    if model.model.diffusion_model.config.audio is not None:
        values = {"audio_windows": speech(model), **values}
    return [[text(seed=seed), values]]


def headless(model):
    """The same weights in a network that knows no ComfyUI: torch's layers, float32, nothing quantised."""
    weights = {name: tensor.float() for name, tensor in model.model.diffusion_model.state_dict().items()}
    for name in [name for name in weights if name.endswith(".weight_scale")]:
        scale = weights.pop(name)
        weights[name.removesuffix("_scale")] *= scale[:, None]
    network = LongCat(model.model.diffusion_model.config, torch.nn, optimized_attention).eval()
    network.load_state_dict(weights)
    return network.requires_grad_(False)   # torch multiplies some batches in another order where it is True


def velocity(network, x, sigma, rows=None, **how):
    """-M with one timestep for the noise and 0 for the clean frames that `how` lays out."""
    rows = text() if rows is None else rows
    timestep = torch.full((len(x), x.shape[2]), 1000 * sigma)
    timestep[:, :sum(how.get("clean", ()))] = 0
    with torch.no_grad():
        return -network(x, timestep, rows.expand(len(x), -1, -1), (rows != 0).any(-1).expand(len(x), -1), **how)


def sample(model, positive, negative=None, cfg=1.0, steps=3, latent=None, mask=None, seed_noise=None, sampler="euler"):
    """KSampler as its node runs it -> latents (1, 16, T, h, w)."""
    seed_noise = noise() if seed_noise is None else seed_noise
    latent = torch.zeros_like(seed_noise) if latent is None else latent
    with torch.inference_mode():
        return comfy.sample.sample(model, seed_noise, steps, cfg, sampler, "simple", positive, negative or positive,
                                   latent, noise_mask=mask, disable_pbar=True, seed=0)


def euler(model, predict, steps=3, start=None):
    """The same by hand: `predict(x, sigma)` is the guided velocity. Model space in, latents out."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    x = noise() if start is None else start
    for sigma, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = x + (after - sigma) * predict(x, sigma)
    return model.model.process_latent_out(x)
