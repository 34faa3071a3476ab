"""The driver of a live take: block by block it waits for the sound that the window looks into, samples, decodes and
writes the block that leaves, and forgets.

How long the take is becomes known while it is made. A block is written once the sound of all blocks behind it in the
window is there, so that the picture is late by the window's length but one, and by one step.
"""
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import count

import torch
from torch import Tensor

from ...techniques.protocols import FrameStream
from .live_file import LiveFile
from .live_sound import LiveSound
from .plan import Chunk, ChunkPlan
from .protocols import ChunkSampler

ENDLESS = 1 << 40      # blocks


class LivePast:
    """A Past that has the last `most` latents, and the first."""

    def __init__(self, most: int):
        self._most = most
        self._last: Tensor | None = None
        self._first: Tensor | None = None

    def latents(self, count: int) -> Tensor:
        return self._last[:, :, -count:] if self._last is not None else _nothing(count)

    def first_latents(self, count: int) -> Tensor:
        if count > 1:
            raise ValueError(f"{count} first latents were asked for, a live take keeps 1")
        return self._first if self._first is not None else _nothing(count)

    def frames(self, count: int) -> Tensor:
        raise ValueError(f"{count} frames were asked for, a live take keeps none")

    def add(self, piece: Tensor) -> None:
        piece = piece.detach().to("cpu", copy=True)
        self._first = piece[:, :, :1] if self._first is None else self._first
        whole = piece if self._last is None else torch.cat([self._last, piece], 2)
        self._last = whole[:, :, max(whole.shape[2] - max(self._most, 1), 0):].clone()


def _nothing(count: int) -> Tensor:
    raise ValueError(f"got {count} latents to read of a take that has none yet")


class LiveEvents:
    """What happens while a live take is made. These do nothing."""

    def check_cancelled(self) -> None:
        """Called often: what it raises passes through, and the blocks that are finished stay."""

    def block_written(self, frames: int) -> None:
        """A block is on disk; so many frames are there in all."""


@dataclass(eq=False)
class LiveTake:
    """`plan`: of the longest take. `length`: blocks of the window, which `end_window` tells how many there are in all
    once that is known. `recents`: latents that the sampler looks back at; `history`: seconds of sound."""
    plan: ChunkPlan
    length: int
    sound: LiveSound
    sampler: ChunkSampler
    stream: FrameStream
    file: LiveFile
    end_window: Callable[[int], None]
    events: LiveEvents
    recents: int = 0
    history: Fraction = Fraction(0)

    def make(self) -> None:
        """Make the take to the end of its sound. Raises ValueError for latents with NaN, what the sound raises,
        NotWritten."""
        past, blocks, frames = LivePast(self.recents), None, ENDLESS
        for index in count():
            if blocks is None and not self.sound.wait_until(self.ends_at(index + self.length - 1)):
                frames, blocks = self.measure()
                self.end_window(blocks)
            if index == blocks:
                break
            self.make_block(index, past, frames, index + 1 == blocks)
        self.file.end()

    def make_block(self, index: int, past: LivePast, frames: int, last: bool) -> None:
        """Make block `index` of a take of so many `frames`, as far as that is known."""
        before = self.file.frames
        for piece in self.sampler.sample(self.chunk(index), past):
            if not torch.isfinite(piece).all():
                raise ValueError(f"block {index + 1} came out of the sampler with NaN or infinite values; check the "
                                 "model file and its precision (fp16 can overflow), the sampler and the guidance scale")
            past.add(piece)
            self._write(self.stream.push(piece), frames)
        if last:
            self._write(self.stream.flush(), frames)
        first, end = (self.sound.samples_at(self.plan.timeline.seconds_at(place)) for place in
                      (before, self.file.frames))
        self.file.end_block(self.sound.read(first, end), self.sound.sample_rate, last)
        self.sound.forget(min(end, self.sound.used) - self.sound.samples_at(self.history))
        self.events.block_written(self.file.frames)

    def _write(self, groups, frames: int) -> None:
        for group in groups:
            self.events.check_cancelled()
            self.file.write(group[:max(frames - self.file.frames, 0)])

    def measure(self) -> tuple[int, int]:
        """Frames and blocks of the take, now that its sound is over."""
        clock = self.plan.timeline
        frames = max(min(clock.frames_for_seconds(self.sound.seconds), self.plan.total_frames), self.file.frames, 1)
        return frames, max(1, -(-(clock.latents_for_frames(frames) - 1) // self.plan.block_latents))

    def ends_at(self, block: int) -> Fraction:
        """Seconds of the take at which a block ends."""
        clock = self.plan.timeline
        return clock.seconds_at(clock.first_frame(1 + (block + 1) * self.plan.block_latents))

    def chunk(self, block: int) -> Chunk:
        """One block as a chunk; the first has the picture before it."""
        size, chunks = self.plan.block_latents, self.plan.chunks
        first = block and 1 + block * size
        number = min(bisect_right(chunks, first, key=lambda chunk: chunk.end_latent), len(chunks) - 1)
        return Chunk(block, first, 0, size if block else size + 1, chunks[number].prompt, 0)


def delay_seconds(plan: ChunkPlan, length: int) -> tuple[Fraction, Fraction]:
    """How late a picture is for its sound: (L - 1) blocks that the window looks ahead, and one step: a block."""
    clock = plan.timeline
    step = clock.seconds_at(plan.block_latents * clock.temporal_ratio)
    return (length - 1) * step, step
