"""Floor 2: how one model family is called. `find` gives a model its backbone, or refuses it by name."""
from importlib import import_module
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:       # they need ComfyUI, and not all that stands in this folder does
    from .audio.recipes import Recipe
    from .backbone import Backbone

FAMILIES = (     # the first that knows a model has it: one on top of another comes before it
    "infinitetalk.backbone.InfiniteTalk",
    "wan.base.Wan",
    "wan.s2v.WanS2V",
    "wan.student.CausalWanBackbone",
    "wan.live_avatar.LiveAvatarBackbone",
    "longcat.backbone.LongCatBackbone",
    "omniavatar.student.AvatarForcingBackbone",
    "omniavatar.backbone.OmniAvatarBackbone",
    "humo.backbone.HuMo",
    "animate.backbone.WanAnimate",
    "animate.second.WanAnimate2",
    "cogvideox.backbone.CogVideoX",
    "hunyuan.backbone.HunyuanVideo",
    "ltx.backbone.LTX",
    "minimax_h3.backbone.MiniMaxH3",
)


def families() -> tuple[type["Backbone"], ...]:
    """Every family, imported when it is first asked for: they need ComfyUI, and what stands in this folder."""
    names = (name.rpartition(".") for name in FAMILIES)
    return tuple(getattr(import_module(f".{module}", __name__), family) for module, _, family in names)


def recipes(speakers: int = 1) -> dict[str, "Recipe"]:
    """The families' ways to audio features for so many speakers, by the names that users know."""
    found = (family.recipe for family in families())
    return {recipe.name: recipe for recipe in found if recipe is not None and recipe.speakers >= speakers}


def streaming() -> str:
    """The families whose latents may each have their own noise level, as users know them."""
    return "; ".join(family.supported for family in families() if family.memory)


def find(model) -> "Backbone":
    """The backbone that speaks to ComfyUI MODEL `model`. Raises ValueError naming the model and what is supported."""
    for family in families():
        found = family.of(model)
        if found is not None:
            return found
    supported = "; ".join(family.supported for family in families())
    raise ValueError(f"model: got {type(model.model).__name__} ({type(model.model.diffusion_model).__name__}), which "
                     f"Lodestar does not support. Supported: {supported}")


def anchor_latents(model, latent: dict | None) -> Tensor | None:
    """A LATENT's samples (1, C, k, h, w); ValueError where they are not this model's kind."""
    if latent is None:
        return None
    samples, channels = latent["samples"], find(model).latent_channels(model.model)
    if samples.ndim == 4:    # a still picture's latent from a two-dimensional VAE
        samples = samples.unsqueeze(2)
    if samples.ndim != 5 or samples.shape[1] != channels:
        raise ValueError(f"got latents of shape {tuple(samples.shape)}, this model's are (1, {channels}, "
                         f"frames, height, width): they come from another model's VAE. Encode with the one that "
                         "belongs to it")
    return samples[:1]
