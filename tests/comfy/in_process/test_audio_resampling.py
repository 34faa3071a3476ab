"""From any rate to any other: tones stay what they are, what the new rate cannot hold is gone, however it is cut."""
import math

import pytest
import torch
from lodestar.backbones.audio import resampler
from lodestar.backbones.audio.resampler import resample

RATES = (8_000, 8_001, 11_025, 24_000, 44_056, 44_100, 48_000, 191_999, 192_000)
EDGE = 0.05     # seconds at the ends, where the filter reaches beyond the clip


def tone(hertz: float, seconds: float, rate: int) -> torch.Tensor:
    """(1, N)."""
    times = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * hertz * times).float()[None]


def decibels(x: torch.Tensor, rate: int = 16_000) -> float:
    """Of a full tone, without the ends."""
    inner = x[:, round(EDGE * rate):-round(EDGE * rate)]
    return 10 * math.log10(float(inner.square().mean()) * 2 + 1e-30)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("samples", [0, 1, 2])
def test_next_to_nothing_is_resampled(rate, samples):
    ours = resample(torch.ones(2, samples, dtype=torch.float64), rate)
    assert ours.shape == (2, -(-samples * 16_000 // rate)) and ours.dtype == torch.float32


@pytest.mark.parametrize(("hertz", "rate"), [(hertz, rate) for hertz in (100, 997, 3_000, 6_500) for rate in RATES
                                             if hertz <= 0.4 * rate])    # a rate holds no more
def test_a_tone_of_speech_is_the_same_tone(rate, hertz):
    seconds = 2.0071
    ours = resample(tone(hertz, seconds, rate), rate)
    wanted = tone(hertz, ours.shape[1] / 16_000, 16_000)
    assert ours.shape == (1, -(-round(seconds * rate) * 16_000 // rate)) and ours.dtype == torch.float32
    assert decibels(ours - wanted) < -55


@pytest.mark.parametrize("rate", [44_100, 48_000, 44_099])
@pytest.mark.parametrize("hertz", [9_000, 15_000, 21_000])
def test_what_16_khz_cannot_hold_is_gone(rate, hertz):
    assert decibels(resample(tone(hertz, 2, rate), rate)) < -55


@pytest.mark.parametrize("rate", [44_099, 44_100])
def test_a_minute_does_not_drift(rate):
    ours = resample(tone(440, 60, rate), rate)
    assert decibels((ours - tone(440, 60, 16_000))[:, -16_000:]) < -55


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (8_000, 48_000), (44_099, 48_000), (48_000, 44_099)])
def test_how_it_is_cut_does_not_matter(rate, wanted, monkeypatch):
    waveform = torch.randn(1, round(1.0371 * rate), generator=torch.Generator().manual_seed(0)) * 0.2
    whole = resample(waveform, rate, wanted)
    monkeypatch.setattr(resampler, "PIECE_SAMPLES", 999)
    assert torch.equal(resample(waveform, rate, wanted), whole)
    assert whole.shape == (1, -(-waveform.shape[1] * wanted // rate)) and whole[:, -99:].abs().max() > 0.01


def test_every_channel_is_resampled_by_itself():
    waveform = torch.randn(3, 9_999, generator=torch.Generator().manual_seed(0)) * 0.2
    ours = resample(waveform, 44_100, 48_000)
    assert all(torch.equal(ours[index:index + 1], resample(waveform[index:index + 1], 44_100, 48_000))
               for index in range(3))


@pytest.mark.parametrize("samples", [1, 2, 50])
def test_a_clip_of_a_few_samples_has_its_length(samples):
    assert resample(torch.ones(2, samples), 48_000).shape == (2, -(-samples // 3))


def test_the_same_rate_is_left_alone():
    waveform = torch.randn(2, 99)
    assert resample(waveform, 16_000) is waveform
