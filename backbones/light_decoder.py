"""Light decoders: the tiny autoencoders that ComfyUI has for previews of video latents, as a stream.

madebyollin's TAEHV, in ComfyUI's own class: convolutions over single pictures, of which some also see the one before.
Carrying those pictures from push to push gives what decoding the whole take at once would give.
"""
import math
from collections.abc import Iterator
from fractions import Fraction

import comfy.latent_formats
import torch
from comfy import model_management
from comfy.taesd.taehv import TAEHV, MemBlock, TGrow
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from .vae import check_latents, pictures

NAMED = {"Wan21": "lighttaew2_1", "Wan22": "lighttaew2_2", "HunyuanVideo": "taehv", "HunyuanVideo15": "lighttaehy1_5"}


class LightStream:
    """A FrameStream. Each latent is decoded as it comes; what its neighbour sees of it stays on the card, some MB."""

    @classmethod
    def of(cls, vae) -> "LightStream | None":
        return cls(vae) if is_light(vae) else None

    def __init__(self, vae):
        self._vae = vae
        self._seen: dict[int, Tensor] = {}      # by place in the decoder
        self._model = vae.first_stage_model
        self._left_out = grow_of(self._model) - 1       # frames before the first: the first latent has but one
        self.warmup_latents = visible_latents(self._model.decoder) + 1

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        check_latents(latents, self._vae)
        memory = self._vae.memory_used_decode((*latents.shape[:2], 1, *latents.shape[3:]), self._vae.vae_dtype)
        model_management.load_models_gpu([self._vae.patcher], memory_required=memory,
                                         force_full_load=self._vae.disable_offload)
        for latent in latents.split(1, 2):
            frames = self._decode(latent)[self._left_out:]
            self._left_out = 0
            yield frames

    def flush(self) -> Iterator[Tensor]:
        return iter(())

    def peek(self) -> Tensor | None:
        return None

    @torch.inference_mode()
    def _decode(self, latent: Tensor) -> Tensor:
        """(1, C, 1, h, w) -> (T, H, W, 3)."""
        x = latent.to(device=self._vae.device, dtype=self._vae.vae_dtype)
        x = self._model.process_in(x)[0].movedim(1, 0)
        for place, block in enumerate(self._model.decoder):
            x = self._remember(place, block, x) if isinstance(block, MemBlock) else block(x)
        if self._model.patch_size > 1:
            x = pixel_shuffle(x, self._model.patch_size)
        return pictures(self._vae.process_output(x.float()).movedim(1, -1).clamp(0, 1))

    def _remember(self, place: int, block: nn.Module, x: Tensor) -> Tensor:
        """One block over pictures (T, C, h, w), each beside the one before it: before the first there is nothing."""
        before = self._seen.get(place)
        self._seen[place] = x[-1:].clone()
        return block(x, torch.cat([torch.zeros_like(x[:1]) if before is None else before, x[:-1]]))


def is_light(vae) -> bool:
    """Whether a VAE is one of ComfyUI's tiny video autoencoders, whose first latent is one frame."""
    return isinstance(vae.first_stage_model, TAEHV) and not getattr(vae.first_stage_model, "is_h3", False)


def grow_of(model: nn.Module) -> int:
    """Frames of a latent."""
    return math.prod(block.stride for block in model.decoder if isinstance(block, TGrow))


def visible_latents(decoder: nn.Module) -> int:
    """How many latents before a latent still change its frames."""
    reach, rate = Fraction(0), 1
    for block in decoder:
        rate *= block.stride if isinstance(block, TGrow) else 1
        reach += Fraction(isinstance(block, MemBlock), rate)
    return math.ceil(reach)


def check_light_decoder(vae, latent_format, model: str) -> None:
    """Raises ValueError for what is no light decoder, or one of another family's latents than `latent_format`'s, which
    ComfyUI tells by their channels and by how the file is packed."""
    kind = type(latent_format).__name__
    wanted = f"Load {NAMED[kind]} with Load VAE, from models/vae_approx" if kind in NAMED else \
        f"There is none for {model}: leave light_decoder open"
    if not is_light(vae):
        raise ValueError(f"got {type(vae.first_stage_model).__name__}, wanted one of ComfyUI's tiny video "
                         f"autoencoders. {wanted}")
    if vae.latent_channels != latent_format.latent_channels:
        raise ValueError(f"it decodes latents of {vae.latent_channels} channels, {model} makes "
                         f"{latent_format.latent_channels}. {wanted}")
    own = vae.first_stage_model.latent_format
    if own is not None and not isinstance(latent_format, own):
        raise ValueError(f"ComfyUI takes it for {own.__name__}'s, since it is of {latent_format.latent_channels} "
                         f"channels in half precision; {model} makes {kind} latents. {wanted}")
    if own is None and isinstance(latent_format, comfy.latent_formats.HunyuanVideo):
        raise ValueError(f"ComfyUI takes it for Wan's, since it is not in half precision; {model} makes {kind} "
                         f"latents. {wanted}")
