"""The one clock, against counting by hand."""
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lodestar.techniques.timeline import Timeline

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
