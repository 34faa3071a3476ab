"""The MFCC that SyncNet takes: 13 coefficients every 10 ms of sound at 16 kHz, in pieces of any length.

After Davis & Mermelstein, 1980, with python_speech_features' defaults, which SyncNet was trained with: pre-emphasis
0.97, windows of 25 ms without taper, 26 mel bands of 512 points, lifter 22, the log energy in place of the first.
"""
import numpy as np

SAMPLE_RATE, STEP, WINDOW, POINTS, BANDS, COEFFICIENTS = 16_000, 160, 400, 512, 26, 13
EMPHASIS, LIFTER = 0.97, 22
LEAST = 2.0 ** -52      # in place of no energy at all
LOUDEST = 32768         # the samples are taken as 16-bit integers


class SpeechMfcc:
    """Mono samples, -1..1, in order -> coefficients (n, 13) of the windows that are wholly there."""

    def __init__(self) -> None:
        self._bands, self._lifter = mel_bands(), lifter()
        self._rest, self._before = np.zeros(0), 0.0

    def add(self, samples: np.ndarray) -> np.ndarray:
        from scipy.fft import dct

        whole = np.rint(np.asarray(samples, dtype=np.float64) * LOUDEST).clip(-LOUDEST, LOUDEST - 1)
        joined: np.ndarray = np.append(self._before, whole)
        self._rest = np.append(self._rest, joined[1:] - EMPHASIS * joined[:-1])
        self._before = float(joined[-1])
        count = max((len(self._rest) - WINDOW) // STEP + 1, 0)
        if not count:
            return np.zeros((0, COEFFICIENTS))
        windows = np.lib.stride_tricks.sliding_window_view(self._rest, WINDOW)[:count * STEP:STEP]
        power = np.abs(np.fft.rfft(windows, POINTS)) ** 2 / POINTS
        self._rest = self._rest[count * STEP:]
        bands = np.log(above_nothing(power @ self._bands))
        cepstrum = dct(bands, type=2, norm="ortho")[:, :COEFFICIENTS] * self._lifter
        cepstrum[:, 0] = np.log(above_nothing(power.sum(1)))
        return cepstrum


def above_nothing(energy: np.ndarray) -> np.ndarray:
    return np.where(energy == 0, LEAST, energy)


def mel_bands() -> np.ndarray:
    """Triangles between whole points of the spectrum, evenly spaced in mel from 0 to 8 kHz: (257, 26). librosa's have
    their edges between the points, which SyncNet was not trained with."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), BANDS + 2)
    edges = np.floor((POINTS + 1) * 700 * (10 ** (mel / 2595) - 1) / SAMPLE_RATE)
    points = np.arange(POINTS // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (points - low) / (middle - low), (high - points) / (high - middle)
    return np.where(points < middle, rising, falling).clip(0)


def lifter() -> np.ndarray:
    """How much each coefficient counts: (13,)."""
    return 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
