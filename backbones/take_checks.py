"""What is checked of a take before its first chunk: prompts, schedule, pictures. ValueErrors say what does not fit."""
import logging
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from ..techniques.technique import Technique
from . import find, recipes
from .backbone import Backbone
from .socket_values import check_partial_schedule, check_text, check_whole_schedule, name_input

logger = logging.getLogger("lodestar")


def check_prompt(model, texts: Sequence[Tensor]) -> None:
    """Of encoded prompts (1, tokens, width): that there is one, and that `model` reads their width."""
    backbone = find(model)
    widths = backbone.text_widths(model.model)
    if not texts:
        raise ValueError("got an empty conditioning, wanted a prompt. Connect CLIP Text Encode, or Blank Prompt")
    for text in texts:
        check_text(text)
        if text.shape[-1] not in widths:
            wanted = " or ".join(map(str, widths))
            raise ValueError(f"got a prompt of width {text.shape[-1]}, wanted {wanted} for {backbone.name}. Connect "
                             "the text encoder that belongs to it, or a Blank Prompt to which this model is connected")


def check_single(conditioning: Sequence) -> None:
    """Of a CONDITIONING: that it is one prompt, where nothing could be made of more."""
    if len(conditioning) > 1:
        raise ValueError(f"got {len(conditioning)} prompts, wanted one. Write all of it into one CLIP Text Encode in "
                         "place of Conditioning Combine")


def check_guider(guider) -> None:
    """Of every condition of a core GUIDER: that it is a prompt for its model."""
    for name, entries in guider.original_conds.items():
        with name_input(f"its {name} conditioning"):
            check_prompt(guider.model_patcher, [entry["cross_attn"] for entry in entries if "cross_attn" in entry])


def check_noise(model, noise: Any) -> None:
    """That a NOISE makes noise: a chunk begins with nothing else."""
    drawn = noise.generate_noise({"samples": torch.zeros(1, model.model.latent_format.latent_channels, 1, 2, 2)})
    if not drawn.any():
        raise ValueError("got zeros (DisableNoise), of which no video comes. Connect RandomNoise")


def check_schedule(model, schedule: Tensor) -> None:
    """That the sigmas (steps + 1) run from noise alone to no noise at all."""
    check_whole_schedule(schedule, float(model.get_model_object("model_sampling").sigma_max))


def check_refining_schedule(model, schedule: Tensor) -> None:
    """That the sigmas (steps + 1) begin with part of the noise, so that the video that came shows, and end without."""
    check_partial_schedule(schedule, float(model.get_model_object("model_sampling").sigma_max))


def check_unused_speech(backbone: Backbone, features: dict | None) -> None:
    """Of audio features that come to a model without audio conditioning: that they are nobody's own, which the log
    says."""
    if features is None:
        return
    if (made_for := features.get("family")) in recipes():
        raise ValueError(f"audio_features: they were made for {made_for}, and the guider's {backbone.name} has no "
                         f"audio conditioning. Connect {made_for}'s model to Plan Take and the guider; where that is "
                         "a model patch, behind the node that adds it")
    logger.warning("audio_features: %s has no audio conditioning; they are not used", backbone.name)


def check_pictures(techniques: Iterable[Technique], height: int, width: int) -> None:
    """Of the techniques' own pictures: that they have the take's size, in latents."""
    for technique in techniques:
        for name, latents in technique.pictures().items():
            rows, columns = latents.shape[-2:]
            if (rows, columns) != (height, width):
                raise ValueError(f"{name}: got latents of {columns}x{rows}, the take's are {width}x{height}. Encode "
                                 "the picture at the take's width and height")


def check_vision(model, vision, backbone: Backbone | None = None) -> None:
    """ValueError where a CLIP_VISION gives features of another width than the model reads, or it reads none.
    `backbone`: as which the model is asked, None for its own."""
    backbone = backbone or find(model)
    reads = backbone.vision_encoder(model.model)
    if reads is None:
        raise ValueError(f"clip_vision: {backbone.name} was not trained with it. Disconnect it")
    (wanted, file), came = reads, vision_width(vision)
    if came != wanted:
        raise ValueError(f"clip_vision: got one of width {came}, wanted {wanted}. Load {file}, with which "
                         f"{backbone.name} was trained")


def vision_width(vision) -> int | None:
    """The width of a CLIP_VISION's features, None where it cannot be read. ComfyUI 0.7 keeps no config of it."""
    if hasattr(vision, "config"):
        return vision.config.get("hidden_size")
    network = getattr(vision.model, "vision_model", None)
    return None if network is None else network.post_layernorm.weight.shape[0]


def log_unused(techniques: Iterable[Technique], end_seconds: Fraction) -> None:
    """In the log: what of the techniques a take that ends at `end_seconds` never uses."""
    for technique in techniques:
        for notice in technique.take_notices(end_seconds):
            logger.warning(notice)
