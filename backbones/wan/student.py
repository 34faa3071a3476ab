"""Causal students on Wan 2.1 T2V's network: Self-Forcing (Huang et al. 2025), Causal-Forcing (Zhu et al. 2026).

Their files hold an ordinary Wan network, distilled to make a block of latents in a few steps beside the finished ones.
Here the network is ComfyUI's own WanModel, so that anchors, LoRA and compile act on it, and a Rolling Window makes the
blocks; ComfyUI's CausalWanModel keeps every key of a clip and calls no patch.
"""
from dataclasses import dataclass
from typing import ClassVar

import comfy.ldm.wan.model
import comfy.model_base
import comfy.supported_models

from ..network_loading import fill_whole
from ..student_files import StudentFiles, with_lora
from .base import WanT2V

SHIFT = 5.0
LORA_SCALE = 1.0        # of a LoRA without an alpha, as every loader has it
CHANNELS = 16


class CausalWan(comfy.model_base.WAN21):
    """Core's model of Wan 2.1 text-to-video; its class says that it is a student."""


class CausalWanConfig(comfy.supported_models.WAN21_T2V):
    sampling_settings = {"shift": SHIFT}
    network = comfy.ldm.wan.model.WanModel

    def __init__(self, unet_config: dict):
        super().__init__({name: value for name, value in unet_config.items() if name != "causal_ar"})

    def get_model(self, state_dict, prefix: str = "", device=None) -> CausalWan:
        return CausalWan(self, device=device)


@dataclass(frozen=True)
class CausalWanBackbone(WanT2V):
    memory: ClassVar[str] = "written"
    supported: ClassVar[str] = "Self-Forcing and Causal-Forcing (Load Student)"
    name: str = "Causal Wan student"

    @classmethod
    def of(cls, model) -> "CausalWanBackbone | None":
        return cls() if isinstance(model.model, CausalWan) else None

    def check_video_reference(self, audio: bool) -> None:
        raise ValueError(f"model: {self.name} was trained to attend to what it has made itself, and to no video of the "
                         "person. Use Style Anchor with a picture")


def load_student(files: StudentFiles, weight_dtype: str = "default"):
    """Whole weights, or a LoRA and its base -> ComfyUI MODEL. ValueError names the input at fault."""
    student = files.read()
    model = load_network(files, weight_dtype)
    files.log(student, "a student on Wan 2.1 text-to-video", LORA_SCALE)
    return with_lora(model, student, LORA_SCALE)


def load_network(files: StudentFiles, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The network without the LoRA. `disable_dynamic`: ComfyUI's, when it loads a second copy of its own."""
    student = files.read()
    weights, metadata = files.read_base() if student.needs_base else (dict(student.whole), dict(student.metadata))
    what = f"base_name: {files.base.name}" if student.needs_base and files.base else f"student_name: {files.file.name}"
    patch = weights.get("patch_embedding.weight")
    if patch is None or patch.shape[1] != CHANNELS:
        came = "no patch embedding" if patch is None else f"a patch embedding of {patch.shape[1]} channels"
        raise ValueError(f"{what} has {came}, wanted {CHANNELS}: students on Wan 2.1 text-to-video are known, none on "
                         "image-to-video. With a picture, Causal-Forcing's frame-wise files are text-to-video as well")
    student.check_pairs(weights)
    patcher = fill_whole(CausalWanConfig, weights, metadata, what, weight_dtype, disable_dynamic)
    patcher.cached_patcher_init = (load_network, (files, weight_dtype))     # how ComfyUI makes one elsewhere
    return patcher
