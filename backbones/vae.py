"""A video VAE as a stream: latents go in chunk by chunk, frames come out, memory stays flat, no seam.

The Wan VAEs are causal and keep a feature cache, so carrying that cache from push to push gives, bit for bit, what
decoding the whole take at once would give; ComfyUI drops it after every call. Other VAEs are decoded with an overlap.
"""
import logging
import math
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib import import_module
from typing import Any

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import torch
from comfy import model_management
from comfy.ldm.wan.vae import CausalConv3d
from torch import Tensor, nn

from ..techniques.protocols import FrameStream
from .allocator import host_buffer, release

logger = logging.getLogger("lodestar")

GROUP_LATENTS = 2    # ComfyUI 0.33 keeps only what it was just fed: with fewer than 2 latents its cache forgets one
SHARE_OF_CARD, SHARE_OF_FREE = 0.05, 0.25    # what the feature cache may take of a card between chunks
STREAMS = (     # of VAEs with a cache of their own, or that look ahead
    "light_decoder.LightStream", "cogvideox.stream.CogVideoXStream", "ltx.stream.LTXStream",
    "ltx.window_stream.WindowStream", "minimax_h3.stream.H3Stream")
VAES = {"Wan21": "WanVAE", "Wan22": "WanVAE", "CogVideoX": "AutoencoderKLCogVideoX"}    # by latent format
OVERLAP_LATENTS = 4  # how many latents a VAE without a carried cache sees again, so that its seam settles


class WanStream:
    """Wan 2.1 and Wan 2.2 VAE: the first latent alone, then pairs, an odd one held back for its pair or the flush."""

    first_group = 1

    def __init__(self, vae):
        self._vae = vae
        self._decoder = vae.first_stage_model.decoder
        self._open()
        self._parked: dict[int, Tensor] = {}    # buffers in RAM, by place in the cache
        weakref.finalize(self, lambda parked: release(parked.values()), self._parked)
        self._held: Tensor | None = None
        self._decoded = 0
        self._flushed = False

    def _open(self) -> None:
        self._cache: list = [None] * sum(isinstance(module, CausalConv3d) for module in self._decoder.modules())
        self.warmup_latents = visible_latents(self._decoder) + 1  # the first of a stream decodes to one frame: not seen

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        if self._flushed:
            raise ValueError("this stream was flushed: its last frame is out. Open a new stream for a new take.")
        check_latents(latents, self._vae)
        if self._held is not None:
            latents = torch.cat([self._held, latents], dim=2)
        self._load(latents)
        self._cache = move_cache(self._cache, self._vae.device)
        size = GROUP_LATENTS if self._decoded else self.first_group
        while latents.shape[2] >= size:
            frames = self._decode(latents[:, :, :size], self._cache)
            latents, self._decoded, size = latents[:, :, size:], self._decoded + size, GROUP_LATENTS
            yield frames
        self._held = latents.clone() if latents.shape[2] else None
        self._park()

    def flush(self) -> Iterator[Tensor]:
        frames, self._held, self._flushed = self.peek(), None, True
        if frames is not None:
            yield frames

    def peek(self) -> Tensor | None:
        if self._held is None:
            return None
        self._load(self._held)
        return self._decode(self._held, move_cache(self._cache, self._vae.device))

    def _park(self) -> None:
        """Move the cache, 1.9 GB at 480x832, to RAM where it could be in the sampler's way; the copies are under way
        when this returns, and only the card may read them."""
        held = {place: entry for place, entry in enumerate(self._cache) if isinstance(entry, Tensor)}
        if stays_on_card(sum(entry.nbytes for entry in held.values()), self._vae.device):
            return
        for place, entry in held.items():
            buffer = self._parked.get(place)
            if buffer is None or buffer.shape != entry.shape:
                buffer = self._parked[place] = host_buffer(entry)
            self._cache[place] = buffer.copy_(entry, non_blocking=True)

    def _load(self, latents: Tensor) -> None:
        """Have ComfyUI bring the VAE to its device and make room for what is to be decoded."""
        shape = (*latents.shape[:2], self._estimated_latents(latents), *latents.shape[3:])
        memory = self._vae.memory_used_decode(shape, self._vae.vae_dtype)
        model_management.load_models_gpu([self._vae.patcher], memory_required=memory,
                                         force_full_load=self._vae.disable_offload)

    def _estimated_latents(self, latents: Tensor) -> int:
        """ComfyUI's estimate for a long video, which `_decoded` makes this one, includes the feature cache."""
        return self._decoded + latents.shape[2]

    @torch.inference_mode()
    def _decode(self, group: Tensor, cache: list) -> Tensor:
        """Decode a group; `cache` (one entry per causal convolution) is brought up to date in place."""
        model = self._vae.first_stage_model
        latents = model.conv2(group.to(device=self._vae.device, dtype=self._vae.vae_dtype))
        if isinstance(model, comfy.ldm.wan.vae2_2.WanVAE):
            frames = self._decoder(latents, feat_cache=cache, feat_idx=[0], first_chunk=self._decoded == 0)
            size = getattr(model, "patch_size", 2)      # ComfyUI 0.33 has but the one
            frames = comfy.ldm.wan.vae2_2.unpatchify(frames, patch_size=size)
        else:
            frames = self._decoder(latents, feat_cache=cache, feat_idx=[0])
            frames = torch.cat(frames, dim=2) if isinstance(frames, list) else frames  # a list since ComfyUI 0.33
        return pictures(self._vae.process_output(frames.float())[0].movedim(0, -1))


class OverlapStream:
    """Any other video VAE: each push is decoded by itself, behind the latents it needs to see again."""

    warmup_latents = OVERLAP_LATENTS

    def __init__(self, vae):
        self._vae = vae
        self._seen: Tensor | None = None
        self._pushed = 0
        logger.info("%s has no feature cache that Lodestar can carry: every chunk is decoded behind %d latents of the "
                    "one before.", type(vae.first_stage_model).__name__, OVERLAP_LATENTS)

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        check_latents(latents, self._vae)
        frames_for = self._vae.upscale_ratio[0]
        total = self._pushed + latents.shape[2]
        new_frames = frames_for(total) - frames_for(self._pushed)
        window = latents if self._seen is None else torch.cat([self._seen, latents], dim=2)
        self._seen, self._pushed = window[:, :, -OVERLAP_LATENTS:].clone(), total
        frames = self._vae.decode(window)[0]
        yield pictures(frames[frames.shape[0] - new_frames:])

    def flush(self) -> Iterator[Tensor]:
        return iter(())

    def peek(self) -> Tensor | None:
        return None


def open_stream(vae) -> FrameStream:
    """A stream over ComfyUI's VAE object. ValueError when it is not a causal video VAE."""
    check_video_vae(vae)
    carried = isinstance(vae.first_stage_model, (comfy.ldm.wan.vae.WanVAE, comfy.ldm.wan.vae2_2.WanVAE))
    if carried:
        return WanStream(vae)
    return next(filter(None, (stream.of(vae) for stream in own_streams())), None) or OverlapStream(vae)


def own_streams() -> Iterator[Any]:
    """Those of the families, imported where another than Wan's VAE came."""
    for module, _, name in (stream.rpartition(".") for stream in STREAMS):
        yield getattr(import_module(f".{module}", __package__), name)


def encode_frames(vae, frames: Tensor) -> Tensor:
    """Frames (T, H, W, 3) in 0..1 -> raw latents (1, C, t, h, w). ValueError unless T is a whole number of latents, and
    for a VAE that only decodes, as ComfyUI 0.7.0 has some light decoders."""
    check_video_vae(vae)
    latents = vae.downscale_ratio[0](frames.shape[0])
    if vae.upscale_ratio[0](latents) != frames.shape[0]:
        raise ValueError(f"frames: got {frames.shape[0]}, of which the VAE would drop some without a word. "
                         f"Give {vae.upscale_ratio[0](latents)} or {vae.upscale_ratio[0](latents + 1)}.")
    try:
        return vae.encode(frames[..., :3])
    except NotImplementedError as error:
        raise ValueError("vae: this one only decodes in this ComfyUI. Connect the model's own VAE; Live Take takes a "
                         "light decoder beside it") from error


def visible_latents(decoder: nn.Module) -> int:
    """How many latents before a latent still change its frames: the reach of all causal convolutions in a row, each at
    its own frame rate (every `time_conv` doubles it)."""
    reach, rate = Fraction(0), 1
    for name, module in decoder.named_modules():
        if isinstance(module, CausalConv3d):
            reach += Fraction(module.kernel_size[0] - 1, rate)
            rate *= 2 if name.endswith("time_conv") else 1
    return math.ceil(reach)


def own_vae(base) -> str:
    """The class of the VAE that made the latents a model was trained on; empty where that is not known here. Others
    have as many channels and pixels, and other latents."""
    kinds = {kind.__name__ for kind in type(base.latent_format).__mro__}
    return next((vae for latents, vae in VAES.items() if latents in kinds), "")


def check_video_vae(vae) -> None:
    vae.throw_exception_if_invalid()
    if vae.latent_dim != 3 or not (is_causal(vae.upscale_ratio[0]) or is_in_clips(vae.upscale_ratio[0])):
        raise ValueError(f"vae: {type(vae.first_stage_model).__name__} is no causal video VAE (one frame for the first "
                         "latent, equally many for every other). Load the VAE of the model: for Wan, Wan 2.1 or 2.2.")


def is_causal(frames_for: Callable[[int], int]) -> bool:
    return all(frames_for(latents) == 1 + (latents - 1) * (frames_for(2) - 1) for latents in (1, 2, 9))


def is_in_clips(frames_for: Callable[[int], int]) -> bool:
    """Whether a VAE encodes clips of 17 frames as 5 latents, each by itself, and 5 frames as 2 behind them."""
    return all(frames_for(5 * clips + 2) == 17 * clips + 5 for clips in range(4))


def move_cache(cache: list, device: torch.device) -> list:
    """A new list with the cache's tensors on `device`; it also holds markers that are no tensors."""
    return [entry.to(device, non_blocking=True) if isinstance(entry, Tensor) else entry for entry in cache]


def stays_on_card(size: int, device: torch.device) -> bool:
    """Whether so many bytes may stay on the card between chunks: a small part of it, and of what is free there."""
    if model_management.vae_offload_device() == device:
        return True
    return (size <= SHARE_OF_CARD * model_management.get_total_memory(device)
            and size <= SHARE_OF_FREE * model_management.get_free_memory(device))


def check_latents(latents: Tensor, vae) -> None:
    wanted = vae.latent_channels
    if latents.ndim != 5 or latents.shape[0] != 1 or latents.shape[1] != wanted:
        raise ValueError(f"latents: got shape {tuple(latents.shape)}, the VAE decodes (1, {wanted}, t, h, w). "
                         "Use the VAE that belongs to the model.")


def pictures(frames: Tensor) -> Tensor:
    """What a VAE decoded (T, H, W, C) as RGB; an alpha channel is dropped."""
    if frames.shape[-1] not in (3, 4):
        raise ValueError(f"vae: it decodes to {frames.shape[-1]} channels, pictures have 3. Use the VAE of the model.")
    return frames[..., :3].float()
