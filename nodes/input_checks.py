"""Every input of every node is checked by what its socket is, before the node sees it.

A wire brings whatever another pack makes of ComfyUI's types, and a link brings a number that no widget has limited.
`check_inputs` looks each input up in the node's own schema, so that a new node or input needs no line here.
"""
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any

from torch import Tensor

from ..backbones.audio.encoder import as_speech_encoder
from ..backbones.socket_values import (
    all_masks,
    audio_clip,
    bounding_boxes,
    conditioning,
    describe,
    first_mask,
    first_pictures,
    latent,
    loudness_peak,
    name_input,
    real_number,
    sigmas,
    speech_features,
    unit_values,
    whole_number,
)
from ..pipelines.take.driving import DrivingVideo
from ..pipelines.take.plan import Take
from ..pipelines.training.clip_store import ClipStore

logger = logging.getLogger("lodestar")
AUDIBLY_OVER = 1.001    # of full scale


def check_inputs(execute: Callable) -> Callable:
    """A node's `execute`, whose inputs are checked and made one kind first. A ValueError begins with the input's name.

    An optional input that is None is left out.
    """
    @wraps(execute)
    def execute_checked(cls, *args, **inputs):
        given = signature(execute).bind(cls, *args, **inputs)
        sockets = {socket.id: socket for socket in cls.define_schema().inputs}
        for name, value in list(given.arguments.items())[1:]:
            if value is None and sockets[name].optional:
                del given.arguments[name]
                continue
            with name_input(name):
                given.arguments[name] = check(value, sockets[name])
        return execute(*given.args, **given.kwargs)

    return execute_checked


def try_reading(read: Callable[[str], object], text: str | None) -> bool | str:
    """For a node's validate_inputs: True, or what `read` says of a text; None is what comes by a link or not at all,
    and what else is no text ComfyUI refuses itself. Of one input only: it says an error under each that is read."""
    try:
        read(text if isinstance(text, str) else "")
    except ValueError as error:
        return str(error)
    return True


def check(value: Any, socket) -> Any:
    """`value` as its socket wants it; ValueError where it cannot be."""
    kind = socket.get_io_type()
    if kind == "IMAGE":
        return first_pictures(value, socket.extra_dict.get("pictures", 1))
    if kind == "VAE" and socket.extra_dict.get("sound"):
        return Has("an audio VAE, as LTXV Audio VAE Loader gives", ("encode", "decode"))(value)
    return WIRES[kind](value) if kind in WIRES else WIDGETS[kind](value, socket)


def audible(value: Any) -> dict:
    """AUDIO as one clip; what is over full scale is said, since a video clips it."""
    clip = audio_clip(value)
    if (peak := loudness_peak(clip["waveform"])) > AUDIBLY_OVER:
        logger.warning("the sound has samples up to %.2f, where 1 is full scale; the video will clip them", peak)
    if clip["waveform"].shape[1] > 2:
        logger.info("the sound's %d channels are averaged to mono", clip["waveform"].shape[1])
    return clip


def integer(value: Any, socket) -> int:
    return whole_number(value, socket.min, socket.max, socket.step or 1)


def number(value: Any, socket) -> float:
    return real_number(value, socket.min, socket.max)


def choice(value: Any, socket) -> str:
    if value not in socket.options:
        few = len(socket.options) <= 20
        raise ValueError(f"got {describe(value)}, wanted one of "
                         + (", ".join(map(str, socket.options)) if few else f"the {len(socket.options)} in its list"))
    return value


def text(value: Any, socket) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got {describe(value)}, wanted text")
    return value


def switch(value: Any, socket) -> bool:
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"got {describe(value)}, wanted true or false")
    return bool(value)


def plan(value: Any) -> Take:
    if not isinstance(value, Take):
        raise ValueError(f"got {describe(value)}, wanted the plan of Plan Take")
    return value


def driving(value: Any) -> Any:
    if not isinstance(value, DrivingVideo):
        raise ValueError(f"got {describe(value)}, wanted what Driving Video gives")
    return value


def clips(value: Any) -> Any:
    if not isinstance(value, ClipStore):
        raise ValueError(f"got {describe(value)}, wanted the clips of Make Training Clips")
    return value


def lora_model(value: Any) -> Any:
    if not isinstance(value, dict) or not value or not all(isinstance(each, Tensor) for each in value.values()):
        raise ValueError(f"got {describe(value)}, wanted a LoRA, as Train Recipe gives")
    return value


def mask_or_video(value: Any) -> Any:
    """A VIDEO as it is; a MASK with all its frames, (T, H, W)."""
    return all_masks(value) if isinstance(value, Tensor) else WIRES["VIDEO"](value)


def video_or_pictures(value: Any) -> Any:
    """A VIDEO as it is; an IMAGE with all its frames, (T, H, W, 3 or 4)."""
    if not isinstance(value, Tensor):
        return WIRES["VIDEO"](value)
    if not len(value):
        raise ValueError("got no frames, wanted a video of the person")
    return unit_values(first_pictures(value, len(value)), "pixels", "load the video again")


def mask_or_boxes(value: Any) -> Any:
    """A MASK with all its frames, (T, H, W); or a box of each frame (left, top, right, bottom) in pixels."""
    return all_masks(value) if isinstance(value, Tensor) else bounding_boxes(value)


def model(value: Any) -> Any:
    if getattr(getattr(value, "model", None), "diffusion_model", None) is None:
        raise ValueError(f"got {describe(value)}, wanted a MODEL, as Load Diffusion Model gives")
    return value


@dataclass(frozen=True)
class Has:
    """A check for an object of ComfyUI's, by what is asked of it."""
    wanted: str
    members: tuple[str, ...]

    def __call__(self, value: Any) -> Any:
        if not all(hasattr(value, member) for member in self.members):
            raise ValueError(f"got {describe(value)}, wanted {self.wanted}")
        return value


WIRES: dict[str, Callable[[Any], Any]] = {
    "AUDIO": audible,
    "MASK": first_mask,
    "LATENT": latent,
    "CONDITIONING": conditioning,
    "SIGMAS": sigmas,
    "AUDIO_ENCODER": as_speech_encoder,
    "AUDIO_ENCODER_OUTPUT": speech_features,
    "MODEL": model,
    "MODEL_PATCH": Has("a MODEL_PATCH, as Load Model Patch gives", ("model",)),
    "LODESTAR_PLAN": plan,
    "LODESTAR_DRIVING": driving,
    "LODESTAR_CLIPS": clips,
    "LORA_MODEL": lora_model,
    "MASK,VIDEO": mask_or_video,
    "VIDEO,IMAGE": video_or_pictures,
    "MASK,BOUNDING_BOX": mask_or_boxes,
    "VIDEO": Has("a VIDEO, as Load Video or Long Take gives", ("get_components", "save_to")),
    "VAE": Has("a VAE, as Load VAE gives", ("encode", "decode", "first_stage_model")),
    "CLIP_VISION": Has("a CLIP_VISION, as Load CLIP Vision gives", ("encode_image", "config")),
    "CLIP": Has("a text encoder, as Load CLIP gives", ("tokenize", "encode_from_tokens_scheduled")),
    "NOISE": Has("the noise of Random Noise", ("generate_noise", "seed")),
    "GUIDER": Has("a guider, such as CFG Guider", ("model_patcher", "original_conds", "sample")),
    "SAMPLER": Has("a sampler, as KSamplerSelect gives", ("sample",)),
}
WIDGETS: dict[str, Callable[[Any, Any], Any]] = {
    "INT": integer, "FLOAT": number, "STRING": text, "COMBO": choice, "BOOLEAN": switch}
