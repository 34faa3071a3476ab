"""From any rate to any other: by chunks as at once, and as torchaudio where its table would not fit in memory."""
import importlib
import sys

import pytest
import torch
import torchaudio
from lib import environment
from lodestar.backbones.audio.encoder import resampled, sinc_resampled
from lodestar.backbones.longcat.two_speakers import stereo

sys.path.append(str(environment.PACK / "benchmarks"))
live_bytes = importlib.import_module("live_bytes")


def noise(seconds: float, rate: int, channels: int = 1) -> torch.Tensor:
    """(channels, N): every frequency, so that nothing of the filter goes unheard."""
    return torch.randn(channels, round(seconds * rate), generator=torch.Generator().manual_seed(0)) * 0.2


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_resampling_by_chunks_is_resampling_at_once(rate):
    waveform = noise(63.0371, rate)
    whole = torchaudio.functional.resample(waveform, rate, 16_000)
    ours = resampled(waveform, rate)
    assert ours.shape == whole.shape and (ours - whole).abs().max() < 1e-6


@pytest.mark.parametrize(("rate", "wanted", "channels"), [
    (8_001, 16_000, 1), (44_056, 16_000, 1), (191_999, 16_000, 1), (44_099, 48_000, 2), (48_000, 44_099, 2)])
def test_a_rate_without_a_short_ratio_uses_the_same_filter(rate, wanted, channels):
    waveform = noise(2.0071, rate, channels)
    ours = resampled(waveform, rate, wanted)
    seconds = torch.arange(ours.shape[1], dtype=torch.float64) / wanted
    assert ours.shape == (channels, -(-waveform.shape[1] * wanted // rate)) and ours.dtype == torch.float32
    for index in (0, 1, wanted - 1, wanted + 1, ours.shape[1] - 1):     # the definition, one sample at a time
        cutoff = 0.99 * min(rate, wanted)
        offset = (torch.arange(waveform.shape[1], dtype=torch.float64) / rate - seconds[index]) * cutoff
        kernel = torch.sinc(offset) * torch.cos(offset * torch.pi / 12) ** 2 * (offset.abs() < 6)
        assert ours[:, index].tolist() == pytest.approx(((waveform * kernel).sum(1) * cutoff / rate).tolist(), abs=1e-4)


@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 48_000), (1_511, 1_201), (1_201, 1_511)])
def test_every_channel_is_resampled_by_itself(rate, wanted):
    waveform = noise(3.01, rate, 2)
    whole, ours = torchaudio.functional.resample(waveform, rate, wanted), resampled(waveform, rate, wanted)
    assert ours.shape == whole.shape and (ours - whole).abs().max() < 1e-4


def test_it_takes_no_more_memory_than_a_second_s_taps():
    audio = {"waveform": noise(3, 44_099, 2)[None], "sample_rate": 44_099}
    assert live_bytes.peak_bytes(lambda: stereo(audio, 48_000, 2)) < 30e6      # torchaudio: 8 GB


def test_the_filter_is_torchaudio_s():
    waveform = noise(2.0, 44_100)
    ours = torch.cat(list(sinc_resampled(waveform, 44_100)), 1)
    assert (ours - torchaudio.functional.resample(waveform, 44_100, 16_000)).abs().max() < 1e-4
