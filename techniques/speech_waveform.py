"""What LongCat-Video-Avatar does to a waveform before the speech encoder (paper 001): loudness to -23 LUFS, and for 1.0
a noise floor, a 3 kHz low pass and unit variance.

Filters run in the frequency domain, block by block in float64, which equals the recursion and needs no scipy. Silence
has no loudness and stays silence; the noise floor is seeded by whoever draws it, and optional.
"""
import math
from collections.abc import Sequence

import torch
from torch import Tensor

TARGET_LUFS, NOISE_FLOOR_DB, LOWPASS_HZ = -23.0, -45.0, 3000.0
BLOCK_SECONDS, BLOCK_OVERLAP, ABSOLUTE_GATE, RELATIVE_GATE = 0.4, 0.75, -70.0, -10.0
FILTER_BLOCK = 2 ** 20      # samples

Section = tuple[Sequence[float], Sequence[float]]     # numerator and denominator in powers of 1/z


def prepared(speech: Tensor, sample_rate: int, noise: Tensor | None) -> Tensor:
    """Avatar 1.0's whole chain: (N,) -> (N,). `noise`: a standard normal draw (N,), None for no noise floor."""
    speech = leveled(speech, sample_rate)
    if noise is not None:
        speech = with_noise_floor(speech, noise)
    return standardized(without_transients(speech, sample_rate))


def leveled(speech: Tensor, sample_rate: int) -> Tensor:
    """(N,) at TARGET_LUFS; what has no loudness (silence, less than one block) stays as it is."""
    loudness = integrated_loudness(speech, sample_rate)
    return speech * 10 ** ((TARGET_LUFS - loudness) / 20) if abs(loudness) <= 100 else speech


def with_noise_floor(speech: Tensor, noise: Tensor) -> Tensor:
    return speech + 10 ** (NOISE_FLOOR_DB / 20) * noise


def without_transients(speech: Tensor, sample_rate: int) -> Tensor:
    return filtered(speech, lowpass(LOWPASS_HZ, sample_rate), sample_rate)


def standardized(speech: Tensor) -> Tensor:
    """Zero mean and unit variance over the whole clip."""
    variance, mean = torch.var_mean(speech.double(), correction=0)
    return ((speech - mean) / (variance + 1e-7).sqrt()).float()


def integrated_loudness(speech: Tensor, sample_rate: int) -> float:
    """Loudness of a mono waveform (N,) after ITU-R BS.1770, in LUFS; -inf for silence and for less than one block."""
    seconds, step = len(speech) / sample_rate, BLOCK_SECONDS * (1 - BLOCK_OVERLAP)
    if seconds < BLOCK_SECONDS:
        return -math.inf
    power = filtered(speech, k_weighting(sample_rate), sample_rate).double().square()
    energy = torch.cat([power.new_zeros(1), power.cumsum(0)])
    count = round((seconds - BLOCK_SECONDS) / step) + 1
    starts = torch.tensor([int(step * index * sample_rate) for index in range(count)])
    ends = torch.tensor([int((step * index + BLOCK_SECONDS) * sample_rate) for index in range(count)])
    blocks = (energy[ends.clamp(max=len(speech))] - energy[starts]) / (BLOCK_SECONDS * sample_rate)
    loud = blocks[lufs(blocks) >= ABSOLUTE_GATE]
    loud = loud[lufs(loud) > lufs(loud.mean()) + RELATIVE_GATE]
    return lufs(loud.mean()).item() if len(loud) else -math.inf


def lufs(power: Tensor) -> Tensor:
    return -0.691 + 10 * power.log10()


def filtered(x: Tensor, sections: Sequence[Section], sample_rate: int) -> Tensor:
    """Causal recursive filters one after the other over (N,). Their responses must die away within a second."""
    tail, result = sample_rate, x.new_zeros(len(x) + sample_rate, dtype=torch.float64)
    for start in range(0, len(x), FILTER_BLOCK):
        block = x[start:start + FILTER_BLOCK].double()
        size = len(block) + tail
        z = torch.exp(-2j * math.pi * torch.arange(size // 2 + 1, dtype=torch.float64) / size)
        response = torch.ones_like(z)
        for numerator, denominator in sections:
            response = response * polynomial(numerator, z) / polynomial(denominator, z)
        result[start:start + size] += torch.fft.irfft(torch.fft.rfft(block, size) * response.to(x.device), size)
    return result[:len(x)].to(x.dtype)


def polynomial(coefficients: Sequence[float], z: Tensor) -> Tensor:
    return sum((coefficient * z ** power for power, coefficient in enumerate(coefficients)), torch.zeros_like(z))


def lowpass(cutoff_hz: float, sample_rate: int) -> list[Section]:
    """Third-order Butterworth, by the bilinear transform."""
    k = math.tan(math.pi * cutoff_hz / sample_rate)
    return [((k, k), (k + 1, k - 1)), ((k * k, 2 * k * k, k * k), (1 + k + k * k, 2 * (k * k - 1), 1 - k + k * k))]


def k_weighting(sample_rate: int) -> list[Section]:
    """The ear's weighting of BS.1770 at any rate: a high shelf of 4 dB at 1500 Hz, a high pass at 38 Hz."""
    gain, shelf = 10 ** (4 / 40), 2 * math.pi * 1500 / sample_rate
    cosine, slope = math.cos(shelf), math.sqrt(gain) * math.sqrt(2) * math.sin(shelf)
    high_shelf = ((gain * (gain + 1 + (gain - 1) * cosine + slope), -2 * gain * (gain - 1 + (gain + 1) * cosine),
                   gain * (gain + 1 + (gain - 1) * cosine - slope)),
                  (gain + 1 - (gain - 1) * cosine + slope, 2 * (gain - 1 - (gain + 1) * cosine),
                   gain + 1 - (gain - 1) * cosine - slope))
    cosine, sine = math.cos(2 * math.pi * 38 / sample_rate), math.sin(2 * math.pi * 38 / sample_rate)
    high_pass = (((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2), (1 + sine, -2 * cosine, 1 - sine))
    return [high_shelf, high_pass]
