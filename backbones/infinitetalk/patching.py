"""A Wan 2.1 I2V MODEL and core's MODEL_PATCH of InfiniteTalk or MultiTalk made one."""
from .. import attach
from ..wan.base import Wan, WanI2V
from .backbone import PATCH, SpeechPatch


def with_speech_patch(model, patch, scale: float):
    """A clone of `model` driven by speech through `patch`, `scale` times as loud as trained. ValueError where the two
    do not belong together."""
    check_speech_patch(model, patch)
    return attach.with_companion(model, PATCH, SpeechPatch(patch.model, scale), patch)


def check_speech_patch(model, patch) -> None:
    network = patch.model
    if not hasattr(network, "audio_proj"):
        raise ValueError(f"model_patch: got {type(network).__name__}, wanted InfiniteTalk or MultiTalk from Load Model "
                         "Patch")
    wan = Wan.of(model)
    if wan is None or not isinstance(wan, WanI2V) or model.model.diffusion_model.img_emb is None:
        raise ValueError(f"model: got {wan.name if wan else type(model.model).__name__}, wanted Wan 2.1 "
                         "image-to-video, on which InfiniteTalk was trained")
    wide, own = network.blocks[0].audio_cross_attn.dim, model.model.diffusion_model.dim
    if wide != own:
        raise ValueError(f"model_patch: it is {wide} channels wide, the model {own}: they belong to different sizes "
                         "of Wan 2.1")
