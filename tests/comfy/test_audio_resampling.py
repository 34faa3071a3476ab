"""To 16 kHz from any rate: by chunks as at once, and as torchaudio where its table would not fit in memory."""
import pytest
import torch
import torchaudio
from lodestar.backbones.audio_encoder import sinc_resampled, to_16_khz


def noise(seconds: float, rate: int) -> torch.Tensor:
    """(1, N): every frequency, so that nothing of the filter goes unheard."""
    return torch.randn(1, round(seconds * rate), generator=torch.Generator().manual_seed(0)) * 0.2


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_resampling_by_chunks_is_resampling_at_once(rate):
    waveform = noise(63.0371, rate)
    whole = torchaudio.functional.resample(waveform, rate, 16_000)
    ours = to_16_khz(waveform, rate)
    assert ours.shape == whole.shape and (ours - whole).abs().max() < 1e-6


@pytest.mark.parametrize("rate", [8_001, 44_056, 191_999])
def test_a_rate_without_a_short_ratio_uses_the_same_filter(rate):
    waveform = noise(2.0071, rate)
    ours = to_16_khz(waveform, rate)
    seconds = torch.arange(ours.shape[1], dtype=torch.float64) / 16_000
    assert ours.shape[1] == -(-waveform.shape[1] * 16_000 // rate) and ours.dtype == torch.float32
    for index in (0, 1, 15_999, 16_001, ours.shape[1] - 1):     # the definition, one sample at a time
        cutoff = 0.99 * min(rate, 16_000)
        offset = (torch.arange(waveform.shape[1], dtype=torch.float64) / rate - seconds[index]) * cutoff
        kernel = torch.sinc(offset) * torch.cos(offset * torch.pi / 12) ** 2 * (offset.abs() < 6)
        assert ours[0, index] == pytest.approx((waveform[0] * kernel).sum().item() * cutoff / rate, abs=1e-4)


def test_the_filter_is_torchaudio_s():
    waveform = noise(2.0, 44_100)
    ours = torch.cat(list(sinc_resampled(waveform, 44_100)), 1)
    assert (ours - torchaudio.functional.resample(waveform, 44_100, 16_000)).abs().max() < 1e-4
