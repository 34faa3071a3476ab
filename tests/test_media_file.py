"""Files as cameras and phones make them: tracks that nothing decodes, damaged packets, padding, late sound."""
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from lodestar.pipelines.media_file import MediaFile
from lodestar.pipelines.metrics.report import evaluate
from lodestar.pipelines.metrics.video_reader import VideoFile

RATE, SECONDS = 16_000, 2


def tone(pitch: int) -> np.ndarray:
    return (0.3 * np.sin(np.arange(RATE * SECONDS) / RATE * 2 * np.pi * pitch)).astype(np.float32)


def write(path: Path, pitches: tuple[int, ...], codec: str = "aac", picture: bool = True) -> Path:
    """A video of 96x96 at 25 fps with one track of sound per pitch."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25) if picture else None
        streams = [container.add_stream(codec, rate=RATE, layout="mono") for _ in pitches]
        if video:
            video.width = video.height = 96
            video.pix_fmt = "yuv420p"
            for number in range(25 * SECONDS):
                frame = av.VideoFrame.from_ndarray(np.full((96, 96, 3), number * 4, np.uint8), "rgb24")
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        for pitch, stream in zip(pitches, streams, strict=True):
            frame = av.AudioFrame.from_ndarray(tone(pitch)[None], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def with_unknown_sound(path: Path, tracks: int) -> Path:
    """The first tracks of sound become of a codec that FFmpeg has no decoder for, as phones' spatial sound is."""
    content = path.read_bytes()
    for _ in range(tracks):
        start = content.index(b"mp4a")
        end = content.index(b"esds", start)
        content = content[:start] + b"apac" + content[start + 4:end] + b"dapa" + content[end + 4:]
    path.write_bytes(content)
    return path


def pitch_of(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


def decode(path: Path, **options) -> np.ndarray:
    return np.concatenate(list(MediaFile(path).mono(RATE, **options)))


def test_sound_is_as_long_as_its_track_says_and_not_as_its_padding(tmp_path):
    samples = decode(write(tmp_path / "plain.mp4", (220,)))
    assert len(samples) == RATE * SECONDS and samples.dtype == np.float32
    assert pitch_of(samples) == 220 and np.corrcoef(samples[2000:-2000], tone(220)[2000:-2000])[0, 1] > 0.99


def test_the_first_track_that_decodes_is_taken(tmp_path):
    samples = decode(with_unknown_sound(write(tmp_path / "two.mp4", (220, 330)), 1))
    assert len(samples) == RATE * SECONDS and pitch_of(samples) == 330


@pytest.mark.parametrize(("pitches", "unknown", "words"), [
    ((), 0, "take.mp4 has no sound"), ((220,), 1, "take.mp4 has 1 sound track, but FFmpeg here has no decoder for it"),
    ((220, 330), 2, "take.mp4 has 2 sound tracks, but FFmpeg here has no decoder for any of them")])
def test_a_report_without_sound_says_why(tmp_path, pitches, unknown, words):
    video = VideoFile(with_unknown_sound(write(tmp_path / "take.mp4", pitches), unknown))
    assert video.sound() is None
    report = evaluate(video, mouth_box="0.4, 0.4, 0.6, 0.6")
    assert report["video"]["frames"] == 50 and report["left_out"]["syncnet"] == f"{words}: give the speech"


def test_a_report_measures_the_track_that_decodes(tmp_path):
    video = VideoFile(with_unknown_sound(write(tmp_path / "two.mp4", (220, 330)), 1))
    assert sum(map(len, video.sound().pieces)) == RATE * SECONDS
    assert "no decoder" not in str(evaluate(video)["left_out"])


@pytest.mark.parametrize(("codec", "ending"), [("aac", "m4a"), ("flac", "flac"), ("libmp3lame", "mp3")])
def test_a_damaged_packet_is_silence_of_its_length(tmp_path, codec, ending, caplog):
    path = write(tmp_path / f"speech.{ending}", (220,), codec, picture=False)
    whole = decode(path)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(audio=0) if packet.size][8]
        place, size, first = packet.pos, packet.size, float(packet.pts * packet.time_base)
    content = bytearray(path.read_bytes())
    content[place:place + size] = bytes([255] * 4 + [0] * (size - 4)) if codec == "aac" else bytes(size)
    path.write_bytes(content)
    damaged = decode(path)
    tail = slice(int((first + 0.5) * RATE), None)
    assert abs(len(damaged) - len(whole)) <= 0.1 * RATE and pitch_of(damaged[tail]) == pytest.approx(220, abs=2)
    assert abs(whole[tail]).max() == pytest.approx(abs(damaged[tail][:len(whole[tail])]).max(), rel=0.1)


def test_what_is_no_media_is_refused_by_its_name(tmp_path):
    (tmp_path / "text.mp3").write_text("no sound")
    with pytest.raises(ValueError, match="^text.mp3 cannot be read .*Give a file that FFmpeg plays"):
        decode(tmp_path / "text.mp3")


def test_sound_may_begin_before_what_is_asked_for(tmp_path):
    path = write(tmp_path / "plain.mp4", (220,))
    assert torch.equal(torch.from_numpy(decode(path, from_seconds=0.5)), torch.from_numpy(decode(path)[RATE // 2:]))
    late = decode(path, from_seconds=-0.25)
    assert not late[:RATE // 4].any() and np.array_equal(late[RATE // 4:], decode(path))
