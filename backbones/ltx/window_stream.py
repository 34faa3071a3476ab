"""LTX's VAEs of which nothing can be carried from push to push: 2.4's, which makes frames out of noise, and all of them
in ComfyUI 0.7. Both look at latents on either side, so a latent waits until enough have come behind it, and is decoded
between those and as many before it that are seen again.
"""
from collections.abc import Iterator
from typing import Any

import torch
from comfy import model_management
from torch import Tensor

from ..vae import check_latents, pictures

SEEN = 4        # latents on either side
GROUP = 8       # latents decoded between them at a time
KINDS = ("VideoVAE", "CausalDiffusionVAE")
RATIO = 8       # pixel frames of a latent, but of the first


class WindowStream:
    """A FrameStream over ComfyUI's VideoVAE and CausalDiffusionVAE."""

    warmup_latents = 2 * SEEN       # then both what is seen again and what waits are those of an older stream

    def __init__(self, vae):
        self._vae = vae
        self._seen: Tensor | None = None
        self._waiting: Tensor | None = None
        self._flushed = False

    @classmethod
    def of(cls, vae) -> "WindowStream | None":
        return cls(vae) if type(vae.first_stage_model).__name__ in KINDS else None

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        if self._flushed:
            raise ValueError("this stream was flushed: its last frame is out. Open a new stream for a new take.")
        check_latents(latents, self._vae)
        waiting = latents if self._waiting is None else torch.cat([self._waiting, latents], 2)
        while (ready := min(waiting.shape[2] - SEEN, GROUP)) > 0:
            own = waiting[:, :, :ready]
            yield self._decode(own, waiting[:, :, ready:ready + SEEN])
            self._seen = (own if self._seen is None else torch.cat([self._seen, own], 2))[:, :, -SEEN:].clone()
            waiting = waiting[:, :, ready:]
        self._waiting = waiting.clone()

    def flush(self) -> Iterator[Tensor]:
        frames, self._flushed = self.peek(), True
        self._waiting = None
        if frames is not None:
            yield frames

    def peek(self) -> Tensor | None:
        """Whatever comes next is not known yet, so these frames may come out otherwise."""
        return None if self._waiting is None else self._decode(self._waiting, self._waiting[:, :, :0], ended=True)

    def _decode(self, own: Tensor, behind: Tensor, ended: bool = False) -> Tensor:
        """Frames (T, H, W, 3) of `own`. `ended`: nothing follows."""
        window = torch.cat([own, behind] if self._seen is None else [self._seen, own, behind], 2)
        before = 0 if self._seen is None else self._seen.shape[2]
        if not hasattr(self._vae.first_stage_model.decoder, "forward_pre_diffusion"):
            frames, lost = pictures(self._vae.decode(window)[0]), RATIO - 1     # the first latent became one frame
        else:
            frames, lost = self._make_frames(window, before == 0, ended), 0 if before else RATIO - 1
        return frames[max(before * RATIO - lost, 0):(before + own.shape[2]) * RATIO - lost]

    @torch.inference_mode()
    def _make_frames(self, window: Tensor, begins: bool, ends: bool) -> Tensor:
        """By 2.4's decoder, which asks whether the take begins or ends here."""
        vae, model = self._vae, self._vae.first_stage_model
        model_management.load_models_gpu([vae.patcher], force_full_load=vae.disable_offload,
                                         memory_required=vae.memory_used_decode(window.shape, vae.vae_dtype))
        latents: Any = model.per_channel_statistics.un_normalize(window.to(vae.device, vae.vae_dtype))
        noise = torch.Generator(vae.device).manual_seed(0)      # core's, so that a decoding can be repeated
        made = model.decoder(latents, generator=noise, drop_leading_frame=begins, pad_trailing=ends)
        return pictures(vae.process_output(made.float())[0].movedim(0, -1).cpu())
