"""What a chunk of Wan-Animate is given, as ComfyUI's own nodes give it: channels of known frames and their mask, and
the driving video's frames in the sizes that the model reads.
"""
import comfy.utils
import torch
from torch import Tensor

from ..backbone import ChunkRequest

GREY = 0.5
FACE = 512      # pixels each way, which the motion encoder was built for
MASKS = 4       # channels of the mask: one for each pixel frame of a latent


def pixels_of(latents: int) -> int:
    """Pixel frames of a chunk whose first latent is one frame; 0 for none."""
    return max(latents * 4 - 3, 0)


def fit(frame: Tensor, width: int, height: int, method: str = "area") -> Tensor:
    """(H, W, channels) -> (height, width, channels): filled, and cut where it is over."""
    return comfy.utils.common_upscale(frame.movedim(-1, 0)[None], width, height, method, "center")[0].movedim(0, -1)


def read(request: ChunkRequest, part: str, width: int, height: int) -> Tensor | None:
    """(frames, height, width, 3) of a part of the driving video; None where it has none."""
    if part not in request.driving:
        return None
    return request.driving[part].read(lambda frame: fit(frame, width, height))


def size_of(request: ChunkRequest) -> tuple[int, int]:
    """Width and height in pixels."""
    _, height, width = request.latent_shape
    return width * 8, height * 8


def known_latents(request: ChunkRequest) -> Tensor:
    """(1, 16, t, h, w): the frames that the chunk continues from, then the background, or grey where it has none."""
    assert request.encode is not None and request.concat_latent is not None
    frames, opened = request.context_frames, 0 if request.context is None else request.context.shape[2]
    background = read(request, "background", *size_of(request))
    if frames is None and background is None:
        latents = request.concat_latent[:, :, :request.latents].clone()
    else:
        width, height = size_of(request)
        video = torch.full((pixels_of(request.latents), height, width, 3), GREY)
        if frames is not None:
            video[:len(frames)] = frames.to(video)
        if background is not None:
            first = len(frames) if frames is not None else 0
            video[first:] = background[first:]
        latents = request.encode(video)
    if request.context is not None and frames is None:
        latents[:, :, :opened] = request.context
    return latents


def unknown_mask(request: ChunkRequest) -> Tensor:
    """(1, 4, t, h, w): 0 where the known latents are known, 1 where the person is to be drawn. As ComfyUI has it, entry
    number i of the mask is pixel frame i's, although the first latent is one frame."""
    _, height, width = request.latent_shape
    opened = 0 if request.context is None else request.context.shape[2]
    mask = torch.ones(request.latents * MASKS, height, width)
    mask[:opened * MASKS] = 0
    if "mask" in request.driving:
        person = request.driving["mask"].read(lambda frame: fit(person_in(frame), width, height, "nearest-exact"))
        mask[pixels_of(opened):len(person)] = person[pixels_of(opened):, ..., 0]
    return mask.view(request.latents, MASKS, height, width).transpose(0, 1)[None]


def person_in(frame: Tensor) -> Tensor:
    """A mask (H, W, 1) as it is, a picture of one (H, W, 3) as 0 and 1."""
    return frame if frame.shape[-1] == 1 else (frame.mean(-1, keepdim=True) > 0.5).float()


def face_pixels(request: ChunkRequest) -> Tensor | None:
    """(1, 3, frames, 512, 512) from -1 to 1."""
    face = read(request, "face", FACE, FACE)
    return None if face is None else (face * 2 - 1).movedim(-1, 0)[None]


def pose_latents(request: ChunkRequest) -> Tensor:
    """(1, 16, t, h, w)."""
    pose = read(request, "pose", *size_of(request))
    assert pose is not None and request.encode is not None
    return request.encode(pose)
