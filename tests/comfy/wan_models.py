"""Tiny Wan models in this process, and one call of them as ComfyUI makes it."""
import comfy.model_management
import comfy.sd
import torch

SIZE = (8, 8)          # latent height and width: 16 tokens a frame
FRAMES = 6


def load(tiny_models, name, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    comfy.model_management.load_models_gpu([model])
    return model


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
