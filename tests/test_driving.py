"""A driving video's frames by their time: any rate, any order, what comes behind its end, and constant memory."""
import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from lodestar.pipelines.frames_at_times import ClipFrames, FileFrames, resample_sound
from lodestar.pipelines.metrics.video_reader import Clip, VideoFile
from lodestar.pipelines.take.driving import DrivingVideo, check_mask
from lodestar.pipelines.take.driving_story import DrivingClip, DrivingStory
from lodestar.pipelines.take.fingerprint import Fingerprints
from lodestar.techniques.timeline import Timeline

WIDTH, HEIGHT = 96, 32
BITS = 9


def write(path, frames, fps=16, durations=None, gap=250, b_frames=2, sound=False, form=None):
    """A video whose frames carry their number as bars. `durations`: of each frame, in units of 1 / (fps * 4) s."""
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": str(gap), "bf": str(b_frames), "crf": "10",
                                                                   "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        unit = Fraction(1, fps * 4 if durations else fps)
        stream.codec_context.time_base = unit
        track = container.add_stream("aac", rate=16000, layout="stereo") if sound else None
        time = 0
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts, frame.time_base = time, unit
            time += durations[number] if durations else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track:
            samples = np.stack([np.full(16000, 0.25), np.full(16000, -0.25)]).astype(np.float32)
            tone = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            tone.sample_rate, tone.pts, tone.time_base = 16000, 0, Fraction(1, 16000)
            container.mux(track.encode(tone))
            container.mux(track.encode(None))
    return path


def drawn(number):
    bars = [255 * (number >> bit & 1) for bit in range(BITS)] + [255, 0, 0]
    return np.repeat(np.repeat(np.uint8(bars), WIDTH // len(bars))[None, :, None], HEIGHT, 0).repeat(3, 2).copy()


def numbers(frames):
    """Which frames they are, read from their bars."""
    width = WIDTH // (BITS + 3)
    return [sum(int(frame[..., bit * width + 2:(bit + 1) * width - 2, :].mean() > 0.5) << bit for bit in range(BITS))
            for frame in frames]


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "avi"])
def video(request, tmp_path_factory):
    return str(write(str(tmp_path_factory.mktemp("video") / f"pose.{request.param}"), 240, gap=48))


def test_a_file_gives_the_frames_at_its_own_rate_from_anywhere(video):
    source = FileFrames(video)
    assert round(source.seconds * 16) == 240 and source.fps == 16
    for places in ([0, 1, 2], [37, 38, 39], [190, 238, 239], [0, 5, 120, 121, 239], [200]):
        assert numbers(source.at([Fraction(place, 16) for place in places])) == places


@pytest.mark.parametrize("fps", [10, Fraction(25), Fraction(24000, 1001), 30])
def test_another_rate_gets_the_nearest_frame(fps, tmp_path):
    source = FileFrames(write(str(tmp_path / "pose.mp4"), 64))
    times = [frame / Fraction(fps) for frame in range(int(4 * fps))]
    found = numbers(source.at(times))
    assert all(abs(time - Fraction(number, 16)) <= min(abs(time - Fraction(other, 16)) for other in range(64))
               for time, number in zip(times, found, strict=True))


def test_frames_of_uneven_length_keep_their_time(tmp_path):
    durations = [2, 9, 4, 1, 30, 4, 3, 11] * 6
    begins = [Fraction(sum(durations[:index]), 64) for index in range(len(durations))]
    source = FileFrames(write(str(tmp_path / "pose.mkv"), len(durations), 16, durations))
    times = [Fraction(frame, 25) for frame in range(int(begins[-1] * 25))]
    nearest = [min(abs(time - begin) for begin in begins) for time in times]
    for number, time, least in zip(numbers(source.at(times)), times, nearest, strict=True):
        assert abs(time - begins[number]) <= least + Fraction(1, 500)     # Matroska has milliseconds


def test_a_trimmed_file_begins_and_ends_there(tmp_path):
    path = write(str(tmp_path / "pose.mp4"), 200, sound=True)
    source = FileFrames(path, Fraction(7), Fraction(3))
    assert source.seconds == 3 and numbers(source.at([Fraction(0), Fraction(1, 16), Fraction(2)])) == [112, 113, 144]
    assert FileFrames(path, Fraction(1, 2)).sound()["waveform"].shape[-1] == 8000


def test_bytes_in_memory_are_a_file_too(tmp_path):
    memory = io.BytesIO()
    write(memory, 40, form="mp4")
    assert numbers(FileFrames(memory).at([Fraction(0), Fraction(39, 16)])) == [0, 39]


def test_its_sound_keeps_both_channels(tmp_path):
    sound = FileFrames(write(str(tmp_path / "pose.mp4"), 32, sound=True)).sound()
    assert sound["sample_rate"] == 16000 and sound["waveform"].shape == (1, 2, 16000)
    left, right = sound["waveform"][0, :, 2000:14000].mean(1)
    assert left > 0.2 and right < -0.2
    assert FileFrames(write(str(tmp_path / "mute.mp4"), 8)).sound() is None


@pytest.mark.parametrize(("shape", "size"), [(Fraction(2), (WIDTH * 2, HEIGHT)), (Fraction(3, 4), (WIDTH, 43))])
def test_frames_have_the_proportions_at_which_they_are_shown(tmp_path, shape, size):
    """Pixels that are not square, as of DVDs: the frames become larger, never smaller."""
    path = str(tmp_path / "wide.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = shape
        for number in range(8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn(number), format="rgb24")))
        container.mux(stream.encode(None))
    shown = list(FileFrames(path).at([Fraction(0), Fraction(3, 16)]))
    assert all(frame.shape == (size[1], size[0], 3) for frame in shown)
    reader = VideoFile(path)
    assert (reader.width, reader.height) == size and next(reader.pieces()).shape[1:] == (size[1], size[0], 3)


def test_behind_what_is_transparent_is_white(tmp_path):
    """In memory, and in a file whose codec keeps alpha."""
    frames = torch.zeros(4, HEIGHT, WIDTH, 4)
    frames[:, :, :WIDTH // 2, 3], frames[:, :, WIDTH // 2:, 1] = 1, 1   # black on the left, clear green on the right
    path = str(tmp_path / "clear.mov")
    with av.open(path, "w") as container:
        stream = container.add_stream("qtrle", rate=16)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "argb"
        for frame in (frames * 255).to(torch.uint8).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgba")))
        container.mux(stream.encode(None))
    for shown in (next(ClipFrames(frames, Fraction(16), "pose").at([Fraction(0)])),
                  next(FileFrames(path).at([Fraction(0)])), next(Clip(frames, 16).pieces())[0]):
        assert shown.shape == (HEIGHT, WIDTH, 3)
        assert not shown[:, :WIDTH // 2].any() and (shown[:, WIDTH // 2:] == 1).all()


@pytest.mark.parametrize("channels", [3, 5, 6, 7, 8, 12])
def test_sound_in_memory_keeps_every_channel(channels):
    """The centre of surround sound is where the voice is; together they are no louder than any."""
    for one in set(range(channels)) - {3 if channels in (6, 7, 8) else channels}:     # the bass is left out
        waveform = torch.zeros(channels, 48000)
        waveform[one] = torch.sin(torch.arange(48000) * 0.1)
        mixed = np.concatenate(list(resample_sound(waveform, 48000, 48000)), 1)
        assert mixed[:, 1000:-1000].max() > 0.05
    mixed = np.concatenate(list(resample_sound(torch.full((channels, 4800), 0.5), 48000, 48000)), 1)
    assert mixed.shape == (1 if channels == 12 else 2, 4800) and mixed.max() == pytest.approx(0.5, abs=1e-5)


def clip(frames, fps=16, name="pose"):
    return ClipFrames(torch.arange(frames).float()[:, None, None, None].expand(-1, 2, 2, 3) / 1000, Fraction(fps), name)


def read(driving, first_latent, latents, part="pose", fps=16):
    beside = driving.beside(Timeline(Fraction(fps)), first_latent * 4, latents)[part]
    return [round(float(frame.mean()) * 1000) for frame in beside.read(lambda frame: frame)]


def test_a_chunk_has_the_frames_beside_its_own():
    """A later chunk's first latent is one frame, the last that its context shows."""
    driving = DrivingVideo({"pose": clip(200)})
    assert read(driving, 0, 20) == list(range(77)) and read(driving, 18, 20) == list(range(72, 149))


@pytest.mark.parametrize(("at_end", "wanted"), [
    ("hold", [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4]), ("refuse", [0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4]),
    ("loop", [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2]),
    ("back and forth", [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4])])
def test_what_comes_behind_the_end(at_end, wanted):
    driving = DrivingVideo({"pose": clip(5)}, at_end)
    assert read(driving, 0, 4) == wanted
    if at_end == "refuse":
        driving.check_length(6, Fraction(16))
        with pytest.raises(ValueError, match=r"driving: the take has 7 frames .* ends after 5 .* set at_end"):
            driving.check_length(7, Fraction(16))
    else:
        driving.check_length(1000, Fraction(16))


def test_one_frame_alone_goes_back_and_forth():
    assert read(DrivingVideo({"pose": clip(1)}, "back and forth"), 3, 2) == [0] * 5


def test_parts_of_other_lengths_are_refused_and_other_rates_are_not():
    with pytest.raises(ValueError, match=r"face: lasts 2.00 s .* the pose video 3.00 s \(48\)"):
        DrivingVideo({"pose": clip(48), "face": clip(32)})
    driving = DrivingVideo({"pose": clip(48), "face": clip(90, 30)})
    assert read(driving, 0, 3, "face") == [0, 2, 4, 6, 7, 9, 11, 13, 15]


@pytest.mark.parametrize("frames", [30, 31, 32])
def test_a_part_at_a_quarter_of_the_rate_may_be_a_frame_of_its_own_off(frames):
    DrivingVideo({"pose": clip(124, 60), "face": clip(frames, 15)})
    with pytest.raises(ValueError, match="face: lasts 2.20 s"):
        DrivingVideo({"pose": clip(124, 60), "face": clip(33, 15)})


def test_a_still_mask_stands_for_any_length():
    still = ClipFrames(torch.ones(1, 2, 2, 1), Fraction(16), "the mask", moving=False)
    assert len(DrivingVideo({"pose": clip(48), "mask": still}).beside(Timeline(Fraction(16)), 0, 4)["mask"].read(
        lambda frame: frame)) == 13


def test_a_mask_of_nothing_is_refused_and_read_no_further_than_needed():
    class Counting(ClipFrames):
        read = 0

        def at(self, times):
            for frame in super().at(times):
                self.read += 1
                yield frame

    times = [Fraction(frame, 16) for frame in range(100)]
    half = torch.zeros(100, 4, 4, 1)
    with pytest.raises(ValueError, match="all black, so there is nobody"):
        check_mask(ClipFrames(half, Fraction(16), "the mask"), times)
    with pytest.raises(ValueError, match="all white, so nothing is left"):
        check_mask(ClipFrames(half + 1, Fraction(16), "the mask"), times)
    half[3, :2] = 1
    mask = Counting(half, Fraction(16), "the mask")
    check_mask(mask, times)
    assert mask.read == 4


def test_what_is_no_video_is_refused(tmp_path):
    path = tmp_path / "pose.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"pose.mp4 cannot be read"):
        FileFrames(str(path))


def test_contents_tell_it_not_its_name(tmp_path):
    one, other = (write(str(tmp_path / name), frames) for name, frames in (("a.mp4", 8), ("b.mp4", 9)))
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    same = FileFrames(str(tmp_path / "c.mp4")).identity()
    assert FileFrames(one).identity() == same != FileFrames(other).identity()
    assert FileFrames(one, Fraction(1, 4)).identity() != same


def test_memory_does_not_grow_with_the_video(tmp_path):
    """Of a chunk in the middle of 500 frames as many are decoded as of the same chunk of 100."""
    path = write(str(tmp_path / "long.mp4"), 500, gap=16)
    source, held = FileFrames(path), []
    decode = source.media.pictures

    def counted(container):
        for frame in decode(container):
            held.append(frame.pts)
            yield frame

    source.media.pictures = counted
    assert numbers(source.at([Fraction(place, 16) for place in range(450, 458)])) == list(range(450, 458))
    assert len(held) < 40


def story(*clips):
    """Of (seconds, frames of it, what comes behind them)."""
    videos = [DrivingVideo({"pose": clip(frames)}, at_end) for _, frames, at_end in clips]
    return DrivingStory(tuple(DrivingClip(Fraction(seconds), video, f"line {index + 1}")
                              for index, ((seconds, *_), video) in enumerate(zip(clips, videos, strict=True))))


def test_one_video_follows_the_other_to_the_frame():
    """Chunks that show the border between two have both; what is not shown decides nothing of a chunk."""
    driven = story((0, 20, "refuse"), (1, 8, "loop"), (2, 40, "refuse"))
    assert read(driven, 0, 12) == [*range(16), *range(8), *range(8), *range(13)]
    assert read(driven, 4, 4) == [*range(8), *range(5)] and read(driven, -1, 2) == [0, 0, 0, 0, 0]
    assert driven.frames_at(Fraction(16)) == 72
    clock, other = Timeline(Fraction(16)), story((0, 20, "refuse"), (1, 8, "loop"), (2, 41, "hold"))
    ours, theirs = ([Fingerprints().of(one.times(clock, 0, latents), "x") for latents in (8, 9)]
                    for one in (driven, other))
    assert ours[0] == theirs[0] and ours[1] != theirs[1]


def test_a_clip_that_ends_too_early_is_named_by_its_line():
    driven = story((0, 20, "refuse"), (2, 8, "hold"))
    with pytest.raises(ValueError, match=r"line 1: it is to drive 32 frames \(2.00 s\) and ends after 20"):
        driven.check_length(40, Fraction(16))
    story((0, 20, "refuse"), (1, 8, "hold")).check_length(1000, Fraction(16))
    with pytest.raises(ValueError, match="line 2: it is to drive 32 frames"):
        story((0, 20, "refuse"), (1, 8, "refuse")).check_length(48, Fraction(16))
    story((0, 20, "refuse"), (9, 8, "refuse")).check_length(16, Fraction(16))     # the take ends before the second


def test_what_does_not_drive_together_is_refused():
    with pytest.raises(ValueError, match="line 1: nothing drives the take before it"):
        story((1, 20, "refuse"))
    both = DrivingVideo({"pose": clip(20), "face": clip(20)})
    with pytest.raises(ValueError, match="line 2: it has pose and face, line 1 has pose"):
        DrivingStory((*story((0, 20, "refuse")).clips, DrivingClip(Fraction(1), both, "line 2")))
