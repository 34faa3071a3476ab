"""Frames of a video by their time: from a file, never more than a few decoded at once, or from pictures in memory.

Both give the frame that is nearest to a time, so that the rate of the one who asks need not be the video's.
"""
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from ..techniques.audio.waveform import mix_to_stereo
from .media_file import MediaFile, picture_of, shown_size

JUMP_SECONDS = 5    # a time so far ahead is sought in the file, anything nearer is decoded on the way


class FrameSource(Protocol):
    name: str
    fps: Fraction
    seconds: Fraction | None    # None: one picture, for any length

    def at(self, times: Sequence[Fraction]) -> Iterator[Tensor]:
        """For rising times, in seconds from the first frame: the frame (H, W, channels) nearest to each, 0..1."""

    def identity(self) -> Any:
        """What tells it by value."""

    def sound(self) -> dict[str, Any] | None:
        """AUDIO of the same stretch; None where there is none."""

    def sound_pieces(self, sample_rate: int) -> Iterator[np.ndarray] | None:
        """Its sound from its beginning on, at any rate, in pieces (channels, samples) of one or two channels."""


class FileFrames:
    """A file that FFmpeg reads, or a BytesIO of one, from `start` seconds on; `length` seconds of it, all for 0.

    Raises ValueError for what is no video. One pass over its packets tells how long it is; none is decoded for it.
    """

    def __init__(self, source: str | Path | io.BytesIO, start: Fraction = Fraction(0), length: Fraction = Fraction(0)):
        self.media, self.start, self.length = MediaFile(source), start, length
        self.name = self.media.name
        with self.media.open_container() as container:
            stream, self.fps = self.media.video_track(container)
            self.size, self.shown = (stream.width, stream.height), shown_size(stream)
            self._first, end = self._ends(container, stream)
        own = end - self._first - start
        self.seconds: Fraction | None = min(own, length) if length else own
        if self.seconds <= 0:
            raise ValueError(f"{self.name} has no frames{' behind the trim' if start else ''}. Give another video")

    def _ends(self, container: Any, stream: Any) -> tuple[Fraction, Fraction]:
        """When the first frame comes and the last one ends, on the file's clock."""
        first = end = None
        count, packets = 0, container.demux(stream)
        while (packet := self.media.read(lambda: next(packets, None))) is not None:
            if packet.size == 0 or packet.is_discard:
                continue
            count += 1
            if packet.pts is not None:
                time = packet.pts * Fraction(stream.time_base)
                shown = max((packet.duration or 0) * Fraction(stream.time_base), 1 / self.fps)
                first = time if first is None else min(first, time)
                end = time + shown if end is None else max(end, time + shown)
        return (Fraction(0), count / self.fps) if first is None or end is None else (first, end)

    def at(self, times: Sequence[Fraction]) -> Iterator[Tensor]:
        place = 0
        while place < len(times):
            for frame in self._onwards(times[place:]):
                yield frame
                place += 1

    def _onwards(self, times: Sequence[Fraction]) -> Iterator[Tensor]:
        """The frames of the first times, up to one that is better sought."""
        frames = self._decode(times[0])
        (now, shown), after = next(frames), next(frames, None)
        for index, time in enumerate(times):
            if index and time - times[index - 1] > JUMP_SECONDS:
                return
            while after is not None and after[0] - time < time - now:
                (now, shown), after = after, next(frames, None)
            yield upright(shown, self.shown)

    def _decode(self, time: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """(seconds, frame) from a key frame before `time` on: the last one, or where the file's index leads elsewhere
        an earlier one, or the first of all."""
        for begin in (time, time - 2 * JUMP_SECONDS, None):
            if begin is not None and begin + self.start < JUMP_SECONDS:
                continue
            with self.media.open_container() as container:
                frames = self._frames_from(container, begin)
                first = next(frames, None)
                if first is not None and (begin is None or first[0] <= time):
                    yield first
                    yield from frames
                    return
        raise ValueError(f"{self.name} has no frame that FFmpeg can decode. Give another video")

    def _frames_from(self, container: Any, begin: Fraction | None) -> Iterator[tuple[Fraction, Any]]:
        """Frames from the key frame before `begin`, with their time behind the start; one without a time follows the
        last by a frame."""
        stream, zero = container.streams.video[0], self._first + self.start
        if begin is not None:
            self.media.read(lambda: container.seek(int((zero + begin) / stream.time_base), stream=stream))
        time = self._first - 1 / self.fps
        for frame in self.media.pictures(container):
            if frame.pts is None and begin is not None:
                return      # a file whose frames can only be counted
            time = time + 1 / self.fps if frame.pts is None else frame.pts * Fraction(frame.time_base)
            yield time - zero, frame

    def identity(self) -> Any:
        found = hashlib.sha256()
        if isinstance(self.media.source, io.BytesIO):
            found.update(self.media.source.getbuffer())
        else:
            with open(self.media.source, "rb") as file:
                while piece := file.read(1 << 20):
                    found.update(piece)
        return ["video file", found.hexdigest(), self.start, self.length]

    def sound(self) -> dict[str, Any] | None:
        rate = self.media.sound_rate
        if not rate:
            return None
        assert self.seconds is not None
        pieces, left = [], math.ceil(self.seconds * rate)
        for piece in self.sound_pieces(rate) or ():
            pieces.append(torch.from_numpy(piece[:, :left].copy()))
            left -= pieces[-1].shape[1]
            if left <= 0:
                break
        waveform = torch.cat(pieces, 1)[None] if pieces else torch.zeros(1, 2, 0)
        return {"waveform": waveform, "sample_rate": rate} if waveform.shape[-1] else None


    def sound_pieces(self, sample_rate: int) -> Iterator[np.ndarray] | None:
        if not self.media.sound_rate:
            return None
        return self.media.sound(sample_rate, float(self._first + self.start), self.media.sound_layout)


def upright(frame: Any, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) in 0..1, turned as the file says: phones store pictures on their side. `size`: before it is turned."""
    picture = torch.from_numpy(picture_of(frame, size)) / 255
    turned = round(getattr(frame, "rotation", 0) / 90)
    return picture if turned % 4 == 0 else picture.rot90(turned, (0, 1))


class ClipFrames:
    """Frames (T, H, W, channels), 0..1, that are in memory; one alone stands for any length unless it is `moving`.
    Behind what is transparent in four channels is white."""

    def __init__(self, frames: Tensor, fps: Fraction, name: str, audio: dict[str, Any] | None = None,
                 moving: bool = True):
        if not len(frames):
            raise ValueError(f"{name} has no frames. Give another video")
        self.frames, self.fps, self.name, self._audio = frames, fps, name, audio
        self.seconds: Fraction | None = len(frames) / fps if moving else None

    def at(self, times: Sequence[Fraction]) -> Iterator[Tensor]:
        for time in times:
            number = min(max(math.ceil(time * self.fps - Fraction(1, 2)), 0), len(self.frames) - 1)
            yield on_white(self.frames[number].float())

    def identity(self) -> Any:
        return ["frames", self.frames, self.fps]

    def sound(self) -> dict[str, Any] | None:
        return self._audio

    def sound_pieces(self, sample_rate: int) -> Iterator[np.ndarray] | None:
        return None if self._audio is None else resample_sound(self._audio["waveform"][0], self._audio["sample_rate"],
                                                               sample_rate)


def on_white(frames: Tensor) -> Tensor:
    """(..., 4) -> (..., 3); others as they are."""
    return frames if frames.shape[-1] != 4 else frames[..., :3] * frames[..., 3:] + (1 - frames[..., 3:])


def resample_sound(waveform: Tensor, rate: int, sample_rate: int) -> Iterator[np.ndarray]:
    """Samples (channels, N) at `sample_rate`, of at most two channels, second by second."""
    waveform = mix_to_stereo(waveform.float().cpu())
    layout = "mono" if len(waveform) == 1 else "stereo"
    resampler = av.AudioResampler("fltp", layout, sample_rate)
    for piece in waveform.split(rate, 1):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(piece.numpy()), "fltp", layout)
        frame.sample_rate = rate
        yield from (part.to_ndarray() for part in resampler.resample(frame))
    yield from (part.to_ndarray() for part in resampler.resample(None))
