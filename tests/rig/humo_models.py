"""HuMo's tiny models in ComfyUI, and what a chunk of theirs is given: for tests in its process."""
import comfy.model_management
import comfy.samplers
import comfy.sd
import torch
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkRequest
from lodestar.techniques.timeline import Timeline

FRAMES, SIZE, RATE = 5, (8, 8), 16000


def load(tiny_models, name, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"{name}.safetensors"
    loaded = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    comfy.model_management.load_models_gpu([loaded])
    return loaded


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(steps=75, layers=5, rate_hz=25.0):
    made = tuple(random(1, steps, 1280, seed=5 + layer) for layer in range(layers))
    return {"encoded_audio": made[-1], "encoded_audio_all_layers": made, "rate_hz": rate_hz,
            "audio_samples": int(steps / rate_hz * RATE)}


def prompt(seed=3, values=None):
    return [[random(1, 7, 4096, seed=seed), values or {}]]


def inputs_of(model, speech=True, pictures=1, context=None, latents=FRAMES):
    """A chunk's inputs, with speech or none, and so many reference pictures."""
    backbone = backbones.find(model)
    audio = backbone.audio_for(Speech.of(features()), Timeline(25), 0, latents) if speech else None
    return backbone.chunk_inputs(ChunkRequest(latents, (16, *SIZE), context,
                                              random(1, 16, pictures, *SIZE, seed=2) if pictures else None, audio))


def plain_guider(model, inputs, scale=1.0):
    made, positive = comfy.samplers.CFGGuider(model), prompt(values=inputs.conditions)
    made.set_conds(positive, prompt(values={**inputs.conditions, **inputs.uncond}))
    made.set_cfg(scale)
    return made


def sample(model, inputs, scale=1.0, sigmas=(1.0, 0.5, 0.0), guider=None, sampler=None):
    """Through a guider, as a sampler does: the denoised latents with their slots."""
    guider = guider or plain_guider(model, inputs, scale)
    with torch.inference_mode():
        return guider.sample(random(*inputs.samples.shape, seed=1), inputs.samples,
                             sampler or comfy.samplers.sampler_object("euler"), torch.tensor(sigmas),
                             denoise_mask=inputs.noise_mask, seed=1, disable_pbar=True)


def anchored(model, *techniques):
    for technique in techniques:
        model = attach.with_technique(model, technique)
    return attach.install_techniques(model, attach.techniques_of(model), attach.ChunkPosition())
