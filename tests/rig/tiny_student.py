"""The causal student of the rolling fixtures as a ComfyUI MODEL: AvatarForcing's, of sizes that no file of it has."""
from dataclasses import dataclass

import comfy.model_management
import torch
from lodestar.backbones import attach
from lodestar.backbones.omniavatar.student import AvatarForcing, AvatarForcingBackbone, AvatarForcingConfig
from torch import Tensor


class StudentModel(AvatarForcing):
    """Known by its class."""


class StudentConfig(AvatarForcingConfig):
    def get_model(self, state_dict, prefix: str = "", device=None) -> StudentModel:
        return StudentModel(self, device)


@dataclass(frozen=True)
class Student(AvatarForcingBackbone):
    """Its audio features are no encoder's, so a take has none."""
    name: str = "tiny student"

    @classmethod
    def of(cls, model) -> "Student | None":
        return cls() if isinstance(model.model, StudentModel) else None


def load_student(weights: dict[str, Tensor], network: dict):
    """A MODEL of the fixtures' weights and sizes."""
    config = StudentConfig({
        "model_type": "t2v", "dim": network["dim"], "num_heads": network["heads"], "ffn_dim": network["ffn"],
        "num_layers": network["layers"], "in_dim": network["in_dim"], "out_dim": network["out_dim"],
        "text_dim": network["text_dim"], "freq_dim": network["frequencies"], "qk_norm": True, "cross_attn_norm": True,
        "eps": 1e-6, "audio_hidden": network["audio_hidden"],
        "audio_width": network["audio_features"] * network["audio_rows_per_latent"]})
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights)
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected, (missing, unexpected)
    patcher = attach.patcher_of(model, comfy.model_management.get_torch_device(), torch.device("cpu"))
    comfy.model_management.load_models_gpu([patcher])
    return patcher
