"""The video of a take: one closed H.264 segment per chunk while it is made, one MP4 with the speech at the end.

Frames are encoded once; the final file is a packet copy of the segments, so a resumed take and an uninterrupted one
have the same frames. No B-frames: packets are then in time order and segments join without edit lists.
"""
import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from ...techniques.audio.waveform import mix_to_stereo
from ..safe_files import SUFFIX, NotWritten, reading, remove, sync, writing

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
THREADS = 4  # fixed: x264's decisions depend on it
BT709 = 1    # the number of BT.709 in FFmpeg's matrix, primaries and transfer lists alike
LIMITED_RANGE = 1


@dataclass(frozen=True)
class SoundTrack:
    """Sound of a video that is read while it is written: `pieces` of (channels, samples), float 0 at rest, 1 or 2
    channels."""
    sample_rate: int
    channels: int
    pieces: Callable[[], Iterator[Tensor]]

    @classmethod
    def of(cls, audio: Mapping[str, Any]) -> "SoundTrack":
        """A clip {"waveform": (1, channels, samples), "sample_rate": Hz}; more than two channels are mixed to two."""
        rate, waveform = audio["sample_rate"], audio["waveform"]
        waveform = mix_to_stereo(waveform[0])
        return cls(rate, len(waveform), lambda: iter(waveform.split(rate, 1)))


@dataclass(frozen=True)
class VideoWriter:
    width: int
    height: int
    fps: Fraction
    crf: int = 17  # x264 quality: 0 lossless, 17 hardly different from the source, 51 worst

    @property
    def fingerprint(self) -> str:
        """What determines the bytes of a segment: belongs to every chunk's fingerprints."""
        return (f"libx264 crf {self.crf}, threads {THREADS}, bt709, av {av.__version__}, "
                f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")

    def segment(self, path: Path) -> "Segment":
        """A new fragmented MP4 at `path`, to be used in `with`; the file appears with the first frame."""
        return Segment(self, Path(path))

    def finish(self, segments: Sequence[Path], speech: "dict | SoundTrack | None", metadata: Mapping[str, str],
               path: Path) -> Path:
        """Join `segments` into one MP4 at `path`, with the speech as AAC and `metadata` as container tags.

        `speech`: a SoundTrack, or what makes one. A rate that AAC does not know is resampled to 48 kHz. The file gets
        its name only when it is complete. Raises
        NotWritten if the disk refuses (the segments stay as they are), ValueError for segments that were not written
        alike.
        """
        path = Path(path)
        draft = path.with_name(path.name + SUFFIX)
        try:
            with writing(path):
                _join(segments, speech, metadata, self.fps, draft)
                _check_complete(draft, b"moov")
                sync(draft)
                os.replace(draft, path)
        except NotWritten as error:
            raise NotWritten(f"{error}. All {len(segments)} video segments are safe in {segments[0].parent}") from error
        finally:
            remove(draft)
        return path


class Segment:
    """Frames of one chunk on their way into a file. `frames` counts what was written."""

    def __init__(self, writer: VideoWriter, path: Path):
        self.frames = 0
        self._writer, self._path = writer, path
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "Segment":
        return self

    def write(self, frames: Tensor) -> None:
        """Append frames (T, H, W, 3), float 0..1 on any device. Raises ValueError for another size, NotWritten."""
        size = (self._writer.height, self._writer.width, 3)
        if tuple(frames.shape[1:]) != size:
            raise ValueError(f"decoded frames are {tuple(frames.shape[1:])}, the plan says {size} (height, width, "
                             "channels): is this the VAE of the model?")
        with writing(self._path):
            for frame in frames:
                self._encode(frame.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Close the file; one that could not be finished is removed."""
        if self._container is None:
            return
        if kind is not None:
            with suppress(OSError):  # what went wrong before says more than that this went wrong too
                self._container.close()
            remove(self._path)
            return
        try:
            with writing(self._path):
                self._finish()
        except NotWritten:
            remove(self._path)
            raise

    def _encode(self, picture: np.ndarray) -> None:
        if self._container is None:
            self._open()
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = self.frames, 1 / self._writer.fps
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _open(self) -> None:
        self._container = av.open(str(self._path), "w", format="mp4", options={
            "movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"})
        self._stream = self._container.add_stream("libx264", rate=self._writer.fps, options={
            "crf": str(self._writer.crf), "bf": "0"})
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = self._writer.width, self._writer.height, "yuv420p"
        context.time_base, context.thread_count = 1 / self._writer.fps, THREADS
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE

    def _finish(self) -> None:
        try:
            self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()
        _check_complete(self._path, b"mfra")
        sync(self._path)


def _join(segments: Sequence[Path], speech: "dict | SoundTrack | None", metadata: Mapping[str, str], fps: Fraction,
          draft: Path) -> None:
    options = {"movflags": "use_metadata_tags+faststart", "video_track_timescale": str(fps.numerator * 100)}
    with av.open(str(draft), "w", format="mp4", options=options) as container:
        container.metadata.update(metadata)
        with reading(segments[0]), av.open(str(segments[0])) as first:
            video = container.add_stream_from_template(first.streams.video[0], opaque=True)
        packets = [_video_packets(segments, video, fps)]
        if speech is not None:
            track = speech if isinstance(speech, SoundTrack) else SoundTrack.of(speech)
            packets.append(_sound_packets(track, container))
        for packet in heapq.merge(*packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def _video_packets(segments: Sequence[Path], video: av.VideoStream, fps: Fraction) -> Iterator[av.Packet]:
    """The segments' packets, one per frame, renumbered on one clock."""
    header, number = None, 0
    for path in segments:
        with reading(path), av.open(str(path)) as segment:
            stream = segment.streams.video[0]
            header = header or stream.codec_context.extradata
            if stream.codec_context.extradata != header:
                raise ValueError(f"{path} was encoded with other settings than {segments[0]}; they cannot be joined")
            for packet in segment.demux(stream):
                if packet.size == 0:  # the demuxer's end mark
                    continue
                packet.stream, packet.time_base = video, 1 / fps
                packet.pts = packet.dts = number
                packet.duration = 1
                number += 1
                yield packet


def _sound_packets(track: SoundTrack, container: av.container.OutputContainer) -> Iterator[av.Packet]:
    rate, layout = track.sample_rate, "mono" if track.channels == 1 else "stereo"
    stream = container.add_stream("aac", rate=rate if rate in AAC_RATES else 48000, layout=layout)
    return _encode_sound(track, layout, stream)


def _encode_sound(track: SoundTrack, layout: str, stream: av.AudioStream) -> Iterator[av.Packet]:
    """The track as AAC packets, encoded piece by piece."""
    start = 0
    for piece in track.pieces():
        if not piece.shape[1]:
            continue
        block = np.ascontiguousarray(piece.clamp(-1, 1).cpu().numpy())
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = track.sample_rate, start, Fraction(1, track.sample_rate)
        start += block.shape[1]
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _check_complete(path: Path, last_written: bytes) -> None:
    """FFmpeg keeps an error in the last bytes to itself, so look: the MP4's boxes must fill the file to its end."""
    names, at, end = [], 0, path.stat().st_size
    with open(path, "rb") as file:
        while at < end:
            file.seek(at)
            head = file.read(16)
            size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[8:], "big") if size == 1 else size
            names.append(head[4:8])
            at += size or end  # 0: never filled in
    if at != end or last_written not in names:
        raise OSError("the last bytes are missing: the disk may be full")
