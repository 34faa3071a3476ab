"""The driver of a take: for each chunk sample, decode, write, journal, forget.

Knows no model and no ComfyUI: both come as functions. Memory does not grow with the take: of older chunks only the
last few decoded frames are kept, and only if the hand-over asks for them.
"""
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..safe_files import NotWritten
from .journal import Journal
from .plan import Chunk, ChunkPlan
from .video_writer import VideoWriter


class FrameStream(Protocol):
    """A VAE that decodes a take piece by piece, equal to decoding it at once. Groups are latents 0, 1-2, 3-4, ..."""
    warmup_latents: int  # latents to push again (frames discarded) until a new stream is in the state of the old one

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        """(1, C, t, h, w) -> groups of frames (T, H, W, 3), float 0..1 on any device; an odd last latent is kept."""

    def flush(self) -> Iterator[Tensor]:
        """The frames of the latent held back, if any."""

    def peek(self) -> Tensor | None:
        """The same frames, without changing the state."""


class Tail:
    """What the chunks made so far hand over to the next one, and to anything between the chunks."""

    def __init__(self, journal: Journal, stream: FrameStream, keep_frames: int):
        self._journal, self._stream = journal, stream
        self._recent: deque[Tensor] = deque(maxlen=keep_frames)

    def latents(self, count: int) -> Tensor:
        """The last `count` latents of the take so far (1, C, count, h, w), exactly as sampled; fewer if there are."""
        end = self._journal.finished_latents
        return self._journal.latents(max(end - count, 0), end)

    def frames(self, count: int) -> Tensor:
        """The last `count` frames decoded so far (count, H, W, 3), float 0..1; fewer if there are.

        The frames of a latent that the stream holds back are among them (this decodes that latent once more). Raises
        ValueError if `count` is more than make_take's `tail_frames`.
        """
        if count > (self._recent.maxlen or 0):
            raise ValueError(f"{count} frames were asked for, but the take keeps tail_frames={self._recent.maxlen}")
        held = self._stream.peek()
        frames = [*self._recent, *([] if held is None else held.cpu())]
        return torch.stack(frames[len(frames) - min(count, len(frames)):])

    def keep(self, frames: Tensor) -> None:
        self._recent.extend(frame.clone() for frame in frames[max(len(frames) - (self._recent.maxlen or 0), 0):])

    def park(self) -> None:
        """Bring what is kept to RAM: not each frame that came by, only those that are left at the end."""
        self._recent.extend([self._recent.popleft().cpu() for _ in range(len(self._recent))])


@dataclass(frozen=True)
class ChunkDone:
    chunk: Chunk
    latents: Tensor  # (1, C, new_latents, h, w), the chunk's new latents
    tail: Tail


@dataclass(frozen=True)
class TakeResult:
    segments: tuple[Path, ...]  # for VideoWriter.finish
    frames: int
    made: int                   # chunks made by this run; the others were in the journal


def make_take(plan: ChunkPlan, sample_chunk: Callable[[Chunk, Any], Tensor], open_stream: Callable[[], FrameStream],
              journal: Journal, writer: VideoWriter, *, context_of: Callable[[Tail], Any] | None = None,
              tail_frames: int = 0, check_cancelled: Callable[[], None] = lambda: None,
              on_chunk: Callable[[ChunkDone], None] = lambda done: None,
              on_frames: Callable[[Chunk, int], None] = lambda chunk, frames: None,
              on_replay: Callable[[int, int], None] = lambda latents, total: None) -> TakeResult:
    """Make every chunk of `plan` that `journal` does not hold; afterwards `writer.finish(result.segments, ...)`.

    sample_chunk(chunk, context) -> latents (1, C, chunk.latents, h, w), the whole chunk, context latents first.
    context_of(tail) -> what the next chunk continues from, passed on as `context`; None for the first chunk.
    tail_frames: how many decoded frames `tail.frames` must be able to give (0: the hand-over needs only latents).
    check_cancelled() is called between chunks and between groups of frames; what it raises passes through, and the
    finished chunks stay in the journal. on_chunk(done) is called after a chunk is safe on disk; on_frames(chunk,
    frames) after so many frames of a chunk are decoded and written; on_replay(latents, total) before each portion of
    the finished latents that the decoder of a resumed take must see again.

    Raises ValueError for latents of a wrong length or with NaN, NotWritten if the disk refuses, NotReadable if the
    journal's folder is gone.
    """
    first = journal.finished
    stream = open_stream()
    tail = Tail(journal, stream, tail_frames)
    if 0 < first < len(plan.chunks):
        _warm_up(plan, stream, tail, journal, tail_frames, check_cancelled, on_replay)
    for chunk in plan.chunks[first:]:
        check_cancelled()
        journal.check_present()
        context = context_of(tail) if context_of and chunk.index else None
        latents = _checked(sample_chunk(chunk, context), chunk)[:, :, chunk.context_latents:]
        try:
            frames = _write_segment(plan, chunk, latents, stream, tail, journal, writer, check_cancelled, on_frames)
            journal.commit(chunk.index, latents, frames)
        except NotWritten as error:
            raise NotWritten(f"{error}. {journal.finished} of {len(plan.chunks)} chunks are safe in "
                             f"{journal.folder}") from error
        on_chunk(ChunkDone(chunk, latents, tail))
    return TakeResult(tuple(journal.segments()), journal.finished_frames, len(plan.chunks) - first)


def _write_segment(plan: ChunkPlan, chunk: Chunk, latents: Tensor, stream: FrameStream, tail: Tail, journal: Journal,
                   writer: VideoWriter, check_cancelled: Callable[[], None],
                   on_frames: Callable[[Chunk, int], None]) -> int:
    """Decode and write the frames that become ready with `chunk`; returns how many."""
    is_last = chunk is plan.chunks[-1]
    wanted = plan.total_frames - journal.finished_frames
    with writer.segment(journal.draft(chunk.index)) as segment:
        for frames in _decode(stream, latents, is_last):
            check_cancelled()
            tail.keep(frames)
            segment.write(frames[:wanted - segment.frames])
            on_frames(chunk, segment.frames)
        tail.park()
        if is_last and segment.frames != wanted:
            raise ValueError(f"the VAE gave {journal.finished_frames + segment.frames} frames for a take of "
                             f"{plan.total_frames}: it does not make {plan.timeline.temporal_ratio} frames per latent")
    return segment.frames


def _decode(stream: FrameStream, latents: Tensor, is_last: bool) -> Iterator[Tensor]:
    yield from stream.push(latents)
    if is_last:
        yield from stream.flush()


def _warm_up(plan: ChunkPlan, stream: FrameStream, tail: Tail, journal: Journal, tail_frames: int,
             check_cancelled: Callable[[], None], on_replay: Callable[[int, int], None]) -> None:
    """Bring a new stream, and the frames kept for the hand-over, to where the finished chunks left them.

    The first latent must have an even number: a new stream decodes it alone, as it does latent 0, and the pairs after
    it are then the pairs of the whole take. Latents are pushed in the portions in which they were pushed before.
    """
    end = journal.finished_latents
    starts = [chunk.first_new_latent for chunk in plan.chunks if chunk.first_new_latent < end]
    kept = max(end - plan.timeline.latents_for_frames(tail_frames), 0)
    first = max(max(start for start in starts if start <= kept) - stream.warmup_latents, 0) // 2 * 2
    cuts = [first, *(start for start in starts if start > first), end]
    for low, high in pairwise(cuts):
        on_replay(low - first, end - first)
        for frames in stream.push(journal.latents(low, high)):
            check_cancelled()
            tail.keep(frames)
        tail.park()


def _checked(latents: Tensor, chunk: Chunk) -> Tensor:
    if latents.ndim != 5 or latents.shape[2] != chunk.latents:
        raise ValueError(f"chunk {chunk.index + 1} was sampled as {tuple(latents.shape)}; wanted is (1, C, "
                         f"{chunk.latents}, h, w)")
    if not torch.isfinite(latents).all():
        raise ValueError(f"chunk {chunk.index + 1} came out of the sampler with NaN or infinite values; check the "
                         "model file and its precision (fp16 can overflow), the sampler and the guidance scale")
    return latents
