"""What is done to a waveform before the speech encoder: loudness to -23 LUFS (BS.1770); and for LongCat-Video-Avatar
1.0 a noise floor, a 3 kHz low pass and unit variance.

Filters run block by block in float64 and carry their state, so memory is that of a block. Silence has no loudness and
stays silence; the noise floor is seeded by whoever draws it, and optional.
"""
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

TARGET_LUFS, NOISE_FLOOR_DB, LOWPASS_HZ = -23.0, -45.0, 3000.0
BLOCK_SECONDS, BLOCK_OVERLAP, ABSOLUTE_GATE, RELATIVE_GATE = 0.4, 0.75, -70.0, -10.0
FILTER_BLOCK = 2 ** 18      # samples

HALF = 0.5 ** 0.5
SIDES = {"left": (1.0, 0.0), "right": (0.0, 1.0), "centre": (HALF, HALF), "low": (0.0, 0.0),   # shares of left, right
         "back_left": (HALF, 0.0), "back_right": (0.0, HALF), "back": (0.5, 0.5)}
SURROUND = {3: "left right centre", 4: "left right centre back", 5: "left right centre back_left back_right",
            6: "left right centre low back_left back_right", 7: "left right centre low back back_left back_right",
            8: "left right centre low back_left back_right back_left back_right"}       # FFmpeg's order, by channels

Sections = Sequence[Sequence[float]]    # each three numbers of its numerator and three of its denominator, as in SciPy


def prepare_speech(speech: Tensor, sample_rate: int, noise: Tensor | torch.Generator | None) -> Tensor:
    """Avatar 1.0's whole chain: (N,) -> (N,), block by block. `noise`: what draws the noise floor, or a standard normal
    draw (N,); None for no noise floor."""
    gain, result = level_gain(speech, sample_rate), torch.empty_like(speech)

    def loud(first: int, block: Tensor) -> Tensor:
        if noise is None:
            return block * gain
        drawn = torch.randn(len(block), generator=noise) if isinstance(noise, torch.Generator) else \
            noise[first:first + len(block)]
        return add_noise_floor(block * gain, drawn)

    raw = (loud(first, block) for first, block in blocks(speech))
    for (_, place), block in zip(blocks(result), filter_blocks(raw, lowpass(LOWPASS_HZ, sample_rate)), strict=True):
        place.copy_(block)
    return standardize(result)


def mix_to_mono(waveform: Tensor) -> Tensor:
    """(1, channels, N) -> the mean of the channels (1, N)."""
    return waveform[:, 0] if waveform.shape[1] == 1 else waveform.mean(1)


def mix_to_stereo(waveform: Tensor) -> Tensor:
    """(channels, N) of a file's order -> (1 or 2, N): one or two as they are, three to eight as surround sound, the
    centre and those behind at -3 dB, never louder than they were (ITU-R BS.775); any others their mean."""
    if len(waveform) <= 2:
        return waveform
    if len(waveform) not in SURROUND:
        return waveform.mean(0, keepdim=True)
    left, right = (waveform.new_tensor(side) for side in zip(*(SIDES[name] for name in SURROUND[len(waveform)].split()),
                                                             strict=True))
    return torch.stack([left / left.sum(), right / right.sum()]) @ waveform


def blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Views of (N,), each with the number of its first sample."""
    return ((first, x[first:first + FILTER_BLOCK]) for first in range(0, len(x), FILTER_BLOCK))


def level_loudness(speech: Tensor, sample_rate: int) -> Tensor:
    """(N,) at TARGET_LUFS; what has no loudness (silence, less than one block) stays as it is."""
    return speech * level_gain(speech, sample_rate)


def level_gain(speech: Tensor, sample_rate: int) -> float:
    loudness = integrated_loudness(speech, sample_rate)
    return 10 ** ((TARGET_LUFS - loudness) / 20) if abs(loudness) <= 100 else 1.0


def add_noise_floor(speech: Tensor, noise: Tensor) -> Tensor:
    return speech + 10 ** (NOISE_FLOOR_DB / 20) * noise


def standardize(speech: Tensor) -> Tensor:
    """In place: zero mean and unit variance over the whole clip."""
    mean = sum(block.double().sum().item() for _, block in blocks(speech)) / len(speech)
    variance = sum((block.double() - mean).square().sum().item() for _, block in blocks(speech)) / len(speech)
    return speech.sub_(mean).div_(math.sqrt(variance + 1e-7))


def integrated_loudness(speech: Tensor, sample_rate: int) -> float:
    """Loudness of a mono waveform (N,) after ITU-R BS.1770, in LUFS; -inf for silence and for less than one block."""
    seconds, step = len(speech) / sample_rate, BLOCK_SECONDS * (1 - BLOCK_OVERLAP)
    if seconds < BLOCK_SECONDS:
        return -math.inf
    count = round((seconds - BLOCK_SECONDS) / step) + 1
    starts = torch.tensor([int(step * index * sample_rate) for index in range(count)])
    ends = torch.tensor([int((step * index + BLOCK_SECONDS) * sample_rate) for index in range(count)])
    energy = energy_before(speech, torch.stack([starts, ends.clamp(max=len(speech))]), sample_rate)
    power = (energy[1] - energy[0]) / (BLOCK_SECONDS * sample_rate)
    loud = power[lufs(power) >= ABSOLUTE_GATE]
    loud = loud[lufs(loud) > lufs(loud.mean()) + RELATIVE_GATE]
    return lufs(loud.mean()).item() if len(loud) else -math.inf


def energy_before(speech: Tensor, places: Tensor, sample_rate: int) -> Tensor:
    """The weighted energy of (N,) up to each of `places` (sample indices, any shape), float64."""
    total, passed, found = 0.0, 0, torch.zeros(places.shape, dtype=torch.float64)
    raw = (block for _, block in blocks(speech))
    for block in filter_blocks(raw, k_weighting(sample_rate)):
        energy = total + block.square().cumsum(0)
        here = (places > passed) & (places <= passed + len(block))
        found[here] = energy[places[here] - passed - 1]
        total, passed = energy[-1].item(), passed + len(block)
    return found


def lufs(power: Tensor) -> Tensor:
    return -0.691 + 10 * power.log10()


def filter_blocks(raw: Iterable[Tensor], sections: Sections) -> Iterator[Tensor]:
    """Causal recursive filters, one after the other, over a waveform that comes in blocks: as long a block for each,
    float64 on the CPU."""
    from scipy.signal import sosfilt

    state = torch.zeros(len(sections), 2, dtype=torch.float64).numpy()
    for block in raw:
        result, state = sosfilt(sections, block.double().cpu().numpy(), zi=state)
        yield torch.from_numpy(result)


def lowpass(cutoff_hz: float, sample_rate: int) -> Sections:
    """Third-order Butterworth."""
    from scipy.signal import butter

    return butter(3, cutoff_hz, fs=sample_rate, output="sos").tolist()


def k_weighting(sample_rate: int) -> Sections:
    """The ear's weighting of BS.1770 at any rate: a high shelf of 4 dB at 1500 Hz, a high pass at 38 Hz."""
    gain, shelf = 10 ** (4 / 40), 2 * math.pi * 1500 / sample_rate
    cosine, slope = math.cos(shelf), math.sqrt(gain) * math.sqrt(2) * math.sin(shelf)
    high_shelf = section((gain * (gain + 1 + (gain - 1) * cosine + slope),
                          -2 * gain * (gain - 1 + (gain + 1) * cosine),
                          gain * (gain + 1 + (gain - 1) * cosine - slope)),
                         (gain + 1 - (gain - 1) * cosine + slope, 2 * (gain - 1 - (gain + 1) * cosine),
                          gain + 1 - (gain - 1) * cosine - slope))
    cosine, sine = math.cos(2 * math.pi * 38 / sample_rate), math.sin(2 * math.pi * 38 / sample_rate)
    high_pass = section(((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2), (1 + sine, -2 * cosine, 1 - sine))
    return [high_shelf, high_pass]


def section(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """Numerator and denominator in powers of 1/z -> one section, whose denominator begins with 1."""
    return [value / denominator[0] for value in (*numerator, *denominator)]
