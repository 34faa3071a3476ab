"""The written file, opened again: frames, clock, colours, speech, metadata; and what is left when the disk is full."""
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from lodestar.pipelines.safe_files import NotWritten
from lodestar.pipelines.take import video_writer
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.plan import plan_take
from lodestar.pipelines.take.protocols import Events
from lodestar.pipelines.take.take import make_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline
from lodestar.tests.full_disk import files_limited_to, limit_files_to
from lodestar.tests.tiny_backbone import ToySampler, ToyStream, last_latents

pytestmark = pytest.mark.once

WIDTH, HEIGHT = 64, 48
FILM = Fraction(24000, 1001)


def scene(frames, start=0):
    """A moving gradient (frames, H, W, 3) in 0..1."""
    down = torch.linspace(0, 1, HEIGHT)[:, None, None].expand(HEIGHT, WIDTH, 3)
    return torch.stack([(down + (start + frame) / 50) % 1 for frame in range(frames)])


def write(path, frames, writer=None):
    with (writer or VideoWriter(WIDTH, HEIGHT, FILM)).segment(path) as segment:
        for group in frames.split(8):
            segment.write(group)
    return path


def segments(folder, lengths=(9, 1, 40, 2), writer=None):
    return [write(folder / f"{index}.mp4", scene(length, 7 * index), writer) for index, length in enumerate(lengths)]


def speech(seconds, rate=16000, channels=1):
    wave = torch.sin(torch.arange(int(seconds * rate)) * (2 * torch.pi * 440 / rate)) / 2
    return {"waveform": wave.expand(1, channels, -1), "sample_rate": rate}


def stored(*paths):
    frames = []
    for path in paths:
        with av.open(str(path)) as file:
            frames += [frame.to_ndarray() for frame in file.decode(video=0)]
    return np.stack(frames)


def sound(path):
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(audio=0)], axis=1)


def boxes(path):
    """Names of the file's top-level MP4 boxes, in order."""
    data, names, at = path.read_bytes(), [], 0
    while at < len(data):
        names.append(data[at + 4:at + 8].decode("ascii"))
        at += int.from_bytes(data[at:at + 4], "big")
    return names


def test_the_file_holds_the_segments_frames_on_one_clock(tmp_path):
    parts = segments(tmp_path)
    path = VideoWriter(WIDTH, HEIGHT, FILM).finish(parts, speech(52 / FILM), {}, tmp_path / "take.mp4")
    assert np.array_equal(stored(path), stored(*parts)) and len(stored(path)) == 52
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        assert (video.frames, video.average_rate, video.start_time) == (52, FILM, 0)
        assert video.duration * video.time_base == 52 / FILM
        assert [frame.pts * frame.time_base for frame in file.decode(video=0)] == [n / FILM for n in range(52)]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("fps", [Fraction(1), Fraction(16), Fraction(25, 2), Fraction(30000, 1001), Fraction(240),
                                 Fraction(23993, 1000)])
def test_any_frame_rate_is_exact(tmp_path, fps):
    writer = VideoWriter(WIDTH, HEIGHT, fps)
    path = writer.finish(segments(tmp_path, (3, 4), writer), None, {}, tmp_path / "take.mp4")
    with av.open(str(path)) as file:
        assert file.streams.video[0].average_rate == fps and not file.streams.audio
        assert [frame.pts * frame.time_base for frame in file.decode(video=0)] == [n / fps for n in range(7)]


def test_boxes_segments_are_fragmented_and_the_file_starts_fast(tmp_path):
    parts = segments(tmp_path, (30,))
    assert boxes(parts[0])[:4] == ["ftyp", "moov", "moof", "mdat"]
    path = VideoWriter(WIDTH, HEIGHT, FILM).finish(parts, speech(1), {"prompt": "{}"}, tmp_path / "take.mp4")
    names = boxes(path)
    assert names.index("moov") < names.index("mdat") and "moof" not in names


def test_metadata_comes_back(tmp_path):
    tags = {"prompt": '{"1": {"class_type": "LodestarLongTake"}}', "workflow": '{"é": "' + "x" * 100_000 + '"}'}
    path = VideoWriter(WIDTH, HEIGHT, FILM).finish(segments(tmp_path, (3,)), None, tags, tmp_path / "take.mp4")
    with av.open(str(path)) as file:
        assert {name: file.metadata[name] for name in tags} == tags


@pytest.mark.parametrize("rate, channels, stored_rate, layout", [
    (16000, 1, 16000, "mono"), (8000, 1, 8000, "mono"), (44100, 2, 44100, "stereo"), (192000, 2, 48000, "stereo"),
    (16000, 7, 16000, "stereo"), (16000, 9, 16000, "mono"), (11111, 1, 48000, "mono")])
def test_speech_of_any_rate_and_channels(tmp_path, rate, channels, stored_rate, layout):
    seconds = Fraction(52) / FILM
    path = VideoWriter(WIDTH, HEIGHT, FILM).finish(segments(tmp_path), speech(seconds, rate, channels), {},
                                                   tmp_path / "take.mp4")
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        assert (stream.rate, stream.layout.name) == (stored_rate, layout)
        assert abs(stream.duration * stream.time_base - seconds) < Fraction(2, stored_rate) + Fraction(1, 1000)
    wave = sound(path)[0]
    assert 0 <= len(wave) - seconds * stored_rate < 1024 + 2      # AAC packets hold 1024 samples
    middle = wave[stored_rate // 2:stored_rate * 3 // 2]          # one second: 440 Hz is bin 440
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440 and 0.4 < np.abs(middle).max() < 0.6


def test_speech_is_in_step_with_the_picture(tmp_path):
    """A click at one second is found there, through encoder delay and edit list."""
    wave = torch.zeros(1, 1, 32000)
    wave[..., 16000:16020] = 1
    path = VideoWriter(WIDTH, HEIGHT, FILM).finish(segments(tmp_path), {"waveform": wave, "sample_rate": 16000}, {},
                                                   tmp_path / "take.mp4")
    with av.open(str(path)) as file:
        first = next(file.decode(audio=0))
        skipped = round(first.pts * first.time_base * 16000)
    assert abs(int(np.argmax(np.abs(sound(path)[0]))) + skipped - 16010) < 20


def test_a_failed_join_leaves_nothing(tmp_path):
    parts = [write(tmp_path / "0.mp4", torch.zeros(3, HEIGHT, WIDTH, 3)), tmp_path / "missing.mp4"]
    with pytest.raises(OSError):
        VideoWriter(WIDTH, HEIGHT, FILM).finish(parts, None, {}, tmp_path / "take.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["0.mp4"]


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.5, 0.5, 0.5), (0, 0, 0),
                                    (0.8, 0.5, 0.4)])
def test_colours_are_bt709_and_say_so(tmp_path, colour):
    path = write(tmp_path / "a.mp4", torch.tensor(colour).expand(2, HEIGHT, WIDTH, 3))
    planes = stored(path)[0].reshape(-1)
    red, green, blue = colour
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    wanted = (16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748)
    size = WIDTH * HEIGHT
    for plane, value in zip(np.split(planes, [size, size * 5 // 4]), wanted, strict=True):
        assert abs(plane.astype(float) - value).max() <= 1.5
    with av.open(str(path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


def test_values_are_rounded_not_cut(tmp_path):
    grey = torch.full((2, HEIGHT, WIDTH, 3), 100.6 / 255)
    planes = stored(write(tmp_path / "a.mp4", grey, VideoWriter(WIDTH, HEIGHT, FILM, crf=0)))  # lossless
    assert (planes[:, :HEIGHT] == round(16 + 101 * 219 / 255)).all()


def test_how_frames_are_grouped_does_not_matter(tmp_path):
    lossless = VideoWriter(WIDTH, HEIGHT, FILM, crf=0)
    with lossless.segment(tmp_path / "a") as segment:
        for group in scene(20).split([1, 7, 0, 12]):
            segment.write(group)
    assert segment.frames == 20
    assert np.array_equal(stored(tmp_path / "a"), stored(write(tmp_path / "b", scene(20), lossless)))


def test_quality_is_near_the_source(tmp_path):
    frames = scene(8)
    with av.open(str(write(tmp_path / "a.mp4", frames))) as file:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert np.abs(shown / 255 - frames.numpy())[:, 2:-2].mean() < 0.01


def test_no_frames_no_file(tmp_path):
    with VideoWriter(WIDTH, HEIGHT, FILM).segment(tmp_path / "a") as segment:
        segment.write(scene(3)[:0])
    assert segment.frames == 0 and not list(tmp_path.iterdir())


def test_an_interrupted_segment_leaves_no_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(WIDTH, HEIGHT, FILM).segment(tmp_path / "a") as segment:
            segment.write(scene(9))
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_frames_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\(64, 48, 3\), the plan says \(48, 64, 3\)"):
        write(tmp_path / "a", scene(3).transpose(1, 2))


def test_segments_that_were_not_written_alike_are_not_joined(tmp_path):
    other = write(tmp_path / "b.mp4", torch.rand(3, 96, 64, 3), VideoWriter(64, 96, FILM))
    with pytest.raises(ValueError, match="other settings"):
        VideoWriter(WIDTH, HEIGHT, FILM).finish([*segments(tmp_path, (3,)), other], None, {}, tmp_path / "take.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.mp4", "b.mp4"]


@pytest.mark.parametrize("frames", [4, 60])
def test_a_full_disk_while_a_segment_is_written(tmp_path, frames):
    """At whatever byte: also in the last ones, which FFmpeg writes when it closes the file and says nothing about."""
    noise = torch.rand(frames, HEIGHT, WIDTH, 3)
    size = write(tmp_path / "whole.mp4", noise).stat().st_size
    for room in (0, 20, 800, size // 2, size - 100):
        with files_limited_to(room), pytest.raises(NotWritten, match="a.mp4 could not be written .*queue again"):
            write(tmp_path / "a.mp4", noise)
        assert not (tmp_path / "a.mp4").exists()
    assert len(stored(write(tmp_path / "a.mp4", noise))) == frames


@pytest.mark.parametrize("room", [100, 30_000, 60_000, 100_000, 120_000])
def test_a_full_disk_while_the_file_is_joined(tmp_path, room):
    parts = [write(tmp_path / f"{index}.mp4", torch.rand(15, HEIGHT, WIDTH, 3)) for index in range(3)]
    before = [path.read_bytes() for path in parts]
    (tmp_path / "take.mp4").write_bytes(b"an older take of that name")
    with files_limited_to(room), pytest.raises(NotWritten, match="All 3 video segments are safe in"):
        VideoWriter(WIDTH, HEIGHT, FILM).finish(parts, speech(2), {"workflow": "x" * 9999}, tmp_path / "take.mp4")
    assert (tmp_path / "take.mp4").read_bytes() == b"an older take of that name"
    assert [path.read_bytes() for path in parts] == before and len(list(tmp_path.iterdir())) == 4
    VideoWriter(WIDTH, HEIGHT, FILM).finish(parts, speech(2), {}, tmp_path / "take.mp4")
    assert np.array_equal(stored(tmp_path / "take.mp4"), stored(*parts))


def test_every_packet_is_shown_when_it_is_decoded(tmp_path):
    """A moving disc, which x264 would like to predict from both sides: in the segments and in the joined file every
    frame has the time of its number, and nothing is shown out of order or later than it is decoded."""
    down, across = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    discs = torch.stack([((down - 24) ** 2 + (across - 8 - frame) ** 2 < 64).float() for frame in range(50)])
    frames = discs[..., None].expand(-1, -1, -1, 3)
    writer = VideoWriter(WIDTH, HEIGHT, FILM)
    parts = [write(tmp_path / "0.mp4", frames[:27]), write(tmp_path / "1.mp4", frames[27:])]
    joined = writer.finish(parts, speech(50 / FILM), {}, tmp_path / "take.mp4")
    for path, count in ((parts[0], 27), (parts[1], 23), (joined, 50)):
        with av.open(str(path)) as file:
            video = file.streams.video[0]
            packets = [packet for packet in file.demux(video) if packet.size]
            assert [packet.pts * video.time_base for packet in packets] == [number / FILM for number in range(count)]
            assert all(packet.pts == packet.dts for packet in packets)
        with av.open(str(path)) as file:
            kinds = {PictureType(int(frame.pict_type)) for frame in file.decode(video=0)}
            assert kinds == {PictureType.I, PictureType.P}


@pytest.mark.parametrize("lost", [1, 100, 10_000])
def test_last_bytes_that_the_disk_lost_in_silence_cost_the_joined_file(tmp_path, monkeypatch, lost):
    """FFmpeg says nothing about an error in what it writes last: the joined file must be whole before it has a name."""
    parts = segments(tmp_path)
    join = video_writer._join

    def lose(segments, speech, metadata, fps, draft):
        join(segments, speech, metadata, fps, draft)
        with open(draft, "rb+") as file:
            file.truncate(draft.stat().st_size - lost)

    monkeypatch.setattr(video_writer, "_join", lose)
    with pytest.raises(NotWritten, match="take.mp4 could not be written .the last bytes are missing.* All 4 video"):
        VideoWriter(WIDTH, HEIGHT, FILM).finish(parts, speech(2), {}, tmp_path / "take.mp4")
    assert not list(tmp_path.glob("take*"))


@pytest.mark.parametrize("room", [0, 200, 2500])
def test_a_take_on_a_disk_that_fills_up_goes_on_when_there_is_room(tmp_path, room):
    """The disk fills up after chunk 2: `room` bytes are left for any file of chunk 3."""
    plan = plan_take(Timeline(FILM), 60, 17, 5, WIDTH, HEIGHT)

    def run(folder, events=None):
        with Journal.open(folder, [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
            return make_take(plan, ToySampler(WIDTH, HEIGHT, last_latents(2)), ToyStream, journal,
                             VideoWriter(WIDTH, HEIGHT, FILM, crf=0), events).segments

    class FillUp(Events):
        def chunk_finished(self, chunk):
            if chunk.index == 1:
                limit_files_to(room)

    with files_limited_to(10 ** 9), pytest.raises(NotWritten, match=rf"2 of {len(plan.chunks)} chunks are safe in"):
        run(tmp_path / "full", FillUp())
    assert not list((tmp_path / "full").glob("*.mp4.part"))
    assert np.array_equal(stored(*run(tmp_path / "full")), stored(*run(tmp_path / "whole")))

