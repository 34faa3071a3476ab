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
from lodestar.pipelines.take.protocols import Events
from lodestar.pipelines.take.take import make_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline
from lodestar.tests.tiny_backbone import (
    ToyOverlapStream,
    ToyRollingSampler,
    ToySampler,
    ToyStream,
    decode_at_once,
    last_latents,
    toy_encode,
)

WIDTH, HEIGHT, FPS = 32, 16, Fraction(25)
LOSSLESS = 0  # crf: what is compared is then what the driver wrote, whatever x264 decides
TIMELINE = Timeline(FPS)
STORY = "0:00 she smiles\n0:02 she laughs a lot"


def plan_of(frames=100, chunk=29, overlap=9, script=STORY):
    return plan_take(TIMELINE, frames, chunk, overlap, WIDTH, HEIGHT, script)


latent_context = last_latents(3)


def pixel_context(past):
    return toy_encode(past.frames(9))


SAMPLERS = [lambda **options: ToySampler(WIDTH, HEIGHT, latent_context, **options),
            lambda **options: ToySampler(WIDTH, HEIGHT, pixel_context, 9, **options),
            lambda **options: ToyRollingSampler(WIDTH, HEIGHT, latent_context, **options),
            lambda **options: ToyRollingSampler(WIDTH, HEIGHT, pixel_context, 9, **options)]
LATENTS, PIXELS, ROLLING, ROLLING_PIXELS = range(4)


class Watch(Events):
    """Keeps what happens, and raises what it is given to raise."""

    def __init__(self, cancel_after=None, on_chunk=lambda chunk: None):
        self.left, self.on_chunk = cancel_after, on_chunk
        self.chunks, self.written, self.replayed = [], [], []

    def check_cancelled(self):
        """Between chunks or in the middle of a decode."""
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    def latents_replayed(self, latents, total):
        self.replayed.append((latents, total))

    def frames_written(self, chunk, frames):
        self.written.append((chunk.index, frames))

    def chunk_finished(self, chunk):
        self.chunks.append(chunk.index)
        self.on_chunk(chunk)


class Take:
    """One run over a folder; keeps what the driver was seen to do."""

    def __init__(self, folder, plan, sampler=None, stream=ToyStream, events=None):
        self.sampler = sampler or SAMPLERS[LATENTS]()
        self.stream, self.streams = stream, []
        with Journal.open(folder, [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
            self.note = journal.note
            self.result = make_take(plan, self.sampler, self.open_stream, journal,
                                    VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS), events)
            self.latents, self.pieces = journal.latents(0, plan.total_latents), journal.pieces

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

    with Journal.open(tmp_path, [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
        sampler = ToyRollingSampler(WIDTH, HEIGHT, last_latents(max(plan.overlap_latents, 1)))
        result = make_take(plan, sampler, ToyStream, journal, Writer(WIDTH, HEIGHT, FPS))
        whole = decode_at_once(journal.latents(0, plan.total_latents))
    assert result.frames == frames and result.made == len(plan.chunks)
    assert torch.equal(torch.cat(shown), whole[:frames])


def test_overlap_is_not_made_twice(tmp_path):
    plan = plan_of()
    for sampler in (LATENTS, ROLLING):
        take = Take(tmp_path / str(sampler), plan, SAMPLERS[sampler]())
        assert take.latents.shape[2] == plan.total_latents == sum(take.pieces)
        assert len(take.pieces) > len(plan.chunks) if sampler == ROLLING else take.pieces == [
            chunk.new_latents for chunk in plan.chunks]


@pytest.mark.parametrize("sampler", range(4))
@pytest.mark.parametrize("chunk", range(5))
def test_resumed_equals_uninterrupted(tmp_path, chunk, sampler):
    plan = plan_of()
    assert len(plan.chunks) == 5
    whole = Take(tmp_path / "whole", plan, SAMPLERS[sampler]())
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[sampler](fail_at=chunk))
    resumed = Take(tmp_path / "cut", plan, SAMPLERS[sampler]())
    assert resumed.note == (f"resuming at chunk {chunk + 1} of 5" if chunk else "starting with chunk 1 of 5")
    assert resumed.sampler.sampled == list(range(chunk, 5)) and resumed.result.made == 5 - chunk
    assert torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(finish(resumed, tmp_path / "cut"), finish(whole, tmp_path / "whole"))


@pytest.mark.parametrize("sampler", [PIXELS, ROLLING_PIXELS])
@pytest.mark.parametrize("chunk", [1, 2, 5, 8, 9])
def test_resumed_where_the_hand_over_reaches_over_several_chunks(tmp_path, chunk, sampler):
    plan = plan_of(60, 5, 1, script="")   # one new latent per chunk
    whole = Take(tmp_path / "whole", plan, SAMPLERS[sampler]())
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[sampler](fail_at=chunk))
    resumed = Take(tmp_path / "cut", plan, SAMPLERS[sampler]())
    assert torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(pictures(resumed), pictures(whole))


@pytest.mark.parametrize("sampler", [PIXELS, ROLLING_PIXELS])
@pytest.mark.parametrize("chunk, size, overlap", [(1, 29, 9), (2, 29, 9), (3, 29, 9), (4, 9, 5), (9, 9, 5)])
def test_resumed_over_a_vae_that_decodes_push_by_push(tmp_path, chunk, size, overlap, sampler):
    """Its frames depend on how the latents were cut into pieces: a resumed take pushes the same pieces."""
    plan = plan_of(100, size, overlap, script="")
    whole = Take(tmp_path / "whole", plan, SAMPLERS[sampler](), ToyOverlapStream)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[sampler](fail_at=chunk), ToyOverlapStream)
    resumed = Take(tmp_path / "cut", plan, SAMPLERS[sampler](), ToyOverlapStream)
    assert torch.equal(resumed.latents, whole.latents)
    assert np.array_equal(pictures(resumed), pictures(whole))


def test_without_the_state_a_resumed_take_would_be_another(tmp_path, monkeypatch):
    """So the tests above mean something: the toy's state is not in its latents."""
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan, SAMPLERS[ROLLING]())
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[ROLLING](fail_at=3))
    monkeypatch.setattr(ToyRollingSampler, "restore", lambda self, state, past: None)
    assert not torch.equal(Take(tmp_path / "cut", plan, SAMPLERS[ROLLING]()).latents, whole.latents)


@pytest.mark.parametrize("damage", ["gone", "altered", "the last chunk's", "another format"])
def test_where_the_state_is_not_what_was_written_the_take_starts_over_and_says_so(tmp_path, damage):
    plan = plan_of()
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[ROLLING](fail_at=2))
    before = (tmp_path / "cut" / "state_0001.safetensors").read_bytes()
    if damage == "the last chunk's":
        with pytest.raises(ConnectionError):
            Take(tmp_path / "cut", plan, SAMPLERS[ROLLING](fail_at=3))
    path, = (tmp_path / "cut").glob("state_*")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"altered": before[:-1] + bytes([before[-1] ^ 1]), "the last chunk's": before,
                          "another format": b"state"}[damage])
    whole, again = (Take(tmp_path / name, plan, SAMPLERS[ROLLING]()) for name in ("whole", "cut"))
    finished = 3 if damage == "the last chunk's" else 2
    assert again.note == f"what chunk {finished} left for the next one is not on disk: all 5 chunks are made again"
    assert again.sampler.sampled == list(range(5)) and torch.equal(again.latents, whole.latents)


def test_a_change_behind_the_newest_state_starts_over_and_says_both(tmp_path):
    """The state of chunk 2 is not kept once chunk 3 is finished; the last chunk alone can be made again by itself."""
    Take(tmp_path, plan_of(), SAMPLERS[ROLLING]())
    assert [path.name for path in tmp_path.glob("state_*")] == ["state_0003.safetensors"]
    with Journal.open(tmp_path, [plan_of(script=STORY + " and waves").fingerprint_of(chunk)
                                 for chunk in plan_of(script=STORY + " and waves").chunks]) as journal:
        assert journal.note == ("prompt changed, and what chunk 2 left for the next one is not on disk: all 5 chunks "
                                "are made again")
    last = plan_of(99)
    resumed = Take(tmp_path, last, SAMPLERS[ROLLING]())
    assert resumed.note == "chunk layout changed: chunk 5 is made again" and resumed.sampler.sampled == [4]
    assert torch.equal(resumed.latents, Take(tmp_path / "whole", last, SAMPLERS[ROLLING]()).latents)


@pytest.mark.parametrize("sampler", [LATENTS, ROLLING])
@pytest.mark.parametrize("calls", [0, 1, 3, 5, 9, 14, 18])
def test_cancelled_in_the_middle_of_a_decode_and_resumed(tmp_path, calls, sampler):
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan, SAMPLERS[sampler]())
    with pytest.raises(KeyboardInterrupt):
        Take(tmp_path / "cut", plan, SAMPLERS[sampler](), events=Watch(cancel_after=calls))
    assert not list((tmp_path / "cut").glob("*.part"))
    assert np.array_equal(pictures(Take(tmp_path / "cut", plan, SAMPLERS[sampler]())), pictures(whole))


@pytest.mark.parametrize("calls", range(4))
def test_cancelled_while_the_decoder_is_brought_back_and_resumed(tmp_path, calls):
    """The warm-up decodes up to a chunk and more: it says so, and a cancel comes through at every group of frames."""
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[LATENTS](fail_at=2))
    events, sampler = Watch(cancel_after=calls), SAMPLERS[LATENTS]()
    with pytest.raises(KeyboardInterrupt):
        Take(tmp_path / "cut", plan, sampler, events=events)
    said = events.replayed
    assert sampler.sampled == []
    assert said[0] == (0, said[0][1]) and all(0 <= at < end == said[0][1] for at, end in said)
    resumed = Take(tmp_path / "cut", plan)
    assert resumed.note == "resuming at chunk 3 of 5" and np.array_equal(pictures(resumed), pictures(whole))


def test_frames_are_reported_as_they_are_written(tmp_path):
    events = Watch()
    take = Take(tmp_path, plan_of(), SAMPLERS[ROLLING](), events=events)
    ends = [max(frames for index, frames in events.written if index == chunk) for chunk in range(5)]
    assert events.written == sorted(events.written) and len(events.written) > 10
    assert sum(ends) == take.result.frames == 100


def test_nothing_is_sampled_for_a_folder_that_is_gone(tmp_path):
    sampler = SAMPLERS[LATENTS]()
    with pytest.raises(NotReadable, match="a cannot be read"):
        Take(tmp_path / "a", plan_of(), sampler, events=Watch(
            on_chunk=lambda chunk: chunk.index == 1 and shutil.rmtree(tmp_path / "a")))
    assert sampler.sampled == [0, 1]


def test_a_short_warm_up_would_show(tmp_path, monkeypatch):
    """The toy VAE is hard enough: without its full reach, resumed frames differ. So the tests above mean something."""
    plan = plan_of()
    whole = Take(tmp_path / "whole", plan)
    with pytest.raises(ConnectionError):
        Take(tmp_path / "cut", plan, SAMPLERS[LATENTS](fail_at=3))
    monkeypatch.setattr(ToyStream, "warmup_latents", -4)
    assert not np.array_equal(pictures(Take(tmp_path / "cut", plan)), pictures(whole))


def test_a_changed_prompt_makes_chunks_again_from_its_own(tmp_path):
    before = plan_of()
    Take(tmp_path / "a", before)
    after = plan_of(script=STORY + " and waves")
    resumed = Take(tmp_path / "a", after)
    assert resumed.note == "prompt changed: chunks from 3 on are made again"
    assert resumed.sampler.sampled == [2, 3, 4]
    assert np.array_equal(pictures(resumed), pictures(Take(tmp_path / "b", after)))


def test_a_longer_speech_keeps_the_chunks_that_are_the_same(tmp_path):
    Take(tmp_path / "a", plan_of(100, script=""))
    longer = plan_of(140, script="")
    resumed = Take(tmp_path / "a", longer)
    assert "chunk layout changed" in resumed.note and resumed.sampler.sampled[0] == 4
    assert np.array_equal(pictures(resumed), pictures(Take(tmp_path / "b", longer)))


def test_a_finished_take_makes_nothing_again(tmp_path):
    plan = plan_of()
    Take(tmp_path, plan)
    again = Take(tmp_path, plan)
    assert again.result.made == 0 and not again.sampler.sampled and again.streams[0].decoded_latents == 0
    assert again.note == "all 5 chunks are finished: only the final file is to be written"


def test_the_past_reaches_over_chunks_and_pieces(tmp_path):
    plan = plan_of(60, 5, 1, script="")   # one new latent per chunk: three of them span three chunks
    seen, rolling = [], []

    class Looking(ToyRollingSampler):
        def sample(self, chunk, past):
            for number, piece in enumerate(super().sample(chunk, past)):
                if number or chunk.index:
                    rolling.append((past.latents(3), past.first_latents(2), past.frames(9)))
                yield piece

    Take(tmp_path / "a", plan, ToySampler(
        WIDTH, HEIGHT, lambda past: seen.append((past.latents(3), past.first_latents(2), past.frames(9)))
        or past.latents(1), 9))
    take = Take(tmp_path / "b", plan_of(100, 29, 9), Looking(WIDTH, HEIGHT, past_frames=9))
    with Journal.open(tmp_path / "a", [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
        latents = journal.latents(0, plan.total_latents)
    for whole, ends, looks in ((latents, range(2, plan.total_latents), seen),
                               (take.latents, np.cumsum(take.pieces)[:-1].tolist(), rolling)):
        frames = decode_at_once(whole)
        for done, (last, first, shown) in zip(ends, looks, strict=True):
            assert torch.equal(last, whole[:, :, max(done - 3, 0):done])
            assert torch.equal(first, whole[:, :, :min(done, 2)])
            end = TIMELINE.frames_for_latents(done)
            assert torch.equal(shown, frames[max(end - 9, 0):end])


def test_past_frames_are_bounded(tmp_path):
    with pytest.raises(ValueError, match="past_frames=0"):
        Take(tmp_path, plan_of(), ToySampler(WIDTH, HEIGHT, pixel_context))


def test_a_chunk_is_safe_before_it_is_called_finished(tmp_path):
    plan = plan_of()
    found = []
    with Journal.open(tmp_path, [plan.fingerprint_of(chunk) for chunk in plan.chunks]) as journal:
        make_take(plan, SAMPLERS[ROLLING](), ToyStream, journal, VideoWriter(WIDTH, HEIGHT, FPS, LOSSLESS),
                  Watch(on_chunk=lambda chunk: found.append((chunk.index, journal.finished))))
    assert found == [(index, index + 1) for index in range(5)]


@pytest.mark.parametrize("sampler", range(4))
def test_memory_does_not_grow_with_the_take(tmp_path, sampler):
    most = []
    for frames in (100, 500):
        take = Take(tmp_path / str(frames), plan_of(frames, script=""), SAMPLERS[sampler]())
        most.append(take.streams[0].most_alive_frames)
    assert most[0] == most[1] <= 2 * 8  # the group in hand and the one being decoded


def test_twenty_chunks_are_ten_times_two(tmp_path):
    counts = {}
    for chunks in (2, 20):
        plan = plan_of(TIMELINE.frames_for_latents(8 * chunks), 29, 0, script="")
        take = Take(tmp_path / str(chunks), plan)
        stream, = take.streams
        assert stream.decoded_latents == plan.total_latents and stream.peeks == 0  # nothing is decoded twice
        counts[chunks] = (len(take.sampler.sampled), stream.decoded_latents)
    assert counts[20] == tuple(10 * count for count in counts[2])


class Given(ToySampler):
    """Yields what it is given."""

    def __init__(self, *pieces):
        super().__init__(WIDTH, HEIGHT)
        self.pieces = pieces

    def sample(self, chunk, past):
        yield from self.pieces


@pytest.mark.parametrize("pieces, message", [
    ([torch.full((1, 3, 8, 2, 4), torch.nan)], "chunk 1 came out of the sampler with NaN"),
    ([torch.zeros(1, 3, 4, 2, 4), torch.full((1, 3, 4, 2, 4), torch.inf)], "chunk 1 came out of the sampler with NaN"),
    ([torch.zeros(1, 3, 3, 2, 4)], r"sampled as 3 latents; wanted is \(1, C, 8, h, w\)"),
    ([], r"sampled as 0 latents; wanted is \(1, C, 8, h, w\)"),
    ([torch.zeros(3, 8, 2, 4)], r"sampled as \(3, 8, 2, 4\); wanted is \(1, C, 8, h, w\)"),
    ([torch.zeros(1, 3, 0, 2, 4)], r"sampled as \(1, 3, 0, 2, 4\); wanted"),
    ([torch.zeros(1, 3, 6, 2, 4)] * 2, r"sampled as \(1, 3, 6, 2, 4\) behind 6 latents; wanted is \(1, C, 8, h, w\)")])
def test_what_is_no_chunk_is_refused(tmp_path, pieces, message):
    with pytest.raises(ValueError, match=message):
        Take(tmp_path, plan_of(), Given(*pieces))
    assert not list(tmp_path.glob("chunk_*"))
