"""The one clock, against counting by hand."""
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.timeline import ClipTimeline, Timeline

pytestmark = pytest.mark.once

FPS = st.sampled_from([Fraction(1), Fraction(16), Fraction(24000, 1001), Fraction(25), Fraction(25, 2), Fraction(240)])
RATIO = st.sampled_from([1, 4, 8])


def frames_by_latent(latents, ratio):
    """Which latent every pixel frame comes from: 0, then `ratio` times 1, `ratio` times 2, ..."""
    return [0] + [latent for latent in range(1, latents) for _ in range(ratio)] if latents else []


@given(FPS, RATIO, st.integers(0, 60))
def test_latents_and_frames_by_counting(fps, ratio, count):
    timeline = Timeline(fps, ratio)
    owners = frames_by_latent(count, ratio)
    assert timeline.frames_for_latents(count) == len(owners)
    for latent in range(count):
        shown = [frame for frame, owner in enumerate(owners) if owner == latent]
        assert (timeline.first_frame(latent), timeline.last_frame(latent)) == (shown[0], shown[-1])
    sizes = [len(frames_by_latent(latents, ratio)) for latents in range(count + 3)]
    assert timeline.latents_for_frames(count) == next(n for n, size in enumerate(sizes) if size >= count)
    assert timeline.latents_within_frames(count) == max(n for n, size in enumerate(sizes) if size <= count)


@given(FPS, st.integers(0, 10 ** 8), st.sampled_from([8000, 44100, 192000]))
def test_the_last_frame_never_ends_before_the_speech(fps, samples, rate):
    timeline = Timeline(fps)
    frames, seconds = timeline.frames_for_samples(samples, rate), Fraction(samples, rate)
    assert timeline.seconds_at(frames) >= seconds
    assert frames == 0 or timeline.seconds_at(frames - 1) < seconds
    assert timeline.frames_for_seconds(seconds) == frames


def test_no_rounding_error_at_film_rate_after_an_hour():
    timeline = Timeline(Fraction(24000, 1001))
    assert timeline.frames_for_samples(48000 * 3600 + 3_600 * 48, 48000) == 86_400   # 3603.6 s are 86400 frames exactly
    assert timeline.frames_for_samples(48000 * 3600 + 3_600 * 48 + 1, 48000) == 86_401


@pytest.mark.parametrize("frames, latents", [(0, 0), (3, 0), (4, 1), (12, 3), (15, 3)])
def test_distance_is_floored(frames, latents):
    assert Timeline(Fraction(25)).distance_in_latents(frames) == latents


@pytest.mark.parametrize("rate_hz, fps, first", [(50.0, 25, 0), (50.0, 16, 7), (32.0, 25, -5), (25.0, 25, 90),
                                                 (49.95, Fraction(24000, 1001), 13)])
def test_feature_frames_against_a_loop(rate_hz, fps, first):
    features = torch.randn(2, 101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    timeline = Timeline(Fraction(fps))
    rows = timeline.feature_frames(features, rate_hz, first, 40)
    assert rows.shape == (2, 40, 3)
    for row in range(40):
        position = (first + row) / float(fps) * rate_hz
        if position <= 0:
            wanted = features[:, 0]
        elif position > 100:
            wanted = torch.zeros(2, 3, dtype=torch.float64)
        else:
            left = min(int(position), 99)
            wanted = features[:, left] + (features[:, left + 1] - features[:, left]) * (position - left)
        assert torch.allclose(rows[:, row], wanted, atol=1e-9)


def test_feature_frames_of_neighbouring_spans_join():
    features, timeline = torch.randn(1, 80, 4), Timeline(Fraction(16))
    whole = timeline.feature_frames(features, 50.0, 0, 30)
    parts = [timeline.feature_frames(features, 50.0, first, 10) for first in (0, 10, 20)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_feature_frames_keep_the_dtype():
    features = torch.ones(1, 9, 2, dtype=torch.float16)
    assert Timeline(Fraction(25)).feature_frames(features, 50.0, 0, 3).dtype == torch.float16


def test_latents_and_frames_by_each_convention():
    timeline = Timeline(Fraction(25))
    assert [(timeline.first_frame(latent), timeline.last_frame(latent)) for latent in (0, 1, 2)] == \
        [(0, 0), (1, 4), (5, 8)]
    assert timeline.even_frames(0, 1) == (0, 4) and timeline.even_frames(3, 2) == (12, 8)


# ---------------------------------------------------------------- clips

def test_a_clock_of_clips_counts_whole_clips_and_their_tail():
    clock = ClipTimeline(Fraction(24))
    assert [clock.frames_for_latents(n) for n in (0, 1, 2, 5, 6, 7, 37)] == [0, 1, 5, 17, 18, 22, 124]
    assert [clock.latents_for_frames(n) for n in (0, 1, 5, 6, 22, 23, 124)] == [0, 2, 2, 7, 7, 12, 37]
    assert [clock.latents_within_frames(n) for n in (0, 4, 5, 21, 22, 130)] == [0, 0, 2, 2, 7, 37]
    assert [(clock.first_frame(n), clock.last_frame(n)) for n in (0, 1, 5, 6)] == [(0, 0), (1, 4), (17, 17), (18, 21)]


@pytest.mark.parametrize(("frames", "near"), [
    (13, r"5 \(2 latents\) or 22 \(7 latents\)"), (3, r"Use 5 \(2 latents\)$"), (0, r"Use 5 \(2 latents\)$"),
    (121, r"107 \(32 latents\) or 124 \(37 latents\)")])
def test_an_overlap_in_the_middle_of_a_clip_is_refused_with_its_neighbours(frames, near):
    with pytest.raises(ValueError, match=f"overlap_frames: got {frames}.*{near}"):
        plan_take(ClipTimeline(Fraction(24)), 480, 141, frames, 64, 64)


def test_chunks_of_a_clock_of_clips_begin_and_end_with_one_and_say_where_sound_meets_picture():
    def plan(overlap, frames=480):
        return plan_take(ClipTimeline(Fraction(24)), frames, 124, overlap, 64, 64)

    for overlap, frames in ((22, 480), (5, 480), (22, 131), (39, 1000)):
        chunks = plan(overlap, frames).chunks
        assert all(chunk.first_latent % 5 == 0 and chunk.latents % 5 == 2 for chunk in chunks)
        assert plan(overlap, frames).trimmed_frames >= 0
    assert len(plan(0, 124).chunks) == 1        # of which nothing is repeated
    with pytest.raises(ValueError, match="make the chunk at least 141 frames"):
        plan(124)
    assert not [note for note in plan(22).notes if "meet" in note]      # chunks advance by 102 frames, twice 51
    assert any("meet every 51 frames, chunks advance by 119" in note for note in plan(5).notes)
    with pytest.raises(ValueError, match="cannot go on from it"):
        plan(22).after_clip(7)
