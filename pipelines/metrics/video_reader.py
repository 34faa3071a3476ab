"""Where frames and sound come from when a video is measured: a file, read as a stream, or what is there already."""
import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from ..frames_at_times import on_white
from ..media_file import MediaFile, picture_of, shown_size

PIECE_FRAMES, PIECE_PIXELS = 16, 4_000_000


class Sound(NamedTuple):
    """Mono samples from the first frame on, in pieces of any length, to be read once."""
    sample_rate: int
    pieces: Iterator[np.ndarray]

    def at_rate(self, sample_rate: int) -> Iterator[np.ndarray]:
        """The same at another rate, by FFmpeg's resampler."""
        return self.pieces if sample_rate == self.sample_rate else self._resample(sample_rate)

    def _resample(self, sample_rate: int) -> Iterator[np.ndarray]:
        resampler = av.AudioResampler("flt", "mono", sample_rate)
        for piece in self.pieces:
            if len(piece):
                frame = av.AudioFrame.from_ndarray(np.asarray(piece, dtype=np.float32)[None], "flt", "mono")
                frame.sample_rate = self.sample_rate
                yield from (part.to_ndarray()[0] for part in resampler.resample(frame))
        yield from (part.to_ndarray()[0] for part in resampler.resample(None))


def sound_of(waveform: Tensor, sample_rate: int) -> Sound:
    """Of a waveform (..., samples) that is there as a whole; channels are averaged."""
    pieces = waveform.reshape(-1, waveform.shape[-1]).split(sample_rate, 1)
    return Sound(sample_rate, (piece.float().mean(0).cpu().numpy() for piece in pieces))


class VideoReader(Protocol):
    name: str
    fps: Fraction
    width: int
    height: int
    stated_frames: int      # 0: not known before all are read

    def pieces(self) -> Iterator[Tensor]:
        """Frames (T, H, W, 3), float32 0..1, a few at a time."""

    @property
    def why_silent(self) -> str:
        """Why there is no sound, where there is none."""

    def sound(self) -> Sound | None:
        """The video's own, from its beginning each time it is asked for; None where it has none."""


def piece_frames(width: int, height: int) -> int:
    return max(min(PIECE_FRAMES, PIECE_PIXELS // (width * height)), 1)


class Clip:
    """Frames (T, H, W, 3), float 0..1 or uint8, without sound; those with alpha on white."""

    def __init__(self, frames: Tensor, fps: Fraction | float, name: str = "the clip"):
        self.frames, self.fps, self.name = frames, Fraction(fps), name
        self.stated_frames, self.height, self.width = frames.shape[:3]
        self.why_silent = f"{name} has no sound"

    def pieces(self) -> Iterator[Tensor]:
        for piece in self.frames.split(piece_frames(self.width, self.height)):
            yield on_white(piece / 255 if piece.dtype == torch.uint8 else piece.float())

    def sound(self) -> None:
        return None


class VideoFile:
    """A file, or a BytesIO of one. Its average frame rate is its clock. Raises ValueError for what is no video."""

    def __init__(self, source: str | Path | io.BytesIO):
        self.source, self.media = source, MediaFile(source)
        self.name = self.media.name
        with self.media.open_container() as container:
            stream, self.fps = self.media.video_track(container)
            self.size = stream.width, stream.height
            self.width, self.height = shown_size(stream)
            self._start_seconds = float((stream.start_time or 0) * stream.time_base)
            self.stated_frames = int(stream.frames)

    def pieces(self) -> Iterator[Tensor]:
        with self.media.open_container() as container:
            frames = self.media.pictures(container)
            while piece := list(islice(frames, piece_frames(self.width, self.height))):
                pictures = [picture_of(frame, (self.width, self.height)) for frame in piece]
                yield torch.from_numpy(np.stack(pictures)) / 255

    def sound(self) -> Sound | None:
        rate = self.media.sound_rate
        return Sound(rate, self.media.mono(rate, self._start_seconds)) if rate else None

    @property
    def why_silent(self) -> str:
        return self.media.why_silent
