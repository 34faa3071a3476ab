"""A take that goes on from a clip: its plan, the driver on a toy model, and the clip read by the take's clock."""
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from lodestar.pipelines.frames_at_times import ClipFrames, FileFrames
from lodestar.pipelines.take.clip_before import ClipBefore
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.plan import Take, plan_take
from lodestar.pipelines.take.take import make_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline
from lodestar.tests.tiny_backbone import (
    CHANNELS,
    RATIO,
    ToyOverlapStream,
    ToySampler,
    ToyStream,
    decode_at_once,
    last_latents,
    toy_encode,
)

WIDTH, HEIGHT, FPS = 32, 16, Fraction(25)
TIMELINE = Timeline(FPS)


def plan_of(frames=100, chunk=29, overlap=9, opening=3, script=""):
    return plan_take(TIMELINE, frames, chunk, overlap, WIDTH, HEIGHT, script).after_clip(opening)


def opening_of(latents):
    return torch.randn(1, CHANNELS, latents, HEIGHT // RATIO, WIDTH // RATIO,
                       generator=torch.Generator().manual_seed(latents))


class Sampler(ToySampler):
    """Goes on from what is there in the first chunk, too."""

    def sample(self, chunk, past):
        self.sampled.append(chunk.index)
        if chunk.index == self.fail_at:
            raise ConnectionError("the plug was pulled")
        yield self.latents(chunk, self.context_of(past))


class Written(VideoWriter):
    """Keeps every frame that a segment is given."""

    def segment(self, path):
        segment, self_shown = super().segment(path), self.__dict__.setdefault("shown", [])
        write = segment.write
        segment.write = lambda group: (self_shown.append(group.clone()), write(group))
        return segment


def make(folder, plan, opening, stream=ToyStream, sampler=None):
    writer = Written(WIDTH, HEIGHT, FPS, 0)
    sampler = sampler or Sampler(WIDTH, HEIGHT, last_latents(3))
    with Journal.open(folder, [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
        result = make_take(plan, sampler, stream, journal, writer, opening=opening)
        latents = journal.latents(0, journal.finished_latents)
    return result, latents, torch.cat(writer.shown)


@pytest.mark.parametrize(("frames", "chunk", "overlap", "opening"), [
    (100, 29, 9, 3), (100, 29, 13, 4), (60, 5, 1, 1), (58, 25, 0, 19), (2, 29, 9, 3), (7, 81, 13, 4), (33, 9, 5, 2)])
def test_the_frames_are_those_behind_the_clip_in_one_sequence(tmp_path, frames, chunk, overlap, opening):
    plan, clip = plan_of(frames, chunk, overlap, opening), opening_of(opening)
    result, latents, shown = make(tmp_path, plan, clip)
    whole = decode_at_once(torch.cat([clip, latents], 2))[TIMELINE.frames_for_latents(opening):]
    assert result.frames == len(shown) == frames - 1 == plan.new_frames
    assert torch.equal(shown, whole[:frames - 1]) and latents.shape[2] == plan.total_latents - 1


def test_a_vae_without_a_carried_memory_shows_nothing_of_the_clip_either(tmp_path):
    plan, clip = plan_of(), opening_of(3)
    _, latents, shown = make(tmp_path, plan, clip, ToyOverlapStream)
    stream = ToyOverlapStream()
    portions = [clip, *latents.split([chunk.new_latents for chunk in plan.chunks], 2)]
    whole = torch.cat([frames for portion in portions for frames in stream.push(portion)])
    assert torch.equal(shown, whole[9:][:plan.new_frames])


@pytest.mark.parametrize("context", [(last_latents(3), 0), (lambda past: toy_encode(past.frames(9)), 9)])
@pytest.mark.parametrize("fail_at", [0, 1, 2, 4])
def test_resumed_it_is_the_same_take(tmp_path, fail_at, context):
    plan, clip = plan_of(120, 29, 13, 4), opening_of(4)
    _, latents, shown = make(tmp_path / "calm", plan, clip, sampler=Sampler(WIDTH, HEIGHT, *context))
    with pytest.raises(ConnectionError):
        make(tmp_path / "cut", plan, clip, sampler=Sampler(WIDTH, HEIGHT, *context, fail_at=fail_at))
    again = Sampler(WIDTH, HEIGHT, *context)
    result, resumed, rest = make(tmp_path / "cut", plan, clip, sampler=again)
    assert again.sampled == list(range(fail_at, len(plan.chunks))) and result.frames == plan.new_frames
    assert torch.equal(resumed, latents) and torch.equal(rest, shown[len(shown) - len(rest):])


def test_the_first_chunk_repeats_the_clip_as_later_ones_do_the_take():
    plain, plan = plan_take(TIMELINE, 100, 29, 9, WIDTH, HEIGHT), plan_of(script="0:00 she smiles\n0:02 she laughs")
    first, *later = plan.chunks
    assert (first.first_latent, first.context_latents, first.latents, first.first_new_latent) == (-2, 3, 8, 1)
    assert all(chunk.context_latents == 3 for chunk in later) and plan.total_latents == plain.total_latents
    spans = [plan.frames_of(chunk) for chunk in plan.chunks]
    assert spans[0][0] == 1 and spans[-1][1] == 100
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))
    assert [chunk.prompt for chunk in plan.chunks][0] == "she smiles" and plan.chunks[-1].prompt == "she laughs"
    assert [plan.number_of(chunk) for chunk in plan.chunks] == [chunk.index + 1 for chunk in plan.chunks]
    assert plan.after_clip(3) is plan and plain.number_of(plain.chunks[0]) == 0 and plain.new_frames == 100
    outside = plan_of(overlap=0, opening=19)
    assert (outside.chunks[0].first_latent, outside.chunks[0].context_latents) == (1, 0)


def test_one_frame_of_speech_is_the_clips_last_and_no_take():
    with pytest.raises(ValueError, match="the take has 1 frames; the audio must last at least 2 frames"):
        plan_of(frames=1)


def test_the_summary_of_both():
    take = Take(plan_of(), None, clip_frames=50)
    assert take.video_frames == 149 and Take(plan_of(), None).length_note == ""
    assert "clip of 50 frames at this rate (2.00 s): 149 frames (5.96 s) in all" in take.length_note


def grey(index, count):
    return np.full((HEIGHT, WIDTH, 3), round(255 * index / count), np.uint8)


def write_clip(path, times, rate=30, sound=None, count=None):
    """An MP4 or MKV with a grey frame at each of `times` (in 1/600 s) that tells its number, and perhaps a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "0", "g": "15"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.codec_context.time_base = Fraction(1, 600)
        if sound is not None:
            track = container.add_stream("aac", rate=16000, layout="mono")
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(index, count or len(times)), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 600)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def clip_of(source, fps=Fraction(16)):
    return ClipBefore(source, fps, lambda picture: picture)


def shades(frames, count):
    return [round(float(frame.mean()) * count) for frame in frames]


class Segment:
    """What takes a clip's frames one by one."""

    def __init__(self):
        self.frames = []

    def write(self, frames):
        assert len(frames) == 1
        self.frames.append(frames[0])


def copied(clip):
    segment = Segment()
    clip.write(segment, lambda: None)
    return segment.frames


@pytest.mark.parametrize(("fps", "frames"), [(30, 60), (16, 32), (25, 50)])
def test_a_clip_of_another_rate_is_read_by_the_takes_clock(tmp_path, fps, frames):
    file = write_clip(tmp_path / "clip.mp4", [20 * index for index in range(60)])
    clip = clip_of(FileFrames(file), Fraction(fps))
    expected = [min(int(np.ceil(frame / fps * 30 - 0.5)), 59) for frame in range(frames)]
    assert clip.frames == frames and clip.seconds == 2 and shades(copied(clip), 60) == expected
    assert shades(clip.last_frames(9), 60) == expected[-9:]
    memory = clip_of(ClipFrames(torch.stack([torch.from_numpy(grey(index, 60)) / 255 for index in range(60)]),
                                Fraction(30), "the clip"), Fraction(fps))
    assert memory.frames == frames and shades(copied(memory), 60) == expected


def test_a_clip_of_a_varying_rate_is_read_by_its_times(tmp_path):
    """The first second at 30 frames a second, the next at 10."""
    times = [20 * index for index in range(30)] + [600 + 60 * index for index in range(10)]
    clip = clip_of(FileFrames(write_clip(tmp_path / "clip.mkv", times)), Fraction(10))
    found = shades(copied(clip), 40)
    assert len(found) == clip.frames and abs(clip.frames - 20) <= 1
    assert found[:10] == [3 * index for index in range(10)] and found[10:20] == list(range(30, 40))
    assert shades(clip.last_frames(5), 40) == found[-5:]


def waves(track):
    return torch.cat(list(track.pieces()), 1)


def test_its_sound_comes_before_the_speech_and_silence_where_it_has_none(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    speech = {"waveform": torch.full((1, 1, 4800), 0.25), "sample_rate": 48000}
    file = write_clip(tmp_path / "clip.mp4", [20 * index for index in range(60)], sound=tone)
    track = clip_of(FileFrames(file)).with_sound(speech)
    found = waves(track)
    before = round(31 / 16 * 48000)     # the speech begins with the clip's last frame
    assert (track.sample_rate, track.channels) == (48000, 2) and found.shape == (2, before + 4800)
    assert (found[:, before:] == 0.25).all() and 0.3 < found[0, 4800:before - 4800].square().mean().sqrt() < 0.4
    silent = clip_of(FileFrames(write_clip(tmp_path / "silent.mp4", [20 * index for index in range(60)])))
    found = waves(silent.with_sound(speech))
    assert found.shape == (1, before + 4800) and not found[:, :before].any() and silent.with_sound(None) is None
    memory = clip_of(ClipFrames(torch.zeros(60, HEIGHT, WIDTH, 3), Fraction(30), "the clip", {
        "waveform": torch.from_numpy(tone).float()[None, None], "sample_rate": 16000}))
    found = waves(memory.with_sound(speech))
    assert found.shape == (2, before + 4800) and 0.3 < found[1, 4800:before - 4800].square().mean().sqrt() < 0.4
    assert waves(memory.with_sound(None)).shape == (2, before)


def test_both_are_joined_to_one_file(tmp_path):
    clip = clip_of(FileFrames(write_clip(tmp_path / "clip.mp4", [24 * index for index in range(50)], 25)), FPS)
    plan, opening = plan_of(60), opening_of(3)
    result, *_ = make(tmp_path / "take", plan, opening)
    writer = VideoWriter(WIDTH, HEIGHT, FPS, 0)
    with writer.segment(tmp_path / "before.mp4") as segment:
        clip.write(segment, lambda: None)
    speech = {"waveform": torch.zeros(1, 1, 60 * 640), "sample_rate": 16000}
    path = writer.finish([tmp_path / "before.mp4", *result.segments], clip.with_sound(speech), {}, tmp_path / "all.mp4")
    with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 50 + 59 and shades([torch.from_numpy(frame) / 255 for frame in frames[:50]], 50) == list(
        range(50))
    with av.open(str(path)) as video:
        samples = sum(frame.samples for frame in video.decode(audio=0))
        assert abs(samples / 16000 - (49 / 25 + 2.4)) < 0.1
