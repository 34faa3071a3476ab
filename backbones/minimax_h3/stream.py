"""MiniMax H3's VAE as a stream: it decodes clips of 5 latents with the 2 behind them and blends 5 frames into the next.

ComfyUI does so within one decoding. Here the frames that are to be blended, and the latents that a clip still lacks,
wait from push to push: frames are those of one decoding of the whole take, and memory is that of a clip.
"""
from collections.abc import Iterator
from typing import Any

import torch
from comfy import model_management
from torch import Tensor

from ..vae import check_latents, pictures


class H3Stream:
    """A FrameStream over ComfyUI's MiniMaxH3VideoVAE."""

    def __init__(self, vae):
        self._vae = vae
        self._model: Any = vae.first_stage_model
        self._waiting: Tensor | None = None
        self._tail: Tensor | None = None    # of the clip before: frames to be blended, as they left the network
        self._flushed = False
        self.warmup_latents = self._model.tokens_chunk_size + self._model.token_overlap

    @classmethod
    def of(cls, vae) -> "H3Stream | None":
        return cls(vae) if type(vae.first_stage_model).__name__ == "MiniMaxH3VideoVAE" else None

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        if self._flushed:
            raise ValueError("this stream was flushed: its last frame is out. Open a new stream for a new take.")
        check_latents(latents, self._vae)
        model = self._model
        waiting = latents if self._waiting is None else torch.cat([self._waiting, latents], 2)
        while waiting.shape[2] >= self.warmup_latents:
            frames, self._tail = self._decode(waiting[:, :, :self.warmup_latents])
            waiting = waiting[:, :, model.tokens_chunk_size:]
            yield frames
        self._waiting = waiting.clone()

    def flush(self) -> Iterator[Tensor]:
        frames, self._flushed = self.peek(), True
        self._waiting = self._tail = None
        if frames is not None:
            yield frames

    def peek(self) -> Tensor | None:
        """The frames of the last clip that nothing follows; of a take of two latents, all."""
        if self._waiting is None:
            return None
        if self._tail is not None:
            return self._finish(self._tail)
        return pictures(self._vae.decode(self._waiting)[0])

    @torch.inference_mode()
    def _decode(self, group: Tensor) -> tuple[Tensor, Tensor]:
        """The frames of a clip, blended with the one before, and those that are to be blended with the next."""
        vae, model = self._vae, self._model
        model_management.load_models_gpu([vae.patcher], force_full_load=vae.disable_offload,
                                         memory_required=vae.memory_used_decode(group.shape, vae.vae_dtype))
        z = group.to(vae.device, vae.vae_dtype)
        mean, std = (value.view(1, -1, 1, 1, 1).to(z) for value in (model.latents_mean, model.latents_std))
        decoded, clip = model._adaptive_decode(z * std + mean), model.tokens_chunk_size * model.vae_ratio_t
        own, tail = decoded[:, :, model.frame_pre_padding:clip], decoded[:, :, clip + model.frame_pre_padding:]
        if self._tail is not None:
            own = model.blend(self._tail.to(own), own, model.frame_overlap, dim=-3)
        return self._finish(own), tail.to("cpu", copy=True)

    def _finish(self, frames: Tensor) -> Tensor:
        return pictures(self._model._finalize_pixels(frames.to(self._vae.device))[0].movedim(0, -1))
