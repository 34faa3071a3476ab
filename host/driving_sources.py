"""What comes over ComfyUI's wires as a driving video, opened: files are read when a chunk is made, never as a whole."""
import io as python_io
from fractions import Fraction
from typing import Any

import torch
from comfy_api.latest import InputImpl
from torch import Tensor

from ..backbones.socket_values import name_input
from ..pipelines.frames_at_times import ClipFrames, FileFrames, FrameSource
from ..pipelines.take.driving import DrivingVideo, check_mask


def open_driving(pose: Any, face: Any, background: Any, mask: Any, at_end: str) -> DrivingVideo:
    """From VIDEOs, and a MASK or a VIDEO of one; None for what is not there. Raises ValueError naming the input."""
    if mask is not None and background is None:
        raise ValueError("mask: it says where the person is in the background, and no background came. Connect one, or "
                         "disconnect the mask")
    sources: dict[str, FrameSource] = {}
    for part, video in (("pose", pose), ("face", face), ("background", background)):
        if video is not None:
            with name_input(part):
                sources[part] = open_video(video, f"the {part} video")
    if mask is not None:
        with name_input("mask"):
            sources["mask"] = open_video(mask, "the mask") if not isinstance(mask, Tensor) else ClipFrames(
                mask[..., None], sources["pose"].fps, "the mask", moving=len(mask) > 1)
    driving = DrivingVideo(sources, at_end)
    if mask is not None:
        fps = sources["pose"].fps
        frames = driving.frames_at(fps) if sources["mask"].seconds is not None else 1
        check_mask(sources["mask"], [frame / fps for frame in range(frames)])
    return driving


def open_video(video: Any, name: str) -> FrameSource:
    """A VIDEO: of a file its file, trimmed as it is; of pictures in memory these."""
    if not isinstance(video, InputImpl.VideoFromFile):
        parts = video.get_components()
        return ClipFrames(with_alpha(parts), Fraction(parts.frame_rate), name, parts.audio)
    trim = getattr(video, "get_active_trim_window", lambda: (0, 0))     # not in ComfyUI 0.7.0
    start, length = map(Fraction, trim())
    whole = FileFrames(video.get_stream_source(), start, length)
    if video.get_dimensions() in (whole.size, whole.size[::-1]):
        return whole
    cropped = python_io.BytesIO()       # ComfyUI after 0.33 crops on the way
    video.save_to(cropped)
    return FileFrames(cropped)


def with_alpha(parts: Any) -> Tensor:
    """The frames (T, H, W, 3 or 4) of VideoComponents, which ComfyUI 0.33 gives an alpha beside them."""
    alpha = getattr(parts, "alpha", None)
    if alpha is None or parts.images.shape[-1] != 3:
        return parts.images
    return torch.cat([parts.images, alpha.reshape(*parts.images.shape[:3], 1)], -1)
