"""CogVideoX's VAE as a stream: the caches of its convolutions are carried from pair to pair, as its authors decode.

They begin with three latents and go on by two, which is what ComfyUI's class calls a batched decode; ComfyUI itself
decodes a chunk in one go, whose norms then differ from chunk to chunk, and with them the colours.
"""
import math
from fractions import Fraction

import torch
from torch import Tensor

from ..vae import GROUP_LATENTS, WanStream, pictures

Path = tuple[str, ...]


class CogVideoXStream(WanStream):
    """The first three latents, then pairs; what is left of them is held back for the next push or the flush."""

    first_group = 3

    @classmethod
    def of(cls, vae) -> "CogVideoXStream | None":
        return cls(vae) if hasattr(vae.first_stage_model, "num_latent_frames_batch_size") else None

    def _open(self) -> None:
        self._cache = []
        self._places: list[Path] = []     # of the cache's tensors in the decoder's own nested dicts
        self.warmup_latents = visible_latents(self._decoder) + 1

    def _estimated_latents(self, latents: Tensor) -> int:
        return self.first_group

    @torch.inference_mode()
    def _decode(self, group: Tensor, cache: list) -> Tensor:
        """Decode a group; `cache` is brought up to date in place. Latents that are missing in it are the last again."""
        count, frames = group.shape[2], 4 * group.shape[2] if self._decoded else 4 * group.shape[2] - 3
        missing = 0 if count == 1 and not self._decoded else max(
            (GROUP_LATENTS if self._decoded else self.first_group) - count, 0)
        latents = torch.cat([group, group[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
        past = nest(dict(zip(self._places, cache, strict=True))) if cache else {}
        latents = latents.to(device=self._vae.device, dtype=self._vae.vae_dtype)
        decoded, kept = self._decoder(latents, conv_cache=past)
        if cache is self._cache:     # else it is a look at what is held back
            found = flatten(kept)
            self._places, cache[:] = list(found), found.values()
        return pictures(self._vae.process_output(decoded.float())[0].movedim(0, -1))[:frames]


def flatten(kept: dict, place: Path = ()) -> dict[Path, Tensor]:
    """The tensors of nested dicts by their places."""
    found: dict[Path, Tensor] = {}
    for name, value in kept.items():
        own = (*place, name)
        if isinstance(value, Tensor):
            found[own] = value
        elif value:
            found |= flatten(value, own)
    return found


def nest(found: dict[Path, Tensor]) -> dict:
    """Nested dicts of tensors at their places."""
    kept: dict = {}
    for place, value in found.items():
        level = kept
        for name in place[:-1]:
            level = level.setdefault(name, {})
        level[place[-1]] = value
    return kept


def visible_latents(decoder) -> int:
    """How many latents before a latent still change its frames: the reach of all causal convolutions in a row, each at
    its own frame rate, which the first two blocks double."""
    reach = Fraction(0)
    for name, module in decoder.named_modules():
        if getattr(module, "time_kernel_size", 1) > 1:
            block = name.split(".")
            doubled = min(int(block[1]), 2) if block[0] == "up_blocks" else 2 if block[0] == "conv_out" else 0
            reach += Fraction(module.time_kernel_size - 1, 2 ** doubled)
    return math.ceil(reach)
