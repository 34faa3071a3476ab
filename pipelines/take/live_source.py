"""Speech that is still arriving, read from files that grow: a WAV that somebody writes, or a channel, into which
another program's speech is put record by record.

Both are read from where the take is; neither needs a thread, and neither is held in memory.
"""
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import torch
from torch import Tensor

from .live_sound import Arrival

HEADER_BYTES = 65536     # of a WAV, behind which its sound must begin
BEHIND = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"inst", b"fact", b"PEAK", b"JUNK", b"axml",
          b"_PMX", b"afsp")      # kinds of chunks that a WAV may have behind its sound
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
RECORD = struct.Struct("<4sIHxxI")    # kind, sample rate, channels, bytes that follow
SOUND, REPLACE, END = b"next", b"inst", b"over"
NAME = re.compile(r"[\w-]{1,64}", re.ASCII)
LOWEST_RATE, HIGHEST_RATE = 8000, 192000


class GrowingWav:
    """A source: a WAV file that may still grow. It never says that it is closed: silence ends it, or Cancel."""
    is_closed = False

    def __init__(self, path: Path):
        self.name, self.sample_rate, self.channels = path.name, 0, 0
        self._path, self._file = path, open_file(path)
        self._at = self._begin = self._frame = 0
        self._decode: Callable[[bytes], Tensor] | None = None

    def arrivals(self, most: int) -> list[Arrival]:
        size = size_of(self._path, self._file, self._at)
        if self._decode is None and not self._read_header():
            return []
        assert self._decode is not None
        count = min((self._end_of_sound(size) - self._at) // self._frame, most)
        if count <= 0:
            return []
        self._file.seek(self._at)
        data = self._file.read(count * self._frame)
        self._at += len(data)
        return [Arrival(fold(self._decode(data)))]

    def _end_of_sound(self, size: int) -> int:
        """Where the samples end in so many bytes: before what a finished WAV has behind them. A header that was never
        brought up to date says less than there is, with samples behind that."""
        self._file.seek(self._begin - 4)
        end = self._begin + int.from_bytes(self._file.read(4), "little")
        if end >= size:
            return size
        self._file.seek(end + (end - self._begin) % 2)
        return end if self._file.read(4) in BEHIND else size

    def _read_header(self) -> bool:
        """Whether the header is there. Raises ValueError where it is no WAV's."""
        self._file.seek(0)
        data = self._file.read(HEADER_BYTES)
        magic = data[:4] + data[8:12]
        if magic != b"RIFFWAVE"[:len(magic)] and magic[4:] != b"WAVE":
            raise ValueError(f"{self.name} is no WAV file: it begins with {data[:12]!r}. Write speech that is still "
                             "growing as WAV (PCM or float)")
        at, form = 12, b""
        while at + 8 <= len(data):
            kind, size = data[at:at + 4], int.from_bytes(data[at + 4:at + 8], "little")
            if kind == b"data":
                self.sample_rate, self.channels, self._frame, self._decode = read_form(self.name, form)
                self._at = self._begin = at + 8
                return True
            form = data[at + 8:at + 8 + size] if kind == b"fmt " else form
            at += 8 + size + size % 2
        if len(data) >= HEADER_BYTES:
            raise ValueError(f"{self.name} has no sound in its first {HEADER_BYTES} bytes. Write a plain WAV")
        return False


class Channel:
    """A source: what another program sends. The file is a list of records, which only `put_record` writes."""

    def __init__(self, path: Path, name: str):
        self.name, self.sample_rate, self.channels, self.is_closed = name, 0, 0, False
        self._path, self._file, self._at, self._left = path, open_file(path), 0, 0
        self._replaces = False

    def arrivals(self, most: int) -> list[Arrival]:
        size = size_of(self._path, self._file, self._at)
        found, count = [], 0
        if self._skip_to_newest(size):
            most = max(most, 1)
        while count < most and not self.is_closed:
            if not self._left and not self._open_record(size):
                break
            if self._left or self._replaces:
                frames = min(self._left // (2 * max(self.channels, 1)), most - count)
                found.append(self._read(frames))
                count += frames
        return found

    def _read(self, frames: int) -> Arrival:
        """Of the record that is open; none of one that only drops what was queued."""
        self._file.seek(self._at)
        channels = max(self.channels, 1)
        data = self._file.read(frames * 2 * channels)
        self._at, self._left = self._at + len(data), self._left - len(data)
        replaces, self._replaces = self._replaces, False
        return Arrival(fold(integers(np.int16)(data).reshape(-1, channels)), replaces)

    def _open_record(self, size: int) -> bool:
        """Whether a whole record begins here; then the place is behind its head."""
        head = self._head(self._at, size)
        if head is None:
            return False
        kind, rate, channels, length = head
        if self.sample_rate and length and (rate, channels) != (self.sample_rate, self.channels):
            raise ValueError(f"{self.name} sent {rate} Hz with {channels} channels after {self.sample_rate} Hz with "
                             f"{self.channels}. Send one kind of sound")
        if length:
            self.sample_rate, self.channels = rate, channels
        self._at, self._left, self.is_closed = self._at + RECORD.size, length, kind == END
        self._replaces = self._replaces or kind == REPLACE
        return True

    def _head(self, at: int, size: int) -> tuple[bytes, int, int, int] | None:
        """The record that begins at `at`, once all of it is there."""
        if at + RECORD.size > size:
            return None
        self._file.seek(at)
        head = RECORD.unpack(self._file.read(RECORD.size))
        return head if at + RECORD.size + head[3] <= size else None

    def _skip_to_newest(self, size: int) -> bool:
        """To the last record that replaces what is before it; whether one came."""
        at, newest = self._at + self._left, None
        while (head := self._head(at, size)) is not None:
            newest = at if head[0] == REPLACE else newest
            at += RECORD.size + head[3]
        if newest is not None:
            self._at, self._left = newest, 0
        return newest is not None


def put_record(path: Path, kind: bytes, data: bytes = b"", sample_rate: int = 0, channels: int = 1) -> None:
    """Append 16-bit samples, channels interleaved, to a channel that a take has open. Raises FileNotFoundError where
    none has, ValueError for what is no such sound."""
    if data and not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise ValueError(f"rate: got {sample_rate}, wanted {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    if channels not in (1, 2) or len(data) % (2 * channels):
        raise ValueError(f"got {len(data)} bytes for {channels} channels, wanted whole 16-bit samples of 1 or 2")
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(RECORD.pack(kind, sample_rate, channels, len(data)) + data)


def open_file(path: Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error


def size_of(path: Path, file: BinaryIO, read: int) -> int:
    """Raises ValueError for a file that is not the one it was."""
    try:
        now, own = os.stat(path), os.fstat(file.fileno())
    except OSError as error:
        raise ValueError(f"{path.name} is gone ({error.strerror}). Leave the file where it is until the take ends"
                         ) from error
    if not os.path.samestat(now, own):
        raise ValueError(f"{path.name} was replaced by another file. Append to the one that the take began with")
    if now.st_size < read:
        raise ValueError(f"{path.name} became shorter: {now.st_size} bytes, of which {read} were read. Only append to "
                         "it until the take ends")
    return now.st_size


def read_form(name: str, form: bytes) -> tuple[int, int, int, Callable[[bytes], Tensor]]:
    """Of a WAV's `fmt` chunk: sample rate, channels, bytes of a frame, and what makes samples of bytes."""
    if len(form) < 16:
        raise ValueError(f"{name} is damaged: a WAV says what its sound is before it begins")
    kind, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if kind == EXTENSIBLE and len(form) >= 26:
        kind = int.from_bytes(form[24:26], "little")
    decoders: dict[tuple[int, int], Callable[[bytes], np.ndarray]] = {
        (PCM, 16): integers(np.int16), (PCM, 24): integers_of_24, (PCM, 32): integers(np.int32),
        (FLOAT, 32): floats}
    decode = decoders.get((kind, bits))
    if decode is None or not channels or frame != channels * bits // 8 or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"{name} is a WAV of kind {kind} with {bits} bits, {channels} channels at {rate} Hz. Write "
                         f"16, 24 or 32 bit PCM, or 32 bit float, at {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    return rate, channels if channels <= 2 else 1, frame, lambda data: torch.from_numpy(
        decode(data).reshape(-1, channels))


def integers(kind: Any) -> Callable[[bytes], np.ndarray]:
    return lambda data: np.frombuffer(data, kind).astype(np.float32) / -float(np.iinfo(kind).min)


def integers_of_24(data: bytes) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8).reshape(-1, 3)
    wide: np.ndarray = np.zeros((len(raw), 4), np.uint8)
    wide[:, 1:] = raw
    return wide.view("<i4")[:, 0].astype(np.float32) / 2 ** 31


def floats(data: bytes) -> np.ndarray:
    return np.nan_to_num(np.frombuffer(data, np.float32), posinf=0.0, neginf=0.0)


def fold(frames: Any) -> Tensor:
    """(samples, channels) -> (channels, samples); more than two are averaged."""
    sound = torch.as_tensor(frames).T
    return sound.contiguous() if len(sound) <= 2 else sound.mean(0, keepdim=True)



def read_sound(path: Path) -> dict[str, Any]:
    """All of a sound file of any kind FFmpeg knows: {"waveform": (1, channels, samples), "sample_rate": Hz}. Raises
    ValueError for what is none."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError(f"{path.name} has no sound")
            stream = container.streams.audio[0]
            rate, layout = stream.codec_context.sample_rate, "mono" if stream.codec_context.channels == 1 else "stereo"
            resampler = av.AudioResampler("fltp", layout, rate)
            frames = [piece.to_ndarray() for frame in container.decode(stream) for piece in resampler.resample(frame)]
    except av.error.FFmpegError as error:
        raise ValueError(f"{path.name} is no sound file that can be read ({error.strerror})") from error
    if not frames:
        raise ValueError(f"{path.name} has no sound")
    return {"waveform": torch.from_numpy(np.concatenate(frames, 1))[None], "sample_rate": rate}
