"""Floor 2: how one model family is called. `find` gives a model its backbone, or refuses it by name."""
from torch import Tensor

from .backbone import Backbone


def find(model) -> Backbone:
    """The backbone that speaks to ComfyUI MODEL `model`. Raises ValueError naming the model and what is supported."""
    from .humo.backbone import HuMo
    from .infinitetalk.backbone import InfiniteTalk
    from .longcat.backbone import LongCatBackbone
    from .omniavatar.backbone import OmniAvatarBackbone
    from .wan.base import Wan
    from .wan.s2v import WanS2V
    families = (Wan, WanS2V, LongCatBackbone, OmniAvatarBackbone, HuMo)
    if (speaking := InfiniteTalk.on(model)) is not None:
        return speaking
    for family in families:
        found = family.of(model.model)
        if found is not None:
            return found
    supported = "; ".join(family.supported for family in (*families, InfiniteTalk))
    raise ValueError(f"model: got {type(model.model).__name__} ({type(model.model.diffusion_model).__name__}), which "
                     f"Lodestar does not support. Supported: {supported}")


def anchor_latents(model, latent: dict | None) -> Tensor | None:
    """A LATENT's samples (1, C, k, h, w); ValueError where they are not this model's kind."""
    if latent is None:
        return None
    samples, channels = latent["samples"], model.model.latent_format.latent_channels
    if samples.ndim == 4:    # a still picture's latent from a two-dimensional VAE
        samples = samples.unsqueeze(2)
    if samples.ndim != 5 or samples.shape[1] != channels:
        raise ValueError(f"got latents of shape {tuple(samples.shape)}, this model's are (1, {channels}, "
                         f"frames, height, width): they come from another model's VAE. Encode with the one that "
                         "belongs to it")
    return samples[:1]
