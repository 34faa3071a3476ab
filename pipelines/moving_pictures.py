"""Where frames come from when a video is measured: a file, read as a stream, or frames that are there already."""
import io
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from .metrics_lipsync import SpeechEnergy

PIECE_FRAMES, PIECE_PIXELS = 16, 4_000_000


class MovingPictures(Protocol):
    name: str
    fps: Fraction
    width: int
    height: int
    stated_frames: int      # 0: not known before all are read

    def pieces(self) -> Iterator[Tensor]:
        """Frames (T, H, W, 3), float32 0..1, a few at a time."""

    def loudness(self) -> Iterator[float] | None:
        """Of each frame (see metrics_lipsync), from the video's own sound; None where it has none."""


def piece_frames(width: int, height: int) -> int:
    return max(min(PIECE_FRAMES, PIECE_PIXELS // (width * height)), 1)


class Clip:
    """Frames (T, H, W, 3), float 0..1 or uint8, without sound."""

    def __init__(self, frames: Tensor, fps: Fraction | float, name: str = "the clip"):
        self.frames, self.fps, self.name = frames, Fraction(fps), name
        self.stated_frames, self.height, self.width = frames.shape[:3]

    def pieces(self) -> Iterator[Tensor]:
        for piece in self.frames.split(piece_frames(self.width, self.height)):
            yield piece / 255 if piece.dtype == torch.uint8 else piece.float()

    def loudness(self) -> None:
        return None


class VideoFile:
    """A file, or a BytesIO of one. Its average frame rate is its clock. Raises ValueError for what is no video."""

    def __init__(self, source: str | Path | io.BytesIO):
        self.source = source
        self.name = "the video" if isinstance(source, io.BytesIO) else Path(source).name
        with self._opened() as container:
            stream = next(iter(container.streams.video), None)
            rate = stream and (stream.average_rate or stream.guessed_rate)
            if not stream or not rate or not stream.width:
                raise ValueError(f"video: {self.name} has no moving picture. Give a video file, such as an MP4")
            self.fps, self.width, self.height = Fraction(rate), stream.width, stream.height
            self._start_seconds = float((stream.start_time or 0) * stream.time_base)
            self.stated_frames = int(stream.frames)
            self._has_sound = bool(container.streams.audio)

    def pieces(self) -> Iterator[Tensor]:
        with self._opened() as container:
            container.streams.video[0].thread_type = "AUTO"
            frames = self._decoded(container, container.streams.video[0])
            while piece := list(islice(frames, piece_frames(self.width, self.height))):
                yield torch.from_numpy(np.stack([frame.to_ndarray(format="rgb24") for frame in piece])) / 255

    def loudness(self) -> Iterator[float] | None:
        return self._loudness() if self._has_sound else None

    def _loudness(self) -> Iterator[float]:
        with self._opened() as container:
            energy, late = None, 0
            mono = av.AudioResampler("fltp", "mono")
            for frame in self._decoded(container, container.streams.audio[0]):
                if energy is None:
                    energy = SpeechEnergy(float(self.fps), frame.sample_rate)
                    late = round((float(frame.time or 0) - self._start_seconds) * frame.sample_rate)
                    yield from energy.add(np.zeros(max(late, 0)))
                for part in mono.resample(frame):
                    early = min(max(-late, 0), part.samples)    # sound from before the first frame
                    late += early
                    yield from energy.add(part.to_ndarray()[0, early:])
            if energy is not None:
                yield from energy.finish()

    def _opened(self) -> Any:
        if isinstance(self.source, io.BytesIO):
            return self._read(lambda: av.open(io.BytesIO(self.source.getvalue())))
        return self._read(lambda: av.open(str(self.source)))

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        frames = container.decode(stream)
        while (frame := self._read(lambda: next(frames, None))) is not None:
            yield frame

    def _read(self, step: Any) -> Any:
        try:
            return step()
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"video: {self.name} cannot be read ({error}). Give a file that FFmpeg plays") from error
