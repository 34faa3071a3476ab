"""Chunks of a finished take that are made again, each between neighbours that stay as they are.

A chunk begins as it began, after the latents of the chunk before it. Its last latents are those it had: the model is
given them at their noise level in every step, and its frames lead there, since the chunk behind went on from them. All
other frames of the video are the packets that they were.
"""
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from torch import Tensor

from ..backbones.backbone import ChunkInputs
from ..backbones.socket_values import name_input
from ..pipelines.take.journal import Journal
from ..pipelines.take.plan import Chunk, ChunkPlan
from ..pipelines.take.reusable_chunks import take_folder
from ..pipelines.take.take import remake_chunk
from ..pipelines.take.video_writer import VideoWriter
from .chunk_sampler import GuiderChunkSampler, Sampling
from .progress import TakeProgress
from .take_inputs import TakeInputs

LATENTS_WITHOUT_OVERLAP = 4     # held at the end of a chunk whose context is outside it, or that has no overlap
CLOSE = 0.05                    # of the latents' spread: a sampler that holds what is given ends nearer than this


def held_latents(plan: ChunkPlan, chunk: Chunk, shown_later: int = 0) -> int:
    """How many of a chunk's last latents stay when it is made again: the overlap, at most half of its new ones, but
    all that a decoder which looks ahead shows with the next chunk, `shown_later`; none of the last chunk's.
    Raises ValueError for a chunk in which nothing would be left to make."""
    if chunk.index == plan.chunks[-1].index:
        return 0
    if chunk.new_latents < max(shown_later, 1) + 1:
        later = f" and its last {shown_later} are shown with the next chunk" if shown_later else ""
        raise ValueError(f"chunk {chunk.index + 1} cannot be made again by itself: it has {chunk.new_latents} latents "
                         f"of its own{later}, wanted {max(shown_later, 1) + 1} or more. Make longer chunks, or leave "
                         "[again] out of the script")
    overlap = plan.overlap_latents or LATENTS_WITHOUT_OVERLAP
    return max(min(overlap, chunk.new_latents // 2), shown_later)


def latents_shown_later(plan: ChunkPlan, chunk: Chunk, frames: int) -> int:
    """How many of a chunk's last latents have frames that came with the chunk behind it; `frames`: of the video up to
    its end."""
    stop = sum(one.new_latents for one in plan.chunks[:chunk.index + 1])
    return next((count for count in range(chunk.new_latents)
                 if plan.timeline.frames_for_latents(stop - count) <= frames), chunk.new_latents)


class RemakingSampler(GuiderChunkSampler):
    """A ChunkSampler of one chunk whose end (1, C, k, h, w), k from 0 up, is given."""

    def __init__(self, inputs: TakeInputs, sampling: Sampling, progress: TakeProgress, end: Tensor):
        super().__init__(inputs, sampling, progress)
        self.end = end

    def run_sampler(self, guider: Any, chunk: Chunk, inputs: ChunkInputs) -> Tensor:
        return super().run_sampler(guider, chunk, hold_end(inputs, self.end))

    def new_latents(self, chunk: Chunk, context: Tensor | None, frames: Tensor | None, reference: Tensor | None
                    ) -> Tensor:
        made, held = super().new_latents(chunk, context, frames, reference), self.end.shape[2]
        if not held:
            return made
        away = (made[:, :, -held:] - self.end).abs().mean() / self.end.std().clamp(min=1e-6)
        if not away < CLOSE:    # NaN too
            raise ValueError(f"chunk {chunk.index + 1} cannot be made again by itself: this sampler and model do not "
                             "keep the end that the next chunk goes on from. Leave [again] out of the script, or use "
                             "another sampler")
        return torch.cat([made[:, :, :-held], self.end], 2)


def hold_end(inputs: ChunkInputs, end: Tensor) -> ChunkInputs:
    """The inputs whose last latents of the chunk are `end` and are held. Of picture and sound, the picture's."""
    if not end.shape[2]:
        return inputs
    (samples, *sounds), mask = streams_of(inputs.samples), inputs.noise_mask
    mask, *sound_masks = [torch.ones_like(one[:, :1]) for one in (samples, *sounds)] if mask is None else streams_of(
        mask)
    samples, mask = samples.clone(), mask.expand(-1, -1, *samples.shape[2:]).clone()
    stop = samples.shape[2] - inputs.behind
    samples[:, :, stop - end.shape[2]:stop] = end.to(samples)
    mask[:, :, stop - end.shape[2]:stop] = 0
    if not sounds:
        return replace(inputs, samples=samples, noise_mask=mask)
    return replace(inputs, samples=NestedTensor((samples, *sounds)), noise_mask=NestedTensor((mask, *sound_masks)))


def streams_of(latents: Any) -> list[Tensor]:
    """What ComfyUI packed into one latent, the picture first."""
    return list(latents.unbind()) if getattr(latents, "is_nested", False) else [latents]


@dataclass(frozen=True, eq=False)
class Remakes:
    """What is made again of the take in `journal`, in folders of their own beside its folder."""
    inputs: TakeInputs
    sampling: Sampling
    writer: VideoWriter
    progress: TakeProgress
    journal: Journal

    def segments(self) -> list[Path]:
        """The finished take's segments, with those that are made again in place of the first ones."""
        found = self.journal.segments()
        for chunk in self.inputs.plan.remakes:
            with name_input("plan"), self.open(chunk) as again:
                new = remake_chunk(self.inputs.plan, chunk, self.sampler(chunk), self.inputs.open_stream, self.journal,
                                   again, self.writer, self.progress, self.inputs.opening)
            found[found.index(self.journal.folder / f"chunk_{chunk.index:04}.mp4")] = new
        return found

    def sampler(self, chunk: Chunk) -> RemakingSampler:
        plan = self.inputs.plan
        later = latents_shown_later(plan, chunk, self.journal.until(chunk.index + 1).finished_frames)
        return RemakingSampler(self.inputs, self.sampling, self.progress,
                               self.latents(chunk, held_latents(plan, chunk, later)))

    def latents(self, chunk: Chunk, count: int) -> Tensor:
        """The last latents (1, C, count, h, w) of a chunk, as it was made first."""
        if not count:
            channels, height, width = self.inputs.latent_shape
            return torch.zeros(1, channels, 0, height, width)
        stop = sum(one.new_latents for one in self.inputs.plan.chunks[:chunk.index + 1])
        return self.journal.latents(stop - count, stop)

    def tail(self) -> Tensor:
        """The new latents of the chunk that was finished last."""
        last = self.inputs.plan.chunks[self.journal.finished - 1]
        for chunk in self.inputs.plan.remakes:
            if chunk.index == last.index:
                with self.open(chunk) as again:
                    return again.latents(0, last.new_latents)
        return self.latents(last, last.new_latents)

    def open(self, chunk: Chunk) -> Journal:
        prints = [{**self.journal.fingerprints[chunk.index], "again": str(chunk.again),
                   "take": self.journal.content("")}]
        folder = self.journal.folder
        return Journal.open(take_folder(folder.parent, f"{folder.name}-again", prints), prints, self.journal.take)

    def discard(self) -> None:
        for chunk in self.inputs.plan.remakes:
            with self.open(chunk) as again:
                again.discard()


def check_remakes(inputs: TakeInputs) -> None:
    """Raises ValueError for a chunk that cannot be made again, before anything is."""
    for chunk in inputs.plan.remakes:
        with name_input("plan"):
            held_latents(inputs.plan, chunk)
