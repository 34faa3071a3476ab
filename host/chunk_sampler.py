"""ComfyUI's chunk sampler: a chunk goes through the guider, sampler and callbacks that core would use for a clip."""
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.utils
from torch import Tensor

from ..backbones import attach, find
from ..backbones.allocator import give_back
from ..backbones.backbone import ChunkInputs, pictures_of
from ..backbones.socket_values import name_input
from ..backbones.take_checks import check_guider, check_noise, check_schedule
from ..pipelines.take.plan import Chunk
from ..techniques.protocols import Past
from ..techniques.technique import ChunkPosition
from .identity_memory import IdentityMemory, count_context
from .progress import TakeProgress
from .take_inputs import TakeInputs


@dataclass(frozen=True, eq=False)
class Sampling:
    """How a chunk is sampled: what core's SamplerCustomAdvanced takes."""
    noise: Any
    guider: Any
    sampler: Any
    sigmas: Tensor

    @property
    def steps(self) -> int:
        return self.sigmas.shape[-1] - 1

    @property
    def given(self) -> frozenset[str]:
        """Names of the values that the guider's conditioning has."""
        return frozenset(name for entries in self.guider.original_conds.values() for entry in entries for name in entry)

    def check(self) -> None:
        """Raises ValueError for a schedule that is not whole, a guider with another model's prompts, or a sampler that
        its model cannot have."""
        with name_input("noise"):
            check_noise(self.guider.model_patcher, self.noise)
        with name_input("sampler"):
            find(self.guider.model_patcher).check_sampler(self.sampler)
        with name_input("sigmas"):
            check_schedule(self.guider.model_patcher, self.sigmas)
            if (check_own := getattr(self.guider, "check_schedule", None)) is not None:
                check_own(self.sigmas)
        with name_input("guider"):
            check_guider(self.guider)


class GuiderChunkSampler:
    """A ChunkSampler that yields each chunk in one piece and needs no state: the journal has all it goes on from."""

    def __init__(self, inputs: TakeInputs, sampling: Sampling, progress: TakeProgress):
        self.inputs, self.sampling, self.progress = inputs, sampling, progress
        self.context_latents = count_context(inputs)
        self.identity = IdentityMemory(inputs)

    @property
    def past_frames(self) -> int:
        if not self.context_latents:
            return self.identity.past_frames
        handed = self.inputs.handover.handover_frames(self.context_latents, self.inputs.plan.timeline.temporal_ratio)
        return max(handed, self.identity.past_frames, self.inputs.backbone.opening_frames())

    def state(self) -> dict[str, Tensor]:
        return self.identity.state()

    def restore(self, state: dict[str, Tensor], past: Past) -> None:
        self.identity.restore(state)

    def sample(self, chunk: Chunk, past: Past) -> Iterator[Tensor]:
        self.progress.begin_chunk(chunk)
        context, frames = self.context(chunk, past)
        self.identity.begin_chunk(chunk, past)
        yield self.new_latents(chunk, context, frames, self.reference(chunk, past))
        give_back()     # what sampling it and decoding it left

    def context(self, chunk: Chunk, past: Past) -> tuple[Tensor | None, Tensor | None]:
        """The clean latents (1, C, k, h, w) that the chunk continues from, and the frames (T, H, W, 3) that they were
        encoded from for it, or that the family wants beside them."""
        if not self.inputs.plan.number_of(chunk) or not self.context_latents:
            return None, None
        if not chunk.index:     # a clip's, encoded already
            return past.latents(self.context_latents), self.inputs.clip_tail
        encoded: list[Tensor] = []

        def encode(frames: Tensor) -> Tensor:
            encoded.append(frames)
            return self.inputs.encode(frames)

        context = self.inputs.handover.handover(past, self.context_latents, encode,
                                                self.inputs.plan.timeline.temporal_ratio)
        wanted = self.inputs.backbone.opening_frames()
        return context, encoded[0] if encoded else past.frames(wanted) if wanted else None

    def reference(self, chunk: Chunk, past: Past) -> Tensor | None:
        """What says who the person is (1, C, 1, h, w)."""
        return self.inputs.backbone.reference_latent(self.inputs.reference, past, self.inputs.plan.number_of(chunk))

    def new_latents(self, chunk: Chunk, context: Tensor | None, frames: Tensor | None, reference: Tensor | None
                    ) -> Tensor:
        """(1, C, chunk.new_latents, h, w) float32."""
        pictures, seen = self.identity.pictures, self.identity.seen
        inputs = self.inputs.chunk_inputs(chunk, context, reference, frames, pictures, seen)
        position = ChunkPosition(self.inputs.plan.seconds_of(chunk)[0], reference, inputs.context,
                                 self.inputs.plan.number_of(chunk), chunk.first_latent,
                                 identity=None if self.inputs.memory_in_channels else pictures,
                                 opening=self.identity.opening)
        sampled = self.run_sampler(self.chunk_guider(chunk, position, inputs), chunk, inputs)
        return inputs.new_latents(pictures_of(sampled).float().cpu(), chunk.context_latents)

    def chunk_guider(self, chunk: Chunk, position: ChunkPosition, inputs: ChunkInputs) -> Any:
        prompt, guider = self.inputs.prompts.get(chunk.prompt), self.sampling.guider
        conditions = inputs.with_text(attach.text_of(guider, prompt)) if inputs.text_for else inputs.conditions
        return attach.guider_at(guider, self.inputs.techniques_at(chunk), position, conditions, inputs.uncond,
                                prompt)

    def run_sampler(self, guider: Any, chunk: Chunk, inputs: ChunkInputs) -> Tensor:
        model = self.inputs.model
        callback = self.progress.sampler_callback(chunk, model.load_device, model.model.latent_format)
        noise = copy.copy(self.sampling.noise)
        noise.seed = chunk.seed(self.sampling.noise.seed)
        sampled = guider.sample(noise.generate_noise({"samples": inputs.samples}), inputs.samples,
                                self.sampling.sampler, self.sampling.sigmas, denoise_mask=inputs.noise_mask,
                                callback=callback, disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=noise.seed)
        self.progress.end_sampling()
        return sampled
