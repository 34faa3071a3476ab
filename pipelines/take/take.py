"""The driver of a take: for each chunk sample, decode, write, journal, forget.

Knows no model and no ComfyUI: both come as a ChunkSampler and a FrameStream. Memory does not grow with the take: of
older chunks only the last few decoded frames are kept, and only if the sampler asks for them.
"""
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path

import torch
from torch import Tensor

from ...techniques.protocols import FrameStream
from ..safe_files import NotWritten
from .journal import Journal
from .plan import Chunk, ChunkPlan
from .protocols import ChunkSampler, Events
from .video_writer import Segment, VideoWriter


class TakePast:
    """A Past over the journal and, of the chunk that is being made, the pieces given so far."""

    def __init__(self, journal: Journal, stream: FrameStream, keep_frames: int, opening: Tensor | None = None):
        self._journal, self.stream, self._opening = journal, stream, opening
        self._recent: deque[Tensor] = deque(maxlen=keep_frames)
        self._pieces: list[Tensor] = []

    def latents(self, count: int) -> Tensor:
        end = self._length()
        return self.between(max(end - count, 0), end)

    def first_latents(self, count: int) -> Tensor:
        return self.between(0, min(count, self._length()))

    def frames(self, count: int) -> Tensor:
        """The frames of a latent that the stream holds back are among them: this decodes that latent once more."""
        if count > (self._recent.maxlen or 0):
            raise ValueError(f"{count} frames were asked for, but the take keeps past_frames={self._recent.maxlen}")
        held = self.stream.peek()
        frames = [*self._recent, *([] if held is None else held.cpu())]
        if count < 1 or not frames:
            raise ValueError(f"got {count} frames to read of a take that has {len(frames)}, wanted at least 1; nothing "
                             "is there before the first latent")
        return torch.stack(frames[len(frames) - min(count, len(frames)):])

    def keep(self, frames: Tensor) -> None:
        self._recent.extend(frame.clone() for frame in frames[max(len(frames) - (self._recent.maxlen or 0), 0):])

    def park(self) -> None:
        """Bring what is kept to RAM: not each frame that came by, only those that are left at the end."""
        self._recent.extend([self._recent.popleft().cpu() for _ in range(len(self._recent))])

    def add(self, piece: Tensor) -> None:
        """A copy in RAM, where the journal's are: the sampler may go on in the memory of what it gave."""
        self._pieces.append(piece.detach().to("cpu", copy=True))

    def take_pieces(self) -> list[Tensor]:
        """The pieces of the chunk that is finished; from now on the journal has them."""
        pieces, self._pieces = self._pieces, []
        return pieces

    @property
    def pieces(self) -> list[int]:
        """How many latents each portion has that is finished, a clip's before the take first."""
        return [*([] if self._opening is None else [self._opening.shape[2]]), *self._journal.pieces]

    def between(self, first: int, end: int) -> Tensor:
        """Latents `first` to `end` (exclusive), counted from the first one that is there."""
        if first >= end:
            raise ValueError(f"got {end - first} latents to read of a take that has {self._length()}, wanted at least "
                             "1; nothing is there before the first latent")
        opened, stored = 0 if self._opening is None else self._opening.shape[2], self._journal.finished_latents
        parts = [] if self._opening is None or first >= opened else [self._opening[:, :, first:end]]
        low, high = max(first - opened, 0), end - opened
        if low < min(high, stored):
            parts.append(self._journal.latents(low, min(high, stored)))
        if high > stored:
            parts.append(torch.cat(self._pieces, 2)[:, :, max(low - stored, 0):high - stored])
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _length(self) -> int:
        return sum(self.pieces) + sum(piece.shape[2] for piece in self._pieces)


@dataclass(frozen=True)
class TakeResult:
    segments: tuple[Path, ...]  # for VideoWriter.finish
    frames: int
    made: int                   # chunks made by this run; the others were in the journal


def make_take(plan: ChunkPlan, sampler: ChunkSampler, open_stream: Callable[[], FrameStream], journal: Journal,
              writer: VideoWriter, events: Events | None = None, opening: Tensor | None = None) -> TakeResult:
    """Make every chunk of `plan` that `journal` does not hold; afterwards `writer.finish(result.segments, ...)`.

    `opening`: the last latents (1, C, k, h, w) of a clip that the plan goes on from; its frames are not written.
    Raises ValueError for latents of a wrong length or with NaN, NotWritten if the disk refuses, NotReadable if the
    journal's folder is gone. Whatever is raised, the finished chunks stay in the journal.
    """
    first, events = journal.finished, events or Events()
    past, unseen = TakePast(journal, open_stream(), sampler.past_frames, opening), 0
    if past.pieces and first < len(plan.chunks):
        came = _warm_up(plan, past, sampler.past_frames, events)
        unseen = 0 if first else plan.timeline.frames_for_latents(past.pieces[0]) - came
    if 0 < first < len(plan.chunks):
        sampler.restore(journal.state(), past)
    for chunk in plan.chunks[first:]:
        events.check_cancelled()
        journal.check_present()
        if plan.repeated_frames and chunk.index:
            past.stream, unseen = open_stream(), plan.repeated_frames
        try:
            frames = _write_segment(plan, sampler, chunk, past, journal.finished_frames, journal.draft(chunk.index),
                                    writer, events, unseen)
            unseen = 0
            is_last = chunk is plan.chunks[-1]
            journal.commit(chunk.index, past.take_pieces(), frames, {} if is_last else sampler.state())
        except NotWritten as error:
            raise NotWritten(f"{error}. {journal.finished} of {len(plan.chunks)} chunks are safe in "
                             f"{journal.folder}") from error
        events.chunk_finished(chunk)
        if events.stop_wanted():
            break
    return TakeResult(tuple(journal.segments()), journal.finished_frames, journal.finished - first)


def remake_chunk(plan: ChunkPlan, chunk: Chunk, sampler: ChunkSampler, open_stream: Callable[[], FrameStream],
                 journal: Journal, again: Journal, writer: VideoWriter, events: Events, opening: Tensor | None = None
                 ) -> Path:
    """Make one chunk of a finished take once more, into `again`, and return its segment, which stands for the one in
    `journal`; nothing of `journal` is changed. `sampler` gives it the end that the chunk behind it goes on from.

    Raises ValueError for a chunk without frames, and as make_take does.
    """
    frames = journal.frames_of(chunk.index)
    if not frames:
        raise ValueError(f"chunk {chunk.index + 1} has no frames of its own to make again")
    segment = again.folder / again.draft(0).stem
    if again.finished:
        return segment
    earlier = journal.until(chunk.index)
    past, unseen = TakePast(earlier, open_stream(), sampler.past_frames, opening), 0
    if past.pieces:
        came = _warm_up(plan, past, sampler.past_frames, events)
        unseen = 0 if chunk.index else plan.timeline.frames_for_latents(past.pieces[0]) - came
    made = _write_segment(plan, sampler, chunk, past, earlier.finished_frames, again.draft(0), writer, events, unseen)
    if made != frames:
        raise ValueError(f"chunk {chunk.index + 1} came out with {made} frames, it had {frames}")
    again.commit(0, past.take_pieces(), made)
    return segment


def _write_segment(plan: ChunkPlan, sampler: ChunkSampler, chunk: Chunk, past: TakePast, done: int, draft: Path,
                   writer: VideoWriter, events: Events, unseen: int = 0) -> int:
    """Sample `chunk`, decode and write the frames that become ready with it but for the first `unseen`, which the video
    has already; returns how many. `done`: frames of the chunks before it."""
    is_last, stream = chunk.index == plan.chunks[-1].index, past.stream
    wanted = plan.new_frames - done

    def write(segment: Segment, groups: Iterator[Tensor]) -> None:
        nonlocal unseen
        for frames in groups:
            events.check_cancelled()
            past.keep(frames)
            events.frames_ready(chunk, frames)
            own, unseen = frames[unseen:], max(unseen - len(frames), 0)
            segment.write(own[:wanted - segment.frames])
            events.frames_written(chunk, segment.frames)
        past.park()

    with writer.segment(draft) as segment:
        for piece in _check_pieces(sampler.sample(chunk, past), chunk):
            past.add(piece)
            write(segment, stream.push(piece))
        if is_last or plan.repeated_frames:
            write(segment, stream.flush())
        if is_last:
            if segment.frames != wanted:
                raise ValueError(f"the VAE gave {done + segment.frames} frames for a take of "
                                 f"{plan.new_frames}: it does not make {plan.timeline.temporal_ratio} frames per "
                                 "latent")
    return segment.frames


def _warm_up(plan: ChunkPlan, past: TakePast, past_frames: int, events: Events) -> int:
    """Bring a new stream, and the frames kept for the sampler, to where the finished latents left them; returns how
    many frames came. Of clips that are each decoded on their own it is the last one, where frames of it are asked for.

    The first latent must have an even number and begin a clip of the VAE's: a new stream decodes it alone, as it does
    latent 0, and the pairs after it are then the pairs of the whole take. Latents are pushed in the portions in which
    they were pushed before.
    """
    frames_seen, stream = 0, past.stream
    *starts, end = accumulate(past.pieces, initial=0)
    if plan.repeated_frames:
        return _replay_clip(past, starts[-1] if past_frames else end, end, events)
    kept = max(end - plan.timeline.latents_for_frames(past_frames), 0)
    first = max(max(start for start in starts if start <= kept) - stream.warmup_latents, 0)
    first -= first % (2 * plan.timeline.step)
    cuts = [first, *(start for start in starts if start > first), end]
    for low, high in pairwise(cuts):
        events.latents_replayed(low - first, end - first)
        for frames in stream.push(past.between(low, high)):
            events.check_cancelled()
            past.keep(frames)
            frames_seen += len(frames)
        past.park()
    return frames_seen


def _replay_clip(past: TakePast, start: int, end: int, events: Events) -> int:
    """Keep the frames of a clip that was decoded on its own, from latent `start` to `end`; returns how many came."""
    if start == end:
        return 0
    events.latents_replayed(0, end - start)
    frames_seen = 0
    for frames in chain(past.stream.push(past.between(start, end)), past.stream.flush()):
        events.check_cancelled()
        past.keep(frames)
        frames_seen += len(frames)
    past.park()
    return frames_seen


def _check_pieces(pieces: Iterator[Tensor], chunk: Chunk) -> Iterator[Tensor]:
    """The pieces of a chunk as they come. Raises ValueError for NaN, and once they are too many or too few."""
    latents = 0
    for piece in pieces:
        if piece.ndim != 5 or not 0 < piece.shape[2] <= chunk.new_latents - latents:
            raise _wrong(chunk, f"{tuple(piece.shape)}{f' behind {latents} latents' if latents else ''}")
        if not torch.isfinite(piece).all():
            raise ValueError(f"chunk {chunk.index + 1} came out of the sampler with NaN or infinite values; check the "
                             "model file and its precision (fp16 can overflow), the sampler and the guidance scale")
        latents += piece.shape[2]
        yield piece
    if latents != chunk.new_latents:
        raise _wrong(chunk, f"{latents} latents")


def _wrong(chunk: Chunk, came: str) -> ValueError:
    return ValueError(f"chunk {chunk.index + 1} was sampled as {came}; wanted is (1, C, {chunk.new_latents}, h, w)")
