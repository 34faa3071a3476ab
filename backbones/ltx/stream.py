"""LTX's VAE as a stream: what its convolutions keep of the latents before is carried from push to push.

ComfyUI decodes a video in pieces and forgets, at its end, what each layer would have shown the next piece. Here that is
put aside between two pushes and back for the next one, so frames are those of one decoding of the whole take. The
decoder looks ahead, so frames come somewhat later than their latents; the last latent is held for the end.
"""
import math
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from comfy import model_management
from comfy.ldm.lightricks.vae import causal_video_autoencoder as autoencoder
from torch import Tensor, nn

from ..vae import check_latents, pictures

GROUP_LATENTS = 2       # decoded at a time: what a push has in memory does not grow with it


class LTXStream:
    """A FrameStream over ComfyUI's VideoVAE. `sink`: each piece as the decoder finishes it."""

    def __init__(self, vae):
        self._vae = vae
        self._decoder: Any = vae.first_stage_model.decoder
        self._state: dict[nn.Module, Any] = {}
        self._held: Tensor | None = None
        self._flushed = False
        self.warmup_latents = visible_latents(self._decoder) + 1

    @classmethod
    def of(cls, vae) -> "LTXStream | None":
        """None for another VAE, where ComfyUI's decoder keeps nothing, and where it decodes with noise of its own."""
        model = vae.first_stage_model
        own = isinstance(model, autoencoder.VideoVAE) and hasattr(model.decoder, "run_up")
        return cls(vae) if own and not model.timestep_conditioning else None

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        if self._flushed:
            raise ValueError("this stream was flushed: its last frame is out. Open a new stream for a new take.")
        check_latents(latents, self._vae)
        waiting = latents if self._held is None else torch.cat([self._held, latents], 2)
        self._held = waiting[:, :, -1:].clone()
        for group in waiting[:, :, :-1].split(GROUP_LATENTS, 2):
            if group.shape[2]:
                yield from self._decode(group, self._state)
        self._state = {module: move_state(state, "cpu", copy=True) for module, state in self._state.items()}

    def flush(self) -> Iterator[Tensor]:
        frames, self._held, self._flushed = self.peek(), None, True
        if frames is not None:
            yield frames

    def peek(self) -> Tensor | None:
        """Whatever comes next is not known yet, so these frames may come out otherwise."""
        return None if self._held is None else torch.cat(self._decode(self._held, dict(self._state), ended=True))

    @torch.inference_mode()
    def _decode(self, group: Tensor, state: dict[nn.Module, Any], ended: bool = False) -> list[Tensor]:
        """Frames (T, H, W, 3) that are ready with `group`; `state` is brought up to date. `ended`: it is the last."""
        vae, decoder, device = self._vae, self._decoder, self._vae.device
        shape = (*group.shape[:2], GROUP_LATENTS, *group.shape[3:])
        model_management.load_models_gpu([vae.patcher], force_full_load=vae.disable_offload,
                                         memory_required=vae.memory_used_decode(shape, vae.vae_dtype))
        latents = vae.first_stage_model.per_channel_statistics.un_normalize(group.to(device, vae.vae_dtype))
        sink, thread = Sink(), threading.get_ident()
        layers = [module for module in decoder.modules() if hasattr(module, "temporal_cache_state")]
        try:
            for module, kept in state.items():
                module.temporal_cache_state[thread] = move_state(kept, device)
            if ended:
                autoencoder.mark_conv3d_ended(decoder.conv_in)
            sample = decoder.conv_in(latents, causal=decoder.causal)
            if sample.shape[2]:
                decoder.run_up(0, [sample], ended, None, None, lambda layer: layer, sink, [0],
                               autoencoder.get_max_chunk_size(device))
            state.update({module: module.temporal_cache_state[thread] for module in layers
                          if thread in module.temporal_cache_state})
        finally:
            for module in layers:
                module.temporal_cache_state.pop(thread, None)
        return [pictures(vae.process_output(piece.float())[0].movedim(0, -1)) for piece in sink.pieces]


class Sink:
    """What the decoder writes into: nothing is kept but what it gives."""

    def __init__(self):
        self.pieces: list[Tensor] = []

    def __getitem__(self, place) -> "Sink":
        return self

    def copy_(self, piece: Tensor) -> None:
        self.pieces.append(piece)


def move_state(state: Any, device: torch.device | str, copy: bool = False) -> Any:
    """What a layer keeps, a tensor or some with flags, on `device`. `copy`: it is a part of what may go."""
    if isinstance(state, Tensor):
        return state.to(device, copy=copy)
    return tuple(move_state(part, device, copy) for part in state) if isinstance(state, tuple) else state


def visible_latents(decoder: Any) -> int:
    """How many latents before a latent still change its frames: the reach of all convolutions, each at its own frame
    rate."""
    reach, rate = Fraction(0), 1
    for module in decoder.modules():
        if isinstance(module, autoencoder.DepthToSpaceUpsample):
            rate *= module.stride[0]
            reach += Fraction(2 * module.stride[0], rate)
        elif isinstance(module, autoencoder.CausalConv3d):
            reach += Fraction(module.time_kernel_size - 1, rate)
    return math.ceil(reach)
