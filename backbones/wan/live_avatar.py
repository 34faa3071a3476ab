"""LiveAvatar (Huang et al. 2025): a LoRA that makes Wan 2.2 S2V a student of 4 steps.

Its stream keeps the keys of each noise level apart: a block at step i sees what earlier blocks were at step i. A
Rolling Window here sees finished latents, so a stream is refused; chunks are made as Wan 2.2 S2V's are, with the LoRA
at its own scale and the reference where an anchor puts it.
"""
from dataclasses import dataclass
from typing import ClassVar

import comfy.ldm.wan.model
import comfy.model_base
import comfy.supported_models

from ..network_loading import fill_whole
from ..student_files import StudentFiles, with_lora
from .s2v import WanS2V

LORA_SCALE = 64 / 128       # alpha by rank; the published file holds no alpha
SHIFT = 3.0
FPS, CHUNK_FRAMES = 25, 45  # 12 latents: 4 of its blocks


class LiveAvatar(comfy.model_base.WAN22_S2V):
    """Core's model of Wan 2.2 S2V; its class says that it is a student."""


class LiveAvatarConfig(comfy.supported_models.WAN21_T2V):
    """As core's config of S2V, which differs from this one by the model alone."""
    sampling_settings = {"shift": SHIFT}
    network = comfy.ldm.wan.model.WanModel_S2V

    def get_model(self, state_dict, prefix: str = "", device=None) -> LiveAvatar:
        return LiveAvatar(self, device=device)


@dataclass(frozen=True)
class LiveAvatarBackbone(WanS2V):
    memory: ClassVar[str] = ""
    supported: ClassVar[str] = "LiveAvatar"
    name: str = "LiveAvatar"
    fps: int = FPS
    chunk_frames: int = CHUNK_FRAMES

    @classmethod
    def of(cls, model) -> "LiveAvatarBackbone | None":
        return cls() if isinstance(model.model, LiveAvatar) else None

    def check_rolling(self) -> None:
        raise ValueError("model: LiveAvatar's stream remembers earlier blocks as noisy as they were at each step, one "
                         "cache of keys per level, and a rolling window remembers finished ones. Use 4 steps of euler "
                         "in Long Take's chunks, or Wan 2.2 S2V without the LoRA")

    def check_stream(self) -> None:
        self.check_rolling()


def load_student(files: StudentFiles, weight_dtype: str = "default"):
    """The LoRA and Wan 2.2 S2V -> ComfyUI MODEL. ValueError names the input at fault."""
    student = files.read()
    model = load_network(files, weight_dtype)
    files.log(student, "LiveAvatar, on Wan 2.2 S2V", LORA_SCALE)
    return with_lora(model, student, LORA_SCALE)


def load_network(files: StudentFiles, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The network without the LoRA. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own."""
    weights, metadata = files.read_base()
    what = f"base_name: {files.base.name if files.base else ''}"
    files.read().check_pairs(weights)
    patcher = fill_whole(LiveAvatarConfig, weights, metadata, what, weight_dtype, disable_dynamic)
    patcher.cached_patcher_init = (load_network, (files, weight_dtype))     # how ComfyUI makes one elsewhere
    return patcher
