"""Tiny Wan models in this process, and one call of them as ComfyUI makes it."""
import types

import comfy.ldm.wan.vae2_2
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import make_tiny_models
import torch
from draws import random

SIZE = (8, 8)          # latent height and width: 16 tokens a frame
FRAMES = 6


def load(tiny_models, name, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    comfy.model_management.load_models_gpu([model])
    return model


def noise(model, frames=FRAMES, batch=1, seed=1):
    return random(batch, model.model.latent_format.latent_channels, frames, *SIZE, seed=seed)


def picture(model, frames=1, seed=2):
    """A reference in LATENT space."""
    return random(1, model.model.latent_format.latent_channels, frames, *SIZE, seed=seed)


def conditions(model, frames=FRAMES, batch=1, text=7):
    """What a sampler would hand to apply_model for this model, as keyword arguments."""
    found = {"c_crossattn": random(batch, text, 4096, seed=3)}
    if model.model.diffusion_model.in_dim == 36:
        found["c_concat"] = random(batch, 20, frames, *SIZE, seed=4)
    if hasattr(model.model.diffusion_model, "frame_packer"):
        found |= {"audio_embed": random(batch, 25, 1024, frames * 4, seed=5),
                  "reference_latent": random(batch, 16, 1, *SIZE, seed=6),
                  "reference_motion": random(batch, 16, 19, *SIZE, seed=7),
                  "control_video": torch.zeros(batch, 16, frames, *SIZE)}
    return found


def apply(model, x, sigma=0.7, options=None, **conds):
    """The denoised prediction through BaseModel.apply_model, with the patcher's wrappers, as a sampler calls it."""
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    with torch.inference_mode():
        return model.model.apply_model(x, torch.full((x.shape[0],), sigma), transformer_options=transformer_options,
                                       **{**conditions(model, x.shape[2], x.shape[0]), **conds})


def wan22_vae(tiny_models):
    """ComfyUI builds the Wan 2.2 VAE only at its full width: its own class, 8 channels wide, put into a VAE object."""
    model = comfy.ldm.wan.vae2_2.WanVAE(dim=8, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2,
                                        attn_scales=[], temperal_downsample=[False, True, True])
    model.load_state_dict({name: make_tiny_models.draw(name, tuple(tensor.shape), vae=True)
                           for name, tensor in model.state_dict().items()})
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)
    vae.first_stage_model, vae.latent_channels = model.eval(), 48
    vae.upscale_ratio, vae.downscale_ratio = (vae.upscale_ratio[0], 16, 16), (vae.downscale_ratio[0], 16, 16)
    vae.downscale_index_formula = (4, 16, 16)
    vae.patcher = comfy.model_patcher.ModelPatcher(model, vae.device, vae.device)
    return vae


class WideText(comfy.sd1_clip.SD1ClipModel):
    """A text encoder as wide as umt5-xxl, of 32 values a token."""

    def encode_token_weights(self, token_weight_pairs):
        rows, *more = super().encode_token_weights(token_weight_pairs)
        return rows.repeat(1, 1, 128), *more


def small_clip():
    """A real ComfyUI CLIP of one layer: its output differs with the text."""
    config = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2,
              "hidden_act": "quick_gelu", "eos_token_id": 49407, "layer_norm_eps": 1e-5, "max_position_embeddings": 77,
              "vocab_size": 49408, "projection_dim": 32}

    def text_model(**options):
        return comfy.sd1_clip.SDClipModel(textmodel_json_config=dict(config), **options)

    def clip_model(device="cpu", dtype=None, model_options=None):
        return WideText(device, dtype, model_options or {}, clip_model=text_model)

    clip = comfy.sd.CLIP(types.SimpleNamespace(params={}, clip=clip_model, tokenizer=comfy.sd1_clip.SD1Tokenizer))
    for index, parameter in enumerate(clip.cond_stage_model.parameters()):
        parameter.data = random(*parameter.shape, seed=index) * 0.2
    return clip
