"""The chunk sampler without ComfyUI: LongCat's network itself, latents in its space throughout."""
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...networks.longcat.network import LongCat
from ...techniques.audio.features import slot_steps
from ...techniques.protocols import Past
from ...techniques.technique import ChunkPosition, Technique
from ..take.plan import Chunk, ChunkPlan
from .longcat_sampling import Request, sample


@dataclass(frozen=True, eq=False)
class LongCatChunkSampler:
    """A ChunkSampler whose noise is that of ComfyUI's Random Noise. `audio` (rows, layers, channels), a row per frame;
    `picture` (1, C, 1, h, w); `seed` of the first chunk's noise."""
    network: LongCat
    plan: ChunkPlan
    audio: Tensor
    picture: Tensor
    techniques: tuple[Technique, ...]
    sigmas: Tensor
    seed: int
    past_frames: int = 0

    def sample(self, chunk: Chunk, past: Past) -> Iterator[Tensor]:
        conditioning, reference = self.picture, None
        if chunk.index:
            conditioning, reference = past.latents(self.plan.overlap_latents), self.picture
        position = ChunkPosition(self.plan.seconds_of(chunk)[0], self.picture, chunk=chunk.index)
        window = sample(self.network, self.noise(chunk), self.sigmas, Request(
            conditioning, reference, self.audio_for(chunk), self.techniques, position))
        yield window[:, :, chunk.context_latents:]

    def noise(self, chunk: Chunk) -> Tensor:
        shape = (1, self.picture.shape[1], chunk.latents, *self.picture.shape[-2:])
        return torch.randn(shape, generator=torch.Generator().manual_seed(chunk.seed(self.seed)))

    def audio_for(self, chunk: Chunk) -> Tensor:
        frames = self.plan.timeline.frames_for_latents(chunk.latents)
        first = self.plan.timeline.last_frame(chunk.first_latent)
        return self.audio[slot_steps(first, frames, 1, len(self.audio))][None, None]

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor], past: Past) -> None:
        pass
