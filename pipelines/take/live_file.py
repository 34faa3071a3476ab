"""The video of a live take while it is made: one fragmented MP4 that grows block by block, each block a fragment that
begins with a key frame, and the same fragments as an HLS folder.

The encoders hold no frame back and one of each runs for the whole take; every block is muxed by itself, and its
fragment is put at its own time. So a block is on disk as soon as it is decoded, and a run that dies leaves a file that
plays to its last block: until a fragment is whole it is marked as free space, since players refuse half of a head.
"""
import errno
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from ..safe_files import NotReadable, NotWritten, remove, replace, sync, writing
from .video_writer import BT709, LIMITED_RANGE, THREADS

SOUND_RATE, SOUND_LAYOUT = 48000, "stereo"
FRAGMENT = "frag_keyframe+empty_moov+default_base_moof+skip_trailer"
GLOBAL_HEADER = 1 << 22      # FFmpeg's flag of encoders whose settings stand before the frames
ENCODER = {"preset": "veryfast", "tune": "zerolatency", "bf": "0", "forced-idr": "1"}
TICKS = 100                  # of the video's clock in the file, per frame and unit of the rate's denominator
HEAD, FREE = b"moof", b"free"    # the kinds of a fragment's head and of what players skip
INIT, PLAYLIST, SERVED = "init.mp4", "stream.m3u8", "served.m3u8"


@dataclass
class HlsFolder:
    """Fragments as files, and two playlists of them: one with their names, for players of the folder, and one whose
    addresses begin with `address`, for a page. `keep`: how many of the newest stay; None for all."""
    folder: Path
    address: str
    keep: int | None = None
    _parts: list[tuple[str, float]] = field(default_factory=list)
    _gone: int = 0

    def begin(self, init: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replace(self.folder / INIT, init)

    def add(self, fragment: bytes, seconds: float) -> None:
        name = f"{self._gone + len(self._parts):06}.m4s"
        replace(self.folder / name, fragment)
        self._parts.append((name, seconds))
        self._write(False)
        if self.keep is not None and len(self._parts) > self.keep:
            old, _ = self._parts.pop(0)
            self._gone += 1
            remove(self.folder / old)

    def end(self) -> None:
        if self._parts:
            self._write(True)

    def _write(self, over: bool) -> None:
        for name, address in ((PLAYLIST, ""), (SERVED, self.address)):
            replace(self.folder / name, self._playlist(address, over).encode())

    def _playlist(self, address: str, over: bool) -> str:
        longest = max(seconds for _, seconds in self._parts)
        kind = ["#EXT-X-PLAYLIST-TYPE:EVENT"] if self.keep is None else []
        entries = [line for name, seconds in self._parts for line in (f"#EXTINF:{seconds:.6f},", address + name)]
        return "\n".join(["#EXTM3U", "#EXT-X-VERSION:7", f"#EXT-X-TARGETDURATION:{max(round(longest), 1)}",
                          f"#EXT-X-MEDIA-SEQUENCE:{self._gone}", *kind, "#EXT-X-INDEPENDENT-SEGMENTS",
                          f'#EXT-X-MAP:URI="{address}{INIT}"', *entries, *(["#EXT-X-ENDLIST"] if over else []), ""])


class LiveFile:
    """Use as `with LiveFile(...) as file:`; frames go in, then the sound that belongs to them, which ends a block."""

    def __init__(self, width: int, height: int, fps: Fraction, path: Path, hls: HlsFolder | None = None,
                 crf: int = 17):
        self.width, self.height, self.fps, self.path, self.hls = width, height, fps, path, hls
        self.frames = self.blocks = 0
        self._file: Any = None
        self._packets: list[Any] = []     # of the block, video
        self._resampler: Any = None
        self._rate = 0
        self._samples = 0                 # given to the sound's encoder
        self._open_encoders(crf)

    def __enter__(self) -> "LiveFile":
        return self

    def __exit__(self, *error: object) -> None:
        """What was begun stays: it plays. Nothing is there where no block was finished."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._encoders.close()

    def write(self, frames: Tensor) -> None:
        """Append frames (T, H, W, 3), float 0..1 on any device. Raises ValueError for another size."""
        size = (self.height, self.width, 3)
        if tuple(frames.shape[1:]) != size:
            raise ValueError(f"decoded frames are {tuple(frames.shape[1:])}, the plan says {size} (height, width, "
                             "channels): is this the VAE of the model?")
        for frame in frames.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy():
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
            picture.pts, picture.time_base = self.frames, 1 / self.fps
            picture.pict_type = 0 if self._packets else 1       # a block begins with a key frame
            self._packets += self._video.encode(picture)
            self.frames += 1

    def end_block(self, sound: Tensor, sample_rate: int, last: bool = False) -> None:
        """The sound (channels, samples) of the frames since the last block; then they are on disk. Raises NotWritten.
        """
        packets = self._encode_sound(sound, sample_rate, last)
        if last:
            self._packets += self._video.encode(None)
        if not self._packets and not packets:
            return
        init, fragment = self._mux(self._packets, packets)
        count, self._packets = len(self._packets), []
        with writing(self.path):
            if self._file is None:
                self._file = open(self.path, "xb", buffering=0)
                append_whole(self._file, init)
            elif not self.is_there():
                raise OSError(errno.ENOENT, "it was deleted or moved while it was made", str(self.path))
            append_whole(self._file, fragment)
        if self.hls is not None and count:
            with writing(self.hls.folder / PLAYLIST):
                if not self.blocks:
                    self.hls.begin(init)
                self.hls.add(fragment, float(count / self.fps))
        self.blocks += bool(count)

    def end(self) -> None:
        """The take is over: players need not ask for more."""
        if self.hls is not None and self.blocks:
            with writing(self.hls.folder / PLAYLIST):
                self.hls.end()

    def is_there(self) -> bool:
        """Whether the file still has its name."""
        with suppress(OSError):
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        return False

    def _open_encoders(self, crf: int) -> None:
        self._encoders = av.open(io.BytesIO(), "w", format="null")
        self._options = {**ENCODER, "crf": str(crf)}
        self._video = self._encoders.add_stream("libx264", rate=self.fps, options=self._options)
        context = self._video.codec_context
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.time_base, context.thread_count, context.gop_size = 1 / self.fps, THREADS, 1 << 20
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        self._sound = self._encoders.add_stream("aac", rate=SOUND_RATE, layout=SOUND_LAYOUT)
        for stream in (self._video, self._sound):
            stream.codec_context.flags |= GLOBAL_HEADER
        self._encoders.start_encoding()

    def _encode_sound(self, sound: Tensor, sample_rate: int, last: bool) -> list[Any]:
        """AAC packets that became ready. The encoder's own run-in, before time 0, is left out."""
        if sample_rate != self._rate:
            self._rate, self._resampler = sample_rate, av.AudioResampler("fltp", SOUND_LAYOUT, SOUND_RATE)
        frames = []
        if sound.shape[1]:      # FFmpeg would make mono softer on its way to stereo
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.expand(2, -1).clamp(-1, 1).cpu().numpy()),
                                               format="fltp", layout=SOUND_LAYOUT)
            frame.sample_rate = sample_rate
            frames = self._resampler.resample(frame)
        packets = []
        for frame in frames:
            frame.pts, frame.time_base = self._samples, Fraction(1, SOUND_RATE)
            self._samples += frame.samples
            packets += self._sound.encode(frame)
        packets += self._sound.encode(None) if last else []
        return [packet for packet in packets if packet.pts >= 0]

    def _mux(self, video: Sequence[Any], sound: Sequence[Any]) -> tuple[bytes, bytes]:
        """A block as the head of the file and a fragment at the block's own time."""
        data, starts = io.BytesIO(), []
        rate = self.fps.numerator * TICKS
        with av.open(data, "w", format="mp4", options={"movflags": FRAGMENT, "use_editlist": "0",
                                                       "video_track_timescale": str(rate)}) as container:
            packets = []
            for source, own, clock in ((self._video, video, rate), (self._sound, sound, SOUND_RATE)):
                stream = container.add_stream_from_template(source, opaque=True)
                if stream.type == "video" and not stream.codec_context.is_open:
                    # before PyAV 17 it is an encoder that is opened, too: its head is to be that of the packets
                    stream.codec_context.options = self._options
                    stream.codec_context.time_base = 1 / self.fps
                for packet in own:
                    packets.append((packet.pts * packet.time_base, packet, stream))
                starts += [int(own[0].pts * own[0].time_base * clock)] if own else []
            first = {stream.index: next((pts for pts, _, other in packets if other is stream), 0)
                     for _, _, stream in packets}
            for pts, packet, stream in sorted(packets, key=lambda entry: entry[0]):
                packet.pts = packet.dts = round((pts - first[stream.index]) / packet.time_base)
                packet.duration = packet.duration or 1
                packet.stream = stream
                container.mux(packet)
        return split_fragment(bytearray(data.getvalue()), self.blocks + 1, starts)


def append_whole(file: Any, data: bytes) -> None:
    """All of `data`, or nothing of it where the disk refuses it; a fragment counts once it is whole."""
    at = file.seek(0, os.SEEK_END)
    try:
        write_all(file, data[:4] + data[4:8].replace(HEAD, FREE) + data[8:])
        if data[4:8] == HEAD:
            file.seek(at + 4)
            write_all(file, HEAD)
    except OSError:
        with suppress(OSError):
            file.truncate(at)
        raise


def write_all(file: Any, data: bytes) -> None:
    """To a file without a buffer, whose writes may end early."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest):]


def split_fragment(data: bytearray, number: int, starts: Sequence[int]) -> tuple[bytes, bytes]:
    """An MP4 of one fragment -> its head and the fragment, as number `number`, each track at its start."""
    head = data.index(b"moof") - 4
    at = data.index(b"mfhd", head) + 8
    data[at:at + 4] = number.to_bytes(4, "big")
    for start in starts:
        at = data.index(b"tfdt", at) + 8
        data[at:at + 8] = start.to_bytes(8, "big")
    return bytes(data[:head]), bytes(data[head:])


def remux(live: Path, tags: Mapping[str, str], path: Path) -> Path:
    """The whole of a live file as an MP4 that any program reads, its packets as they are. Raises NotWritten, and
    NotReadable for what is no such file."""
    options = {"movflags": "use_metadata_tags+faststart"}
    try:
        with writing(path), av.open(str(live)) as source, av.open(str(path), "w", "mp4", options) as made:
            made.metadata.update(tags)
            streams = {stream.index: made.add_stream_from_template(stream, opaque=True) for stream in source.streams}
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream.index]
                    made.mux(packet)
    except (ValueError, EOFError) as error:     # as PyAV has FFmpeg's
        raise NotReadable(f"{live} cannot be read ({error}): another program changed it") from error
    with writing(path):
        if not path.stat().st_size:
            raise NotWritten(f"{path} is empty: the disk may be full")
        sync(path)
    return path


def remove_folder(folder: Path) -> None:
    """Delete what an HLS folder holds, and the folder."""
    with suppress(OSError):
        for name in os.listdir(folder):
            remove(folder / name)
        folder.rmdir()
