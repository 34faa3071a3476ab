"""Tiny OmniAvatar models in this process, and the authors' own fixture weights through our loader."""
import json

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from draws import random
from lodestar.backbones.omniavatar.loader import load_omniavatar
from lodestar.backbones.omniavatar.model import AUDIO
from lodestar.networks.omniavatar.audio import pack_frames
from safetensors.torch import save_file
from tiny_omniavatar import BASE, FILE, SPEECH

SIZE, FRAMES = (8, 8), 5     # of latents


def paths(tiny_models):
    folder = tiny_models / "models" / "diffusion_models"
    return folder / BASE, folder / FILE


def load(tiny_models, strength=1.0, weight_dtype="default", dtype=None):
    model = load_omniavatar(*paths(tiny_models), strength, weight_dtype)
    if dtype is not None:
        model.model.to(dtype)
        model.model.diffusion_model.patch_embedding.float()     # as core keeps it
        model.model.diffusion_model.dtype = dtype
    comfy.model_management.load_models_gpu([model])
    return model


def of_fixture(omni, folder):
    """The authors' weights as a base and a published file whose LoRA changes nothing, through our loader."""
    weights, record = omni.load("dit_weights.safetensors"), omni.config["config"]
    whole = {name: weight for name, weight in weights.items() if name.startswith(("audio_", "patch_embedding"))}
    pairs = {name: torch.zeros_like(weight) for name, weight in omni.load("lora_checkpoint.safetensors").items()
             if "lora_" in name}
    config = json.dumps({"transformer": {"num_heads": record["num_heads"], "text_dim": record["text_dim"]}})
    save_file({name: weight.contiguous() for name, weight in omni.base().items()}, folder / "base.safetensors",
              metadata={"config": config})
    torch.save({**whole, **pairs}, folder / "pytorch_model.pt")
    return load_omniavatar(folder / "base.safetensors", folder / "pytorch_model.pt")


def noise(frames=FRAMES, batch=1, seed=1):
    return random(batch, 16, frames, *SIZE, seed=seed)


def speech(frames=FRAMES, seed=5):
    """As CONDITIONING holds it."""
    return audio_condition(random(1, 4 * (frames - 1) + 1, SPEECH, seed=seed))


def audio_condition(rows):
    return pack_frames(rows).transpose(1, 2)[..., None, None]


def prompt(seed=3, **values):
    """CONDITIONING with text, a reference and speech."""
    return [[random(1, 9, 4096, seed=seed), {"reference_latents": [random(1, 16, 1, *SIZE, seed=2)], AUDIO: speech(),
                                             **values}]]


def sample(model, noise, positive, negative=None, *, cfg=1.0, steps=2, latent=None, mask=None, guider=None):
    """Euler on the `simple` schedule, as core's nodes do it."""
    if guider is None:
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, positive if negative is None else negative)
        guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    latent = torch.zeros_like(noise) if latent is None else latent
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas, denoise_mask=mask,
                         disable_pbar=True, seed=0)
