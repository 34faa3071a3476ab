"""A picture of a scene and a mask of where the person will be become a technique."""
from fractions import Fraction
from typing import Any

from torch import Tensor

from .. import backbones
from ..backbones.images import fit_picture
from ..backbones.socket_values import name_input, unit_values
from ..backbones.vae import encode_frames
from ..techniques.custom_background import CustomBackground, tokens_around, without_person
from .video_reference import check_vae, fit_of

MOST_FRAMES = 49        # of a scene that moves: as long as the longest video of the person


def make_background(model: Any, vae: Any, image: Tensor, mask: Tensor, then: str, size: tuple[int, int] | None
                    ) -> tuple[CustomBackground, str]:
    """The technique, and what of the scene stays and costs in words. `image` (T, H, W, C), a picture or a clip at the
    model's rate; `mask` (1, H, W), 1 where the person will be; `size`: the take's, None for the image's own."""
    backbone = backbones.find(model)
    backbone.check_background()
    clock = backbone.timeline(Fraction(backbone.fps))
    latents = clock.latents_within_frames(min(len(image), MOST_FRAMES))
    came, image = len(image), image[:clock.frames_for_latents(latents)]
    if mask.shape[-2:] != image.shape[1:3]:
        raise ValueError(f"mask: got one of {mask.shape[-1]}x{mask.shape[-2]} for an image of {image.shape[2]}x"
                         f"{image.shape[1]}, wanted the same size. Draw it on that image")
    with name_input("image"):
        scene = unit_values(image, "pixels", "load the picture again")
        fit = fit_of(size, scene, backbone)
        scene = fit_picture(scene, fit.width, fit.height)
    person = fit.mask(mask[0].float().cpu())
    tokens = tokens_around(person, fit.grid, latents)
    check_vae(model, vae, backbone)
    with name_input("vae"):
        shown = encode_frames(vae, without_person(scene, person)).float().cpu()
    own = clock.latents_within_frames(backbone.chunk_frames) * tokens.total // latents
    clip = "" if came == 1 else f", {len(image)} of its {came} frames" if came <= MOST_FRAMES else \
        f", its first {len(image)} frames"
    said = (f"{tokens.count:,} of {tokens.total:,} tokens of the scene stay, {fit.width}x{fit.height}{clip}; added to "
            f"each call: {tokens.count / own:.1%} more keys.")
    return CustomBackground(shown, tokens, then), said
