"""techniques/audio/mel.py against a loop over frames, and what the puppet relies on."""
import math

import numpy as np
import pytest
import torch
from lodestar.techniques.audio.mel import CHANNELS, HOP, LAYERS, STEP, WINDOW, mel_filters, mel_steps


def tone(hertz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.1 * torch.sin(2 * math.pi * hertz * torch.arange(int(16000 * seconds)) / 16000)


def test_rows_equal_a_loop():
    speech = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    window = torch.hann_window(WINDOW)
    for row in (0, 7, 24):
        energies = []
        for moment in range(4):     # centred in four even parts of the video frame
            centre = row * STEP + HOP * moment + HOP // 2
            taken = torch.stack([speech[i] if 0 <= i < len(speech) else torch.tensor(0.0)
                                 for i in range(centre - WINDOW // 2, centre + WINDOW // 2)])
            spectrum = torch.fft.rfft(taken * window, 512).abs().square() / WINDOW
            energies.append(((spectrum[:, None] * mel_filters()).sum(0).clamp(min=1e-6).log10() + 6) / 3 - 1)
        assert torch.allclose(mel_steps(speech, row, row + 1)[0].flatten(), torch.cat(energies), atol=1e-4)


def test_bands_are_triangles_over_even_steps_of_mel():
    lowest, highest = (2595 * math.log10(1 + hertz / 700) for hertz in (60, 7600))
    edges = [700 * (10 ** (mel / 2595) - 1) for mel in np.linspace(lowest, highest, 22)]
    expected = [np.interp(np.linspace(0, 8000, 257), edges[band:band + 3], (0, 1, 0)) for band in range(20)]
    assert np.allclose(mel_filters().T, expected, atol=1e-4)


@pytest.mark.parametrize("first, end", [(0, 25), (10, 12), (-3, 2), (23, 30), (-5, -2), (40, 44)])
def test_any_stretch_is_that_part_of_the_whole(first, end):
    speech = torch.randn(16000) * 0.1
    whole = mel_steps(torch.nn.functional.pad(speech, (16000, 32000)), 0, 75)
    assert torch.equal(mel_steps(speech, first, end), whole[first + 25:end + 25])


def test_silence_is_minus_one_and_bands_follow_pitch():
    assert (mel_steps(torch.zeros(16000), 0, 25) == -1).all()
    assert mel_steps(torch.zeros(0), 0, 3).shape == (3, LAYERS, CHANNELS)
    bands = [mel_steps(tone(hertz), 10, 11).view(4, 20)[0].argmax().item() for hertz in (150, 500, 1500, 5000)]
    assert bands == sorted(set(bands))
