"""Tiny CogVideoX models in this process, one call of them, one run of core's sampler, and a VAE of its own class.

Imported where ComfyUI has CogVideoX alone.
"""
import comfy.ldm.cogvideo.vae
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import comfy.utils
import make_tiny_models
import torch
from comfy_extras.nodes_void import VOID_DDIM
from draws import random
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.backbone import ChunkRequest
from lodestar.techniques.technique import ChunkPosition
from tiny_cogvideox import PREFIX, TEXT_DIM

SIZE, FRAMES, TEXT = (8, 8), 6, 7     # of latents; of a chunk's; of text tokens
LARGE = (60, 90)                      # the only size that a table of positions is for
SIGMAS = torch.tensor([4518.7637, 2.0, 0.0])


def load(tiny_models, name, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"{PREFIX}_{name}.safetensors"
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    comfy.model_management.load_models_gpu([model])
    return model


def noise(frames=FRAMES, size=SIZE, seed=1):
    return random(1, 16, frames, *size, seed=seed)


def picture(frames=1, size=SIZE, seed=2):
    return random(1, 16, frames, *size, seed=seed)


def at(model, *techniques, context=None, reference=None):
    """The model with techniques in the middle of a take."""
    return attach.install_techniques(model, techniques, ChunkPosition(reference=reference, context=context, chunk=1))


def apply(model, x, sigma=1.5, options=None, **conds):
    """The denoised prediction through BaseModel.apply_model, with the patcher's wrappers, as a sampler calls it."""
    own = model.model.diffusion_model
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    found = {"c_crossattn": random(1, TEXT, TEXT_DIM, seed=3)}
    if own.in_channels > 16:
        found["c_concat"] = random(1, 16, *x.shape[2:], seed=4)
    if own.ofs_proj_dim:
        found["ofs"] = torch.full((1,), 2.0)
    with torch.inference_mode():
        return model.model.apply_model(x, torch.full((x.shape[0],), sigma), transformer_options=transformer_options,
                                       **{**found, **conds})


def inputs_of(model, latents=FRAMES, context=None, reference=None, size=SIZE):
    backbone = backbones.find(model)
    concat = backbone.concat_latent(lambda _: picture(), torch.zeros(1, 8, 8, 3) if reference is not None else None,
                                    latents, size[0] * 8, size[1] * 8)
    return backbone.chunk_inputs(ChunkRequest(latents, (16, *size), context, reference, None, concat))


def sample(model, inputs, scale=1.0, sigmas=SIGMAS):
    """Through a CFG guider and the one sampler of core's that this family has."""
    guider, text = comfy.samplers.CFGGuider(model), random(1, TEXT, TEXT_DIM, seed=3)
    guider.set_conds([[text, inputs.conditions]], [[text * 0.5, {**inputs.conditions, **inputs.uncond}]])
    guider.set_cfg(scale)
    with torch.inference_mode():
        return guider.sample(random(*inputs.samples.shape, seed=1), inputs.samples, VOID_DDIM(), sigmas,
                             denoise_mask=inputs.noise_mask, seed=1, disable_pbar=True)


def vae(tiny_models):
    """ComfyUI builds this VAE only at its full width: its own class, 32 channels wide, put into a VAE object."""
    model = comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(block_out_channels=(32, 32, 32, 32), layers_per_block=1)
    model.load_state_dict({name: make_tiny_models.draw(name, tuple(tensor.shape), vae=True)
                           for name, tensor in model.state_dict().items()})
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    made = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)
    made.first_stage_model = model.eval()
    made.patcher = comfy.model_patcher.ModelPatcher(model, made.device, made.device)
    return made
