"""How far a take is: ComfyUI's bar over sampling and decoding, a line of text with the time left, and how it ended.

The bar gives every chunk the same room: one unit per step, and a quarter as many for decoding and writing.
"""
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import comfy.model_management
import comfy.utils
import latent_preview
from comfy.model_management import InterruptProcessingException
from torch import Tensor

from ..backbones.backbone import pictures_of
from ..pipelines.metrics.live_traces import ColourTrace, IdentityTrace
from ..pipelines.take.journal import Journal
from ..pipelines.take.plan import Chunk, ChunkPlan
from ..pipelines.take.protocols import Events
from ..pipelines.take.take_folders import STOP
from .events import TakeEvents
from .measured_video import face_folders

logger = logging.getLogger("lodestar")


@dataclass
class Pace:
    """Seconds per step, or per frame, as far as this run has measured them."""
    seconds: float = 0.0
    count: int = 0

    def add(self, seconds: float, count: int) -> None:
        self.seconds, self.count = self.seconds + seconds, self.count + count

    def seconds_for(self, count: int) -> float:
        return self.seconds / self.count * count if self.count else 0.0


class SamplingProgress(Protocol):
    """Whoever watches a chunk being sampled."""

    def begin_chunk(self, chunk: Chunk) -> None:
        """It is sampled from now on."""

    def sampler_callback(self, chunk: Chunk, load_device: Any, latent_format: Any) -> Callable:
        """What ComfyUI calls at each step."""

    def end_sampling(self) -> None:
        """It is sampled."""


class TakeProgress(Events):
    """Use as `with TakeProgress(...) as progress:` around the run; errors and cancels are reported, then pass on."""

    def __init__(self, node_id: str | None, plan: ChunkPlan, steps: int, clock: Callable[[], float] = time.monotonic):
        self._plan, self._steps, self._clock = plan, steps, clock
        self._events = TakeEvents(node_id)
        self._decode_units = max(1, round(steps / 4))
        self._chunks = (*plan.chunks, *plan.remakes)    # in the order in which they are made
        self._total_frames = plan.total_frames + sum(self._frames_of(chunk) for chunk in plan.remakes)
        self._bar = comfy.utils.ProgressBar((steps + self._decode_units) * len(self._chunks), node_id=node_id)
        self._step_pace, self._frame_pace = Pace(), Pace()
        self._since = clock()
        self._steps_done = self._frames = 0
        self._colours, self._identity = ColourTrace(), IdentityTrace(face_folders())
        self._first = 0    # the chunk this run begins with: its first step also loads the model
        self._journal: Journal | None = None

    def __enter__(self) -> "TakeProgress":
        self._events.say("Preparing")
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            return
        cancelled = issubclass(kind, InterruptProcessingException)
        finished = self._journal.finished if self._journal else 0
        how = "Cancelled" if cancelled else "Stopped by an error"
        safe = (f"{finished} of {len(self._plan.chunks)} chunks are safe, queue again to go on" if finished else
                "no chunk was finished")
        self._events.say(f"{how}: {safe}")
        if finished and self._journal:
            logger.info("%s: %s. They are in %s, %.1f MB; delete that folder if you do not want them", how, safe,
                        self._journal.folder, self._journal.megabytes())

    def open(self, journal: Journal) -> None:
        """The journal says where the take goes on."""
        self._journal, self._first = journal, journal.finished
        note = journal.note[0].upper() + journal.note[1:]
        self._events.say(note)
        logger.info("%s (%s)", journal.note, journal.folder)
        self._steps_done, self._frames = journal.finished * self._steps, journal.finished_frames
        if journal.finished:
            self._bar.update_absolute(journal.finished * (self._steps + self._decode_units))

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def latents_replayed(self, latents: int, total: int) -> None:
        whole = self._journal is not None and self._journal.finished == len(self._plan.chunks)
        begun = "Making a chunk again" if whole else f"Resuming at chunk {self._first + 1} of {len(self._plan.chunks)}"
        self._events.say(f"{begun}: the decoder is at latent {latents} of {total}")

    def begin_chunk(self, chunk: Chunk) -> None:
        self._lap()
        start, end = self._plan.seconds_of(chunk)
        self._event(chunk.index, self._plan.frames_of(chunk)[0], again=chunk.again,
                    seconds=[round(float(start), 3), round(float(end), 3)])
        self._tell(chunk)

    def sampler_callback(self, chunk: Chunk, load_device, latent_format):
        """A sampler callback that moves the bar and shows ComfyUI's own previews."""
        previewer = latent_preview.get_previewer(load_device, latent_format)

        def callback(step, denoised, latents, total_steps):
            shown = pictures_of(denoised) if previewer else None
            whole = shown is not None and shown.ndim > 3    # ComfyUI 0.7 gives picture and sound as one row of numbers
            preview = previewer.decode_latent_to_preview_image("JPEG", shown) if whole else None
            seconds = self._lap()
            place = self._place(chunk)
            if step or place > self._first:
                self._step_pace.add(seconds, 1)
            self._steps_done = place * self._steps + step + 1
            self._bar.update_absolute(place * self._decode_units + self._steps_done, preview=preview)
            self._tell(chunk)

        return callback

    def end_sampling(self) -> None:
        """What comes now is decoding."""
        self._lap()

    def frames_ready(self, chunk: Chunk, frames: Tensor) -> None:
        self._colours.add(chunk.index, frames)
        self._identity.add(chunk.index, frames)

    def frames_written(self, chunk: Chunk, frames: int) -> None:
        place = self._place(chunk)
        before = (self._journal.finished_frames if self._journal else 0) + sum(
            map(self._frames_of, self._chunks[len(self._plan.chunks):place]))
        self._frame_pace.add(self._lap(), before + frames - self._frames)
        self._frames = before + frames
        own = self._frames_of(chunk)
        units = self._decode_units * min(frames, own) // max(own, 1)
        self._bar.update_absolute(place * self._decode_units + self._steps_done + units)
        self._tell(chunk, ": decoding")

    def stop_wanted(self) -> bool:
        return self._journal is not None and self._journal.has_request(STOP)

    def chunk_finished(self, chunk: Chunk) -> None:
        logger.info("chunk %d of %d is safe on disk", chunk.index + 1, len(self._plan.chunks))

    def say_joining(self) -> None:
        self._events.say(f"All {len(self._plan.chunks)} chunks are finished: writing the video")

    def say_stopped(self, path: Path) -> None:
        """The video of the chunks so far is where it belongs."""
        finished = self._journal.finished if self._journal else 0
        text = (f"Stopped after chunk {finished} of {len(self._plan.chunks)}: {path.name} has {self._frames} of "
                f"{self._plan.total_frames} frames; queue again to go on")
        self._event(finished, self._frames)
        self._events.say(text)
        logger.info(text)

    def say_finished(self) -> None:
        """The video is where it belongs."""
        self._steps_done = self._steps * len(self._chunks)
        self._frames = self._total_frames
        self._bar.update_absolute(self._bar.total)
        self._event(len(self._plan.chunks), self._plan.total_frames)
        self._events.say(f"Finished: {self._plan.total_frames} of {self._plan.total_frames} frames")

    def seconds_left(self) -> int | None:
        """Until the last frame is written, at the pace of this run; None before a step was measured."""
        steps, frames = self._steps * len(self._chunks) - self._steps_done, self._total_frames - self._frames
        if not self._step_pace.count:
            return None
        return round(self._step_pace.seconds_for(steps) + self._frame_pace.seconds_for(frames))

    def _lap(self) -> float:
        """Seconds since the last call."""
        since, self._since = self._since, self._clock()
        return self._since - since

    def _place(self, chunk: Chunk) -> int:
        """The chunk's in the order in which they are made."""
        made_again = [one.index for one in self._plan.remakes]
        return len(self._plan.chunks) + made_again.index(chunk.index) if chunk.again else chunk.index

    def _frames_of(self, chunk: Chunk) -> int:
        first, end = self._plan.frames_of(chunk)
        return end - first

    def _event(self, chunk: int, frames: int, **more: Any) -> None:
        folder, finished = self._journal and self._journal.folder, self._journal.finished if self._journal else 0
        self._events.chunk(chunk, len(self._plan.chunks), frames, self._plan.total_frames, self.seconds_left(),
                           **more, finished=finished, colours=self._colours.found,
                           identity=self._identity.found, identity_note=self._identity.note,
                           folder=folder and "/".join(Path(folder).parts[-2:]))

    def _tell(self, chunk: Chunk, doing: str = "") -> None:
        left = self.seconds_left()
        again = " again" if chunk.again else ""
        self._events.say(f"Chunk {chunk.index + 1} of {len(self._plan.chunks)}{again}{doing}, {self._frames} of "
                         f"{self._total_frames} frames{'' if left is None else f', {in_words(left)} left'}")


def in_words(seconds: int) -> str:
    """About how long: 45 s, 12 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

