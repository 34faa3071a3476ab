"""The plan: as long as the audio to the frame, for any audio, rate, fps, chunk and overlap; and what it says."""
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lodestar.pipelines.take.plan import describe, disk_bytes, exact_fps, plan_clips, plan_take, ram_bytes
from lodestar.techniques.timeline import Timeline

pytestmark = pytest.mark.once

RATES = st.sampled_from([8000, 16000, 22050, 44100, 48000, 192000])
FPS = st.sampled_from([Fraction(1), Fraction(12), Fraction(16), Fraction(24000, 1001), Fraction(24), Fraction(25),
                       Fraction(30000, 1001), Fraction(30), Fraction(25, 2), Fraction(240)])


def plan(frames, chunk=77, overlap=13, width=64, height=48, fps=25, **options):
    return plan_take(Timeline(Fraction(fps)), frames, chunk, overlap, width, height, **options)


@settings(deadline=None, max_examples=400)
@given(seconds=st.floats(1e-5, 120), rate=RATES, fps=FPS, ratio=st.sampled_from([1, 4, 8]),
       chunk=st.integers(1, 200), overlap=st.integers(0, 100))
def test_the_video_is_as_long_as_the_audio(seconds, rate, fps, ratio, chunk, overlap):
    samples = max(1, int(seconds * rate))
    timeline = Timeline(fps, ratio)
    frames = timeline.frames_for_samples(samples, rate)
    chunk_latents, overlap_latents = (timeline.latents_within_frames(size) for size in (chunk, overlap))
    if chunk_latents <= overlap_latents:
        with pytest.raises(ValueError, match="chunk_frames: a chunk of"):
            plan_take(timeline, frames, chunk, overlap, 64, 48)
        return
    made = plan_take(timeline, frames, chunk, overlap, 64, 48)
    assert made.total_frames == frames == -(-samples * fps // rate)   # the last frame ends with or after the speech
    assert Fraction(samples, rate) <= made.seconds < Fraction(samples, rate) + 1 / fps
    check_tiling(made, chunk_latents, overlap_latents)
    decoded = timeline.frames_for_latents(made.total_latents)
    assert decoded - frames == made.trimmed_frames
    assert 0 <= made.trimmed_frames < max(timeline.frames_for_latents(chunk_latents), ratio)


def check_tiling(made, chunk_latents, overlap_latents):
    first, *others = made.chunks
    assert first.first_latent == first.context_latents == first.index == 0 and first.latents <= chunk_latents
    for before, chunk in zip(made.chunks, others, strict=False):
        assert chunk.index == before.index + 1
        assert chunk.first_new_latent == before.end_latent            # the latents tile
        assert chunk.context_latents == overlap_latents and chunk.latents <= chunk_latents
        assert made.frames_of(chunk)[0] == made.frames_of(before)[1]  # so do the frames and the seconds
        assert made.seconds_of(chunk)[0] == made.seconds_of(before)[1]
    for chunk in made.chunks[:-1]:
        assert chunk.latents == chunk_latents
    usual, last = chunk_latents - overlap_latents, made.chunks[-1]
    assert not others or usual / 2 <= last.new_latents <= usual
    assert made.frames_of(first)[0] == 0 and made.frames_of(last)[1] == made.total_frames
    assert made.seconds_of(first)[0] == 0 and made.seconds_of(last)[1] == made.seconds
    assert all(begin < end for begin, end in map(made.frames_of, made.chunks))


def test_a_plan_by_hand():
    """501 frames at 25 fps need 126 latents: 20 in chunk 1, 16 new in each other, and 10 in the last."""
    made = plan(501, script="0:00 a\n0:08 b", seed_step=3)
    assert [chunk.first_latent for chunk in made.chunks] == [0, 16, 32, 48, 64, 80, 96, 112]
    assert [chunk.latents for chunk in made.chunks] == [20] * 7 + [14]
    assert [chunk.context_latents for chunk in made.chunks] == [0] + [4] * 7
    assert [chunk.seed_offset for chunk in made.chunks] == [0, 3, 6, 9, 12, 15, 18, 21]
    assert [chunk.prompt for chunk in made.chunks] == list("aaabbbbb")
    assert made.frames_of(made.chunks[1]) == (77, 141) and made.total_latents == 126 and made.trimmed_frames == 0


def test_the_last_chunk_is_not_below_half():
    made = plan(TIMELINE_FRAMES := 77 + 64 + 1)
    assert made.chunks[-1].new_latents == 8 and made.trimmed_frames == 77 + 64 + 32 - TIMELINE_FRAMES


def test_audio_shorter_than_a_chunk_is_one_chunk_of_what_it_needs():
    for frames, latents in ((1, 1), (2, 2), (5, 2), (6, 3), (76, 20), (77, 20)):
        chunk, = plan(frames).chunks
        assert (chunk.latents, chunk.context_latents) == (latents, 0)
    assert len(plan(78).chunks) == 2


@pytest.mark.parametrize("values, words", [
    (dict(frames=0), "the take has 0 frames"),
    (dict(frames=50, chunk=13, overlap=13), "chunk_frames: a chunk of 13 frames .4 latents. .* "
                                            "overlap of 13 frames .4 latents."),
    (dict(frames=50, chunk=9, overlap=77), "make the chunk at least 81 frames"),
    (dict(frames=50, chunk=14, overlap=13), "chunk_frames: a chunk of"),   # both are 4 latents
    (dict(frames=50, chunk=0, overlap=0), "chunk_frames: a chunk of"),
    (dict(frames=50, overlap=-1), "the overlap 0 or more"),
    (dict(frames=50, fps=0), "fps: got 0, wanted 1 to 240, or 0 for the model.s own"),
    (dict(frames=50, fps=1000), "fps: got 1000, wanted 1 to 240"),
    (dict(frames=50, width=70), "width: got 70, wanted a multiple of 16 for this model, such as 64 or 80"),
    (dict(frames=50, height=720, grid=32), "height: got 720, .* multiple of 32 .*such as 704 or 736"),
    (dict(frames=50, height=1), "height: got 1, .* such as 16$"),
    (dict(frames=50, width=0), "width: got 0, .* such as 16$"),
    (dict(frames=50, script="soon she laughs\n0:10 b"), "script, line 1"),
])
def test_bad_input(values, words):
    with pytest.raises(ValueError, match=words):
        plan(**values)


@pytest.mark.parametrize("typed, exact", [
    (25, Fraction(25)), (25.0, Fraction(25)), (23.976, Fraction(24000, 1001)), (23.98, Fraction(24000, 1001)),
    (29.97, Fraction(30000, 1001)), (59.94, Fraction(60000, 1001)), (12.5, Fraction(25, 2)), (1, Fraction(1)),
    (240, Fraction(240)), (24.1, Fraction(241, 10)),
    (23.99, Fraction(2399, 100))])
def test_exact_fps(typed, exact):
    assert exact_fps(typed) == exact


def test_exact_fps_is_what_was_typed():
    """Every rate that can be typed, in thousandths, stays itself within 0.02 % and within what is allowed."""
    for thousandths in range(1000, 240_001):
        typed = thousandths / 1000
        assert abs(exact_fps(typed) - typed) <= 0.0002 * typed and 1 <= exact_fps(typed) <= 240, typed
    assert exact_fps(1.0001) == 1


@pytest.mark.parametrize("typed", [0, 0.5, -25, 1000, float("nan"), float("inf")])
def test_exact_fps_refuses(typed):
    with pytest.raises(ValueError, match="wanted 1 to 240"):
        exact_fps(typed)


def test_describe_says_it_all():
    made = plan(500, chunk=80, width=832, height=480, script="0:08 b")
    words = describe(made, latent_channels=16, spatial_ratio=8)
    for part in ("8 chunks of 77 frames (20 latents), the last 53 frames (14 latents), each repeating 4 latents",
                 "0:20, 500 frames at 25 fps, 832x480; frames decoded after its end and trimmed: 1",
                 "chunk: 80 frames are shortened to 77 (20 whole latents)",
                 "0:08 starts with chunk 4 at 0:08.200", "latents 50.3 MB"):
        assert part in words, words
    assert "overlap:" not in words
    assert disk_bytes(made, 16, 8)[0] == 126 * 16 * 104 * 60 * 4


def test_ram_does_not_grow_with_length_and_disk_does():
    minute, hour = plan(1500), plan(90000)
    assert ram_bytes(minute, 16, 8) == ram_bytes(hour, 16, 8)
    assert disk_bytes(hour, 16, 8)[0] == pytest.approx(60 * disk_bytes(minute, 16, 8)[0], rel=0.02)


def test_fingerprints_differ_between_chunks_and_their_changes():
    before, after = plan(500), plan(500, script="0:10 she waves")
    texts = [str(before.fingerprint_of(chunk)) for chunk in before.chunks]
    assert len(set(texts)) == len(texts)
    changed = [old.index for old, new in zip(before.chunks, after.chunks, strict=True)
               if before.fingerprint_of(old) != after.fingerprint_of(new)]
    assert changed == list(range(after.chunks[-1].index - len(changed) + 1, len(after.chunks))) and changed[0] == 4


def test_no_chunk_has_the_noise_of_a_neighbouring_takes():
    """With *control after generate: increment* the next take's seed is one more."""
    chunks = plan_take(Timeline(Fraction(16)), 1000, 17, 5, 64, 64).chunks
    seeds = {chunk.seed(seed) for seed in (0, 1, 7, 8, 9, 2 ** 64 - 1) for chunk in chunks}
    assert len(chunks) > 20 and len(seeds) == 6 * len(chunks) and all(0 <= seed < 2 ** 64 for seed in seeds)
    assert chunks[0].seed(7) == 7
    still = plan_take(Timeline(Fraction(16)), 1000, 17, 5, 64, 64, seed_step=0)
    assert {chunk.seed(7) for chunk in still.chunks} == {7}


# ---------------------------------------------------------------- clips, each decoded on its own

@pytest.mark.parametrize(("frames", "clips"), [(1, 1), (77, 1), (78, 2), (150, 2), (151, 3), (223, 3), (296, 4),
                                               (369, 5)])
def test_clips_repeat_frames_and_tile_the_take(frames, clips):
    """c clips of 77 frames that repeat 4 last 77 + 73 (c - 1)."""
    made = plan_clips(Timeline(Fraction(30)), frames, 77, 4, 64, 48)
    assert len(made.chunks) == clips and made.trimmed_frames == 77 + 73 * (clips - 1) - frames >= 0
    assert [made.frame_of(chunk) for chunk in made.chunks] == [73 * index for index in range(clips)]
    assert [chunk.first_latent for chunk in made.chunks] == [20 * index for index in range(clips)]
    ends = [0, *(made.frames_of(chunk)[1] for chunk in made.chunks)]
    assert [made.frames_of(chunk)[0] for chunk in made.chunks] == ends[:-1] and ends[-1] == frames
    assert ends[1:-1] == [77 + 73 * index for index in range(clips - 1)]


def test_clips_say_what_they_repeat_and_none_is_too_short():
    made = plan_clips(Timeline(Fraction(30)), 100, 77, 4, 64, 48, "0:00 one\n0:02 two")
    assert "2 chunks of 77 frames (20 latents), each repeating 4 frames of the one before" in describe(made, 16, 8)
    assert [chunk.prompt for chunk in made.chunks] == ["one", "two"]
    stitched = plan(100, overlap=0)
    assert made.fingerprint_of(made.chunks[0]) != stitched.fingerprint_of(stitched.chunks[0])
    with pytest.raises(ValueError, match="chunk_frames: a take of 100 frames in clips of 4 that repeat 4"):
        plan_clips(Timeline(Fraction(30)), 100, 4, 4, 64, 48)
