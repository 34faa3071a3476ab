"""A file that FFmpeg reads, or a BytesIO of one, opened in one place: pictures strictly, sound as far as it goes.

The sound is the first track that can be decoded (phones put spatial sound first, which few can). A damaged packet is
silence of its length, so that what follows keeps its time; what is padding behind the end of an MP4's track is cut.
"""
import io
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np

logger = logging.getLogger("lodestar")
TRIED_PACKETS = 50      # of a sound track, before it counts as one that cannot be decoded
FASTEST_RATE = 768_000      # Hz; a damaged header says any, and FFmpeg would work at it for minutes
T = TypeVar("T")


class MediaFile:
    """`name` for messages. Every method opens the file for itself; ValueError where it cannot be read."""

    def __init__(self, source: str | Path | io.BytesIO):
        self.source = source
        self.name = "the video" if isinstance(source, io.BytesIO) else Path(source).name

    def open_container(self) -> Any:
        source = self.source
        return self.read(lambda: av.open(
            io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else str(source)))

    def read(self, step: Callable[[], T]) -> T:
        """What `step` gives; FFmpeg's and the system's refusals in words."""
        try:
            return step()
        except (av.error.FFmpegError, OSError, MemoryError) as error:    # a header may ask for any amount
            raise ValueError(f"{self.name} cannot be read ({error}). Give a file that FFmpeg plays") from error

    def video_track(self, container: Any) -> tuple[Any, Fraction]:
        """(the first video track, its frame rate). ValueError where there is none, or nothing decodes it."""
        stream = next(iter(container.streams.video), None)
        if stream is not None and stream.codec_context is None:
            raise ValueError(f"{self.name} has a video track that FFmpeg cannot decode. Give a file that it plays")
        rate = stream and (stream.average_rate or stream.guessed_rate)
        if not stream or not rate or not stream.width:
            raise ValueError(f"{self.name} has no video track. Give a video file, such as an MP4")
        return stream, Fraction(rate)

    def pictures(self, container: Any) -> Iterator[Any]:
        """The frames of the first video track."""
        stream = container.streams.video[0]
        if not stream.codec_context.is_open:    # as it is where a seek has read ahead
            stream.thread_type = "AUTO"
        frames = container.decode(stream)
        while (frame := self.read(lambda: next(frames, None))) is not None:
            yield frame

    @cached_property
    def sound_track(self) -> int | None:
        """The place, among the sound tracks, of the first that can be decoded."""
        with self.open_container() as container:
            tracks = len(container.streams.audio)
        return next((track for track in range(tracks) if self._decodes(track)), None)

    @cached_property
    def why_silent(self) -> str:
        """Why there is no sound track to be read."""
        with self.open_container() as container:
            tracks = len(container.streams.audio)
        if not tracks:
            return f"{self.name} has no sound"
        return (f"{self.name} has {tracks} sound track{'s' if tracks > 1 else ''}, but FFmpeg here has no decoder for "
                f"{'any of them' if tracks > 1 else 'it'}")

    @cached_property
    def sound_rate(self) -> int:
        """Hz of the sound track; 0 without one."""
        if self.sound_track is None:
            return 0
        with self.open_container() as container:
            return container.streams.audio[self.sound_track].rate

    @cached_property
    def sound_layout(self) -> str:
        """One channel stays one: FFmpeg would make two that are 3 dB lower."""
        with self.open_container() as container:
            return "mono" if container.streams.audio[self.sound_track].channels == 1 else "stereo"

    def mono(self, sample_rate: int, from_seconds: float = 0.0) -> Iterator[np.ndarray]:
        """The sound track from `from_seconds` on, mono float32, in pieces; silence where it begins later."""
        return (piece[0] for piece in self.sound(sample_rate, from_seconds, "mono"))

    def sound(self, sample_rate: int, from_seconds: float = 0.0, layout: str = "stereo") -> Iterator[np.ndarray]:
        """As `mono`, each piece (channels, samples)."""
        with self.open_container() as container:
            stream = container.streams.audio[self.sound_track]
            left, late = stated_samples(container, stream, sample_rate), None
            for seconds, samples in self._pieces(container, stream, sample_rate, layout):
                if late is None:
                    late = round((seconds - from_seconds) * sample_rate)
                    yield np.zeros((len(samples), max(late, 0)), np.float32)
                samples = samples[:, :max(min(left, samples.shape[1]), 0)]
                left -= samples.shape[1]
                early = min(max(-late, 0), samples.shape[1])    # sound from before `from_seconds`
                late += early
                yield samples[:, early:]

    def _pieces(self, container: Any, stream: Any, sample_rate: int, layout: str
                ) -> Iterator[tuple[float, np.ndarray]]:
        """Of each packet: when it begins, in seconds, and its samples (channels, samples)."""
        resampler, damaged = av.AudioResampler("fltp", layout, sample_rate), 0
        packets = container.demux(stream)
        while (packet := self.read(lambda: next(packets, None))) is not None:
            seconds = float((packet.pts or 0) * stream.time_base)
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                damaged += 1
                silent = round((packet.duration or 0) * stream.time_base * sample_rate)
                yield seconds, np.zeros((1 if layout == "mono" else 2, silent), np.float32)
                continue
            for frame in frames:
                for part in self.read(partial(resampler.resample, frame)):
                    yield float(frame.time or 0), part.to_ndarray()
        for part in resampler.resample(None):
            yield 0.0, part.to_ndarray()
        if damaged:
            logger.warning("%s: %d damaged packets of sound are replaced by silence", self.name, damaged)

    def _decodes(self, track: int) -> bool:
        with self.open_container() as container:
            stream = container.streams.audio[track]
            if stream.codec_context is None or not 0 < (stream.rate or 0) <= FASTEST_RATE:
                return False
            for packet in islice(container.demux(stream), TRIED_PACKETS):
                with suppress(av.error.FFmpegError):
                    if packet.decode():
                        return True
        return False


def shown_size(stream: Any) -> tuple[int, int]:
    """Width and height at which a video track's frames are shown: its pixels need not be square; none is lost."""
    shape = stream.sample_aspect_ratio or Fraction(1)
    return round(stream.width * max(shape, 1)), round(stream.height / min(shape, 1))


def picture_of(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) bytes of a decoded frame, as it is shown; what is transparent is white."""
    clear = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
    wide, high = size
    pixels = frame.to_ndarray(format="rgba" if clear else "rgb24", width=wide, height=high)
    if not clear:
        return pixels
    alpha = pixels[..., 3:] / np.float32(255)
    return (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)


def stated_samples(container: Any, stream: Any, sample_rate: int) -> float:
    """How long an MP4 says that its sound is: behind it there is the encoder's padding. Endless for other files."""
    if "mp4" not in container.format.name or not stream.duration:
        return math.inf
    return round(stream.duration * stream.time_base * sample_rate)
