"""The puppet's audio features (no paper): log-mel energies, 20 bands four times per video frame of 40 ms.

Shaped as LongCat-Avatar 1.5's features are, 5 layers at 25 Hz, with 16 channels each instead of 1280. Every step
depends on its own 65 ms of sound alone, so any stretch of a clip can be made by itself.
"""
import math

import torch
from torch import Tensor
from torch.nn.functional import pad

SAMPLE_RATE, RATE_HZ, LAYERS, CHANNELS = 16_000, 25, 5, 16
STEP, HOP, WINDOW, POINTS, BANDS = SAMPLE_RATE // RATE_HZ, 160, 400, 512, 20    # samples, the last mel bands
LOWEST_HZ, HIGHEST_HZ, FLOOR = 60.0, 7600.0, 1e-6


def mel_steps(speech: Tensor, first: int, end: int) -> Tensor:
    """(N,) at 16 kHz and -23 LUFS -> feature frames [first, end): (end - first, 5, 16), about -1..1, silence -1.

    Frame i is of the samples of video frame i at 25 fps; beyond the clip there is silence.
    """
    edge = (WINDOW - HOP) // 2
    start, stop = first * STEP - edge, end * STEP + edge
    piece = pad(speech[max(start, 0):max(stop, 0)].float(), (max(-start, 0), max(stop - max(len(speech), start), 0)))
    taken = piece[:stop - start].unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW, device=speech.device)
    power = torch.fft.rfft(taken, POINTS).abs().square() / WINDOW
    energy = power @ mel_filters().to(power)
    bands = (energy.clamp(min=FLOOR).log10() - math.log10(FLOOR)) / 3 - 1
    return bands.reshape(end - first, LAYERS, CHANNELS)


def mel_filters() -> Tensor:
    """Triangles of one height over the power spectrum (257, BANDS), evenly spaced in HTK's mel."""
    from librosa.filters import mel

    return torch.from_numpy(mel(sr=SAMPLE_RATE, n_fft=POINTS, n_mels=BANDS, fmin=LOWEST_HZ, fmax=HIGHEST_HZ, htk=True,
                                norm=None)).T
