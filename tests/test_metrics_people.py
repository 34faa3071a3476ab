"""Lip sync, identity and the Frechet distance on tracks, pictures and features whose right answer is known."""
import math

import numpy as np
import pytest
import torch
from lodestar.pipelines.metrics.frechet import WindowedFrechet, frechet_distance, picture_features
from lodestar.pipelines.metrics.identity import Identity
from lodestar.pipelines.metrics.lipsync import LipSync, SpeechEnergy, loudness, mouth_opening
from lodestar.pipelines.metrics.video_reader import sound_of

FPS = 25


def babble(frames, seed=0):
    """Loudness that goes up and down like syllables, about four a second, with pauses."""
    made = np.random.default_rng(seed)
    rough = np.convolve(made.normal(size=frames + 20), np.hanning(7), "same")[:frames]
    return np.maximum(rough, 0) * (np.sin(np.arange(frames) / 17) > -0.7)


def synced(openings, energies, piece=7):
    lips = LipSync(FPS)
    for start in range(0, len(openings), piece):
        lips.add(openings[start:start + piece], energies[start:start + piece])
    return lips.result()


# ---------------------------------------------------------------- lip sync

@pytest.mark.parametrize("lag", [-4, 0, 3, 15])
def test_a_mouth_that_is_late_by_some_frames_has_that_lag(lag):
    sound = babble(400)
    found = synced(np.roll(sound, lag), sound)
    assert found["lag_frames"] == lag and found["correlation"] > 0.95
    assert found["lag_seconds"] == lag / FPS and found["confidence"] > 0.5


def test_the_correlations_are_pearsons():
    x, y = babble(120, 1), babble(120, 2) + babble(120, 1) / 2
    found = synced(x, y, piece=50)["by_lag"]
    for lag, correlation in zip(found["lags"], found["correlations"], strict=True):
        late, sound = (x[lag:], y[:len(y) - lag]) if lag >= 0 else (x[:lag], y[-lag:])
        assert correlation == pytest.approx(np.corrcoef(late, sound)[0, 1], abs=1e-9)


def test_a_mouth_of_its_own_is_no_sync_and_frames_without_a_face_are_left_out():
    assert synced(babble(1500, 3), babble(1500, 4))["correlation"] < 0.25
    sound = babble(400)
    mouth = np.roll(sound, 2)
    mouth[50:120] = math.nan
    found = synced(mouth, sound)
    assert found["lag_frames"] == 2 and found["correlation"] > 0.95


@pytest.mark.parametrize("mouth", [np.full(200, 0.3), np.full(200, math.nan), babble(10)])
def test_where_nothing_can_be_said_nothing_is_said(mouth):
    assert synced(mouth, babble(len(mouth))) == dict.fromkeys(
        ("correlation", "lag_frames", "lag_seconds", "confidence", "at_no_lag", "by_lag"))


@pytest.mark.parametrize("fps", [25, 24000 / 1001, 16])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_loudness_is_of_each_frame(fps, rate):
    frames = 20
    levels = np.logspace(-1, 0, frames) / 2
    times = np.arange(round(frames / fps * rate)) / rate
    level = levels[np.minimum((times * fps + 1e-6).astype(int), frames - 1)]
    wave = level * np.where(np.arange(len(times)) % 2 == 0, 1.0, -1.0)
    stereo = torch.from_numpy(wave)[None, None] * torch.tensor([1.5, 0.5])[:, None]
    found = list(loudness(sound_of(stereo, rate).pieces, rate, fps))
    assert len(found) == frames and np.allclose(found, np.log10(levels ** 2 + 1e-5), atol=0.01)


def test_loudness_in_pieces_is_loudness_at_once():
    wave, found = np.random.default_rng(0).normal(size=5000), []
    energy = SpeechEnergy(FPS, 16000)
    for start in range(0, 5000, 37):
        found += energy.add(wave[start:start + 37]).tolist()
    found += energy.finish().tolist()
    assert np.allclose(found, list(loudness([wave], 16000, FPS)), atol=1e-5)
    assert len(found) == 8


@pytest.mark.parametrize("skin", [0.8, 0.25])
def test_an_open_mouth_is_dark_whatever_the_skin(skin):
    shares = torch.tensor([0.0, 0.1, 0.3, 0.5])
    frames = torch.full((4, 40, 40, 3), skin)
    for frame, share in zip(frames, shares, strict=True):
        frame[10:10 + int(20 * share), 10:30] = 0.2 * skin
    assert torch.allclose(mouth_opening(frames, (10, 10, 30, 30)), shares, atol=0.01)
    frames[:, :10] = 0      # what is outside the box does not count
    assert torch.allclose(mouth_opening(frames * 0.5, (10, 10, 30, 30)), shares, atol=0.01)


# ---------------------------------------------------------------- identity

def test_identity_is_the_cosine_to_the_reference():
    angles = torch.linspace(0, math.pi / 3, 301)
    embeddings = torch.stack([angles.cos(), angles.sin(), 0 * angles], 1) * torch.rand(301, 1).add(0.5)
    embeddings[100] = math.nan
    identity = Identity(FPS, torch.tensor([2.0, 0, 0]))
    for part in embeddings.split(13):
        identity.add(part)
    found = identity.result()
    assert found["frames"] == 300 and found["most"] == pytest.approx(1) and found["least"] == pytest.approx(0.5)
    assert np.allclose(found["curve"]["values"], angles.cos()[angles != angles[100]], atol=1e-4)
    assert found["slope_per_minute"] == pytest.approx(float(np.polyfit(
        np.delete(np.arange(301), 100) / FPS / 60, found["curve"]["values"], 1)[0]), rel=1e-3)


def test_without_a_reference_the_first_face_is_it():
    embeddings = torch.tensor([[math.nan, math.nan], [0.0, 1], [1, 1]])
    identity = Identity(FPS)
    identity.add(embeddings[:1])
    identity.add(embeddings[1:])
    assert identity.result()["curve"]["values"] == pytest.approx([1, 0.70711])


# ---------------------------------------------------------------- Frechet distance

def test_the_distance_is_that_of_the_gaussians():
    made = torch.Generator().manual_seed(0)
    first = torch.randn(40, 6, generator=made).double() @ torch.randn(6, 6, generator=made).double()
    second = torch.randn(30, 6, generator=made).double() + 1
    one, two = (torch.cov(rows.T, correction=0) for rows in (first, second))
    root = np.linalg.eigvals((one @ two).numpy())
    known = ((first.mean(0) - second.mean(0)) ** 2).sum() + one.trace() + two.trace() - 2 * np.sqrt(root.real).sum()
    assert frechet_distance(first, second) == pytest.approx(float(known), rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def windowed(features, real=None):
    frechet = WindowedFrechet(FPS, real)
    for part in features.split(9):
        frechet.add(part)
    return frechet.result()


def test_a_shift_after_three_seconds_is_seen_in_the_fourth():
    made = torch.Generator().manual_seed(0)
    features = torch.randn(1, FPS, 8, generator=made).expand(6, -1, -1).clone()
    features[3:, :, 0] += 10
    found = windowed(features.flatten(0, 1))
    spread = 2 * float(features[0].var(0, correction=0).sum())
    assert np.allclose(found["curve"]["values"], [0, 0, 0, *[100 / spread] * 3], atol=1e-3)
    assert found["curve"]["seconds"] == pytest.approx(range(6))


def test_against_real_pictures_the_first_second_is_one():
    made = torch.Generator().manual_seed(0)
    real, features = torch.randn(500, 8, generator=made), torch.randn(4, FPS, 8, generator=made)
    features[1:] += 1
    first = frechet_distance(features[0], real)
    found = windowed(features.flatten(0, 1), real)["curve"]["values"]
    assert found == pytest.approx([frechet_distance(rows, real) / first for rows in features], rel=1e-4)
    assert found[0] == 1 and found[1] > 2


def test_features_of_pictures_see_colour_and_edges():
    flat = torch.full((1, 64, 64, 3), 0.5)
    upright, lying = flat.clone(), flat.clone()
    upright[:, :, 24:40] += 0.2
    lying[:, 24:40] += 0.2
    features = picture_features(torch.cat([flat, flat + 0.1, upright, lying]))
    assert features.shape == (4, 320) and not features[:2, 192:].any()
    assert torch.allclose(features[1] - features[0], torch.cat([torch.full((192,), 0.1), torch.zeros(128)]), atol=1e-5)
    directions = features[:, 192:].view(4, 16, 8).sum(1)
    assert directions[2].argmax() == 0 and directions[3].argmax() == 4
