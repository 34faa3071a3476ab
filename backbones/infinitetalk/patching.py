"""A Wan 2.1 I2V MODEL and core's MODEL_PATCH of InfiniteTalk or MultiTalk made one."""
from ...techniques.colour_match import ColourMatch
from .. import attach
from ..take_checks import check_vision
from ..wan.base import Wan, WanI2V
from .backbone import PATCH, SpeechPatch


def with_speech_patch(model, patch, scale: float = 1.0, vision=None, colours: float = 0.0,
                      video=None):
    """A clone of `model` driven by speech through `patch`, `scale` times as loud as trained. `vision`: a CLIP_VISION
    that sees each chunk's picture. `colours`: how much of the way each frame is brought to the picture's. `video`: a
    FrameSource whose frames are the chunks' pictures. ValueError where they do not belong together."""
    check_speech_patch(model, patch)
    if vision is not None:
        check_vision(model, vision, Wan.of(model))
    joined = attach.with_companion(model, PATCH, SpeechPatch(patch.model, scale, vision, video), patch)
    return attach.with_technique(joined, ColourMatch(colours)) if colours else joined


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
