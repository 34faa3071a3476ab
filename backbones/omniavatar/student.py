"""AvatarForcing (Cui et al. 2026): a student on OmniAvatar-1.3B's network that makes a stream of blocks, each latent at
a noise level of its own.

From the paper and the facts of its published files alone. As trained: the picture stands beside every latent and is
known (level 0, silent) as the style anchor alone; latents in the window are all to be made; finished ones have level
0. The file holds Wan 2.1 T2V itself, the LoRA as PEFT injected it, and OmniAvatar's own layers.
"""
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...networks.omniavatar.settings import LORA_SCALE, RATIO
from ...networks.omniavatar.weights import PACK, PATCH, Published, check_base, check_whole
from ...networks.student_weights import Student
from ...techniques.layout import Layout
from ..audio.speech import Speech
from ..network_loading import fill_whole
from ..student_files import StudentFiles, with_lora
from ..wan.base import Wan
from ..wan.call import WanCall
from .backbone import OmniAvatarBackbone
from .model import OmniAvatar, OmniAvatarConfig, OmniAvatarNetwork

SIZE = 832, 480


class AvatarForcing(OmniAvatar):
    """OmniAvatar's model; its class says that it is a student."""


class AvatarForcingConfig(OmniAvatarConfig):
    network = OmniAvatarNetwork

    def get_model(self, state_dict, prefix: str = "", device=None) -> AvatarForcing:
        return AvatarForcing(self, device)


@dataclass(frozen=True)
class AvatarForcingBackbone(OmniAvatarBackbone):
    memory: ClassVar[str] = "written"
    supported: ClassVar[str] = "AvatarForcing"
    name: str = "AvatarForcing"
    size: tuple[int, int] = SIZE

    @classmethod
    def of(cls, model) -> "AvatarForcingBackbone | None":
        found = OmniAvatarBackbone.of(model)
        return cls(audio_shape=found.audio_shape) if found and isinstance(model.model, AvatarForcing) else None

    def check_stream(self) -> None:
        return None

    def audio_for(self, speech: Speech, clock, first_latent: int, latents: int) -> Tensor:
        """(1, 4 C, latents, 1, 1). Latent i has the sound of its own frames 4i-3..4i; the take's first is the picture,
        whose one frame stands for four."""
        if first_latent == 0:
            return super().audio_for(speech, clock, first_latent, latents)
        rows = speech.frame_features(clock, (first_latent - 1) * RATIO + 1, latents * RATIO)
        frames = torch.cat([rows[-1:], rows]).transpose(0, 1).flatten(1)
        return frames.unflatten(0, (latents, RATIO)).flatten(1)[None].transpose(1, 2)[..., None, None]

    def show_picture(self, call: WanCall, window_audio: bool) -> WanCall:
        """Known by its channel, and silent or with the sound of the window's first pixel frame for all four."""
        x, audio = call.x.clone(), call.extra["audio"]
        x[:, -1] = 0
        first = audio[:, :audio.shape[1] // RATIO].repeat(1, RATIO, 1, 1, 1)
        return call.change(x=x, extra={**call.extra, "audio": first if window_audio else torch.zeros_like(audio)})

    @staticmethod
    def with_clean_frames(call: WanCall, layout: Layout, process_in) -> WanCall:
        return Wan.with_clean_frames(call, layout, process_in)      # at level 0, which this one was trained with


def load_student(files: StudentFiles, weight_dtype: str = "default"):
    """One whole file, or what is added to Wan 2.1 T2V and the base -> ComfyUI MODEL. ValueError names the input."""
    student = files.read()
    model = load_network(files, weight_dtype)
    files.log(student, "AvatarForcing, on OmniAvatar's network", LORA_SCALE)
    return with_lora(model, student, LORA_SCALE)


def load_network(files: StudentFiles, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The network without the LoRA. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own."""
    student, what = files.read(), f"student_name: {files.file.name}"
    weights, metadata = join_base(files, student) if student.needs_base else (
        dict(student.whole), dict(student.metadata))
    try:
        check_whole(student.whole)
    except ValueError as error:
        raise ValueError(f"{what} does not fit OmniAvatar's network: {error}") from error
    student.check_pairs(weights)
    hidden, width = student.whole[PACK].shape
    patcher = fill_whole(AvatarForcingConfig, weights, metadata, what, weight_dtype, disable_dynamic,
                         audio_width=width, audio_hidden=hidden)
    patcher.cached_patcher_init = (load_network, (files, weight_dtype))     # how ComfyUI makes one elsewhere
    return patcher


def join_base(files: StudentFiles, student: Student) -> tuple[dict[str, Tensor], dict]:
    """(the base's weights under the student's own, the base's metadata)."""
    base, metadata = files.read_base()
    try:
        if PATCH not in student.whole:
            raise ValueError(f"the student has audio layers and no {PATCH}; it is cut short")
        check_base(base, Published({}, student.whole))
    except ValueError as error:
        raise ValueError(f"base_name, student_name: {error}") from error
    return {**base, **student.whole}, metadata
