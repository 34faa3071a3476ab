"""The driver on a toy model: a take made in one go, interrupted anywhere, resumed, changed; and what it keeps alive."""
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from lodestar.pipelines.safe_files import NotReadable
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.plan import plan_take
from lodestar.pipelines.take.take import make_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline
from lodestar.tests.tiny_backbone import ToyModel, ToyOverlapStream, ToyStream, decode_at_once, toy_encode

WIDTH, HEIGHT, FPS = 32, 16, Fraction(25)
LOSSLESS = 0  # crf: what is compared is then what the driver wrote, whatever x264 decides
TIMELINE = Timeline(FPS)
STORY = "0:00 she smiles\n0:02 she laughs a lot"


def plan_of(frames=100, chunk=29, overlap=9, script=STORY):
    return plan_take(TIMELINE, frames, chunk, overlap, WIDTH, HEIGHT, script)


def latent_context(tail):
    return tail.latents(3)


def pixel_context(tail):
    return toy_encode(tail.frames(9))


class Take:
    """One run over a folder; keeps what the driver was seen to do."""

    def __init__(self, folder, plan, context_of=latent_context, tail_frames=0, stream=ToyStream, **options):
        self.model = ToyModel(WIDTH, HEIGHT, fail_at=options.pop("fail_at", None))
        self.model.sampled = options.pop("sampled", self.model.sampled)
        self.stream, self.streams, self.done = stream, [], []
        also = options.pop("lose", lambda done: None)
        with Journal.open(folder, [plan.contract_of(chunk) for chunk in plan.chunks]) as journal:
            self.note = journal.note
            self.result = make_take(plan, self.model, self.open_stream, journal,
                                    VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS),
                                    context_of=context_of, tail_frames=tail_frames,
                                    on_chunk=lambda done: (self.done.append(done), also(done)), **options)
            self.latents = journal.latents(0, plan.total_latents)

    def open_stream(self):
        self.streams.append(self.stream())
        return self.streams[-1]


def pictures(take):
    """Every frame of the segments, as stored (yuv420p)."""
    frames = []
    for path in take.result.segments:
        with av.open(str(path)) as segment:
            frames += [frame.to_ndarray() for frame in segment.decode(video=0)]
    return np.stack(frames)


def finish(take, folder):
    speech = {"waveform": torch.zeros(1, 1, 16000), "sample_rate": 16000}
    path = VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS).finish(take.result.segments, speech, {}, folder / "take.mp4")
    with av.open(str(path)) as video:
        return np.stack([frame.to_ndarray() for frame in video.decode(video=0)])


def stop_after(calls):
    """A check_cancelled that raises on its n-th call: between chunks or in the middle of a decode."""
    count = iter(range(calls))

    def check():
        if next(count, None) is None:
            raise KeyboardInterrupt
    return check


@pytest.mark.parametrize("frames, chunk, overlap", [(1, 29, 9), (29, 29, 9), (100, 29, 9), (103, 25, 0), (60, 5, 1),
                                                    (50, 81, 13)])
def test_frames_are_those_of_the_whole_latent_sequence(tmp_path, frames, chunk, overlap):
    plan = plan_of(frames, chunk, overlap, script="")
    shown = []

    class Writer(VideoWriter):
        def segment(self, path):
            segment = super().segment(path)
            write = segment.write
            segment.write = lambda group: (shown.append(group.clone()), write(group))
            return segment

    with Journal.open(tmp_path, [plan.contract_of(chunk) for chunk in plan.chunks]) as journal:
        result = make_take(plan, ToyModel(WIDTH, HEIGHT), ToyStream, journal, Writer(WIDTH, HEIGHT, FPS),
                           context_of=lambda tail: tail.latents(max(plan.chunks[-1].context_latents, 1)))
        whole = decode_at_once(journal.latents(0, plan.total_latents))
    assert result.frames == frames and result.made == len(plan.chunks)
    assert torch.equal(torch.cat(shown), whole[:frames])


def test_overlap_is_not_made_twice(tmp_path):
    plan = plan_of()
    take = Take(tmp_path, plan)
    assert take.latents.shape[2] == plan.total_latents
    assert sum(done.latents.shape[2] for done in take.done) == plan.total_latents


@pytest.mark.parametrize("context_of, tail_frames", [(latent_context, 0), (pixel_context, 9)])
@pytest.mark.parametrize("chunk", range(5))
def test_resumed_equals_uninterrupted(tmp_path, chunk, context_of, tail_frames):
    plan = plan_of()
    assert len(plan.chunks) == 5
    whole = Take(tmp_path / "whole", plan, context_of, tail_frames)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, context_of, tail_frames, fail_at=chunk)
    resumed = Take(tmp_path / "cut", plan, context_of, tail_frames)
    assert resumed.note == (f"resuming at chunk {chunk + 1} of 5" if chunk else "starting with chunk 1 of 5")
    assert resumed.model.sampled == list(range(chunk, 5)) and resumed.result.made == 5 - chunk
    assert torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(finish(resumed, tmp_path / "cut"), finish(whole, tmp_path / "whole"))


@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 9])
def test_resumed_where_the_hand_over_reaches_over_several_chunks(tmp_path, chunk):
    plan = plan_of(60, 5, 1, script="")   # one new latent per chunk
    whole = Take(tmp_path / "whole", plan, pixel_context, 9)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, pixel_context, 9, fail_at=chunk)
    resumed = Take(tmp_path / "cut", plan, pixel_context, 9)
    assert torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(pictures(resumed), pictures(whole))


@pytest.mark.parametrize("chunk, size, overlap", [(1, 29, 9), (2, 29, 9), (3, 29, 9), (4, 9, 5), (9, 9, 5)])
def test_resumed_over_a_vae_that_decodes_push_by_push(tmp_path, chunk, size, overlap):
    plan = plan_of(100, size, overlap, script="")
    whole = Take(tmp_path / "whole", plan, pixel_context, 9, ToyOverlapStream)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, pixel_context, 9, ToyOverlapStream, fail_at=chunk)
    resumed = Take(tmp_path / "cut", plan, pixel_context, 9, ToyOverlapStream)
    assert torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(pictures(resumed), pictures(whole))


@pytest.mark.parametrize("calls", [0, 1, 3, 5, 9, 14, 18])
def test_cancelled_in_the_middle_of_a_decode_and_resumed(tmp_path, calls):
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan)
    with pytest.raises(KeyboardInterrupt):
        Take(tmp_path / "cut", plan, check_cancelled=stop_after(calls))
    assert not list((tmp_path / "cut").glob("*.part"))
    assert np.array_equal(pictures(Take(tmp_path / "cut", plan)), pictures(whole))


@pytest.mark.parametrize("calls", range(4))
def test_cancelled_while_the_decoder_is_brought_back_and_resumed(tmp_path, calls):
    """The warm-up decodes up to a chunk and more: it says so, and a cancel comes through at every group of frames."""
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, fail_at=2)
    told, sampled = [], []
    with pytest.raises(KeyboardInterrupt):
        Take(tmp_path / "cut", plan, check_cancelled=stop_after(calls), on_replay=lambda *at: told.append(at),
             sampled=sampled)
    assert sampled == []
    assert told[0] == (0, told[0][1]) and all(0 <= at < end == told[0][1] for at, end in told)
    resumed = Take(tmp_path / "cut", plan)
    assert resumed.note == "resuming at chunk 3 of 5" and np.array_equal(pictures(resumed), pictures(whole))


def test_frames_are_reported_as_they_are_written(tmp_path):
    told = []
    take = Take(tmp_path, plan_of(), on_frames=lambda chunk, frames: told.append((chunk.index, frames)))
    ends = [max(frames for index, frames in told if index == chunk) for chunk in range(5)]
    assert told == sorted(told) and len(told) > 10 and sum(ends) == take.result.frames == 100


def test_nothing_is_sampled_for_a_folder_that_is_gone(tmp_path):
    def lose(done):
        if done.chunk.index == 1:
            shutil.rmtree(tmp_path / "a")

    model = []
    with pytest.raises(NotReadable, match="a cannot be read"):
        Take(tmp_path / "a", plan_of(), check_cancelled=lambda: None, lose=lose, sampled=model)
    assert model == [0, 1]


def test_a_short_warm_up_would_show(tmp_path, monkeypatch):
    """The toy VAE is hard enough: without its full reach, resumed frames differ. So the tests above mean something."""
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, fail_at=3)
    monkeypatch.setattr(ToyStream, "warmup_latents", -4)
    assert not np.array_equal(pictures(Take(tmp_path / "cut", plan)), pictures(whole))


def test_a_changed_prompt_makes_its_chunk_and_later_ones_again(tmp_path):
    before = plan_of()
    Take(tmp_path / "a", before)
    after = plan_of(script=STORY + " and waves")
    resumed = Take(tmp_path / "a", after)
    assert resumed.note == "prompt changed: chunks from 3 on are made again"
    assert resumed.model.sampled == [2, 3, 4]
    assert np.array_equal(pictures(resumed), pictures(Take(tmp_path / "b", after)))


def test_a_longer_speech_keeps_the_chunks_that_are_the_same(tmp_path):
    Take(tmp_path / "a", plan_of(100, script=""))
    longer = plan_of(140, script="")
    resumed = Take(tmp_path / "a", longer)
    assert "chunk layout changed" in resumed.note and resumed.model.sampled[0] == 4
    assert np.array_equal(pictures(resumed), pictures(Take(tmp_path / "b", longer)))


def test_a_finished_take_makes_nothing_again(tmp_path):
    plan = plan_of()
    Take(tmp_path, plan)
    again = Take(tmp_path, plan)
    assert again.result.made == 0 and not again.model.sampled and again.streams[0].decoded_latents == 0
    assert again.note == "all 5 chunks are finished: only the final file is to be written"


def test_tail_reaches_over_chunks_and_hooks_see_every_chunk(tmp_path):
    plan = plan_of(60, 5, 1, script="")   # one new latent per chunk: a tail of 3 spans three chunks
    seen = []
    Take(tmp_path, plan, lambda tail: seen.append((tail.latents(3), tail.frames(9))) or tail.latents(1), 9)
    with Journal.open(tmp_path, [plan.contract_of(chunk) for chunk in plan.chunks]) as journal:
        latents = journal.latents(0, plan.total_latents)
    whole = decode_at_once(latents)
    for made, (tail, frames) in enumerate(seen, start=2):
        assert torch.equal(tail, latents[:, :, max(made - 3, 0):made])
        end = TIMELINE.frames_for_latents(made)
        assert torch.equal(frames, whole[max(end - 9, 0):end])


def test_tail_frames_are_bounded(tmp_path):
    with pytest.raises(ValueError, match="tail_frames=0"):
        Take(tmp_path, plan_of(), pixel_context, tail_frames=0)


def test_on_chunk_comes_after_the_chunk_is_safe(tmp_path):
    plan = plan_of()
    found = []
    with Journal.open(tmp_path, [plan.contract_of(chunk) for chunk in plan.chunks]) as journal:
        make_take(plan, ToyModel(WIDTH, HEIGHT), ToyStream, journal, VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS),
                  context_of=latent_context,
                  on_chunk=lambda done: found.append((done.chunk.index, journal.finished,
                                                      torch.equal(done.latents, done.tail.latents(
                                                          done.chunk.new_latents)))))
    assert found == [(index, index + 1, True) for index in range(5)]


@pytest.mark.parametrize("tail_frames", [0, 9])
def test_memory_does_not_grow_with_the_take(tmp_path, tail_frames):
    context_of = pixel_context if tail_frames else latent_context
    most = []
    for frames in (100, 500):
        take = Take(tmp_path / str(frames), plan_of(frames, script=""), context_of, tail_frames)
        most.append(take.streams[0].most_alive_frames)
    assert most[0] == most[1] <= 2 * 8  # the group in hand and the one being decoded


def test_twenty_chunks_are_ten_times_two(tmp_path):
    counts = {}
    for chunks in (2, 20):
        plan = plan_of(TIMELINE.frames_for_latents(8 * chunks), 29, 0, script="")
        take = Take(tmp_path / str(chunks), plan, latent_context)
        stream, = take.streams
        assert stream.decoded_latents == plan.total_latents and stream.peeks == 0  # nothing is decoded twice
        counts[chunks] = (len(take.model.sampled), stream.decoded_latents)
    assert counts[20] == tuple(10 * count for count in counts[2])


def test_nan_from_the_sampler_is_refused(tmp_path):
    def broken(chunk, context):
        return torch.full((1, 3, chunk.latents, 2, 4), torch.nan)

    plan = plan_of()
    with Journal.open(tmp_path, [plan.contract_of(chunk) for chunk in plan.chunks]) as journal, \
            pytest.raises(ValueError, match="chunk 1 came out of the sampler with NaN"):
        make_take(plan, broken, ToyStream, journal, VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS))


def test_a_wrong_window_is_refused(tmp_path):
    plan = plan_of()
    with Journal.open(tmp_path, [plan.contract_of(chunk) for chunk in plan.chunks]) as journal, \
            pytest.raises(ValueError, match=r"\(1, 3, 3, 2, 4\); wanted is \(1, C, 8, h, w\)"):
        make_take(plan, lambda chunk, context: torch.zeros(1, 3, 3, 2, 4), ToyStream, journal,
                  VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS))
