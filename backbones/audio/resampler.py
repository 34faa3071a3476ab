"""Sound from any rate to any other by FFmpeg's resampler, which also reads the media files: no paper.

It takes a clip piece by piece, whatever the ratio, and differs from the authors' (soxr, by librosa) by less than -60 dB
below 6.5 kHz at 16 kHz (docs/dependencies.md).
"""
import av
import torch
from torch import Tensor

from ...techniques.audio.waveform import mix_to_mono
from .families import RATE

PIECE_SAMPLES = 2 ** 16


def resample_speech(audio: dict) -> Tensor:
    """A ComfyUI AUDIO -> mono (N,) at 16 kHz."""
    return resample(mix_to_mono(audio["waveform"]), audio["sample_rate"])[0]


def resample(waveform: Tensor, rate: int, wanted: int = RATE) -> Tensor:
    """(C, N) at `rate` Hz, on the CPU -> (C, ceil(N * wanted / rate)), float32; each channel by itself."""
    if rate == wanted or not waveform.numel():
        return waveform.float()
    samples = -(-waveform.shape[1] * wanted // rate)
    return torch.stack([resample_channel(channel, rate, wanted, samples) for channel in waveform])


def resample_channel(channel: Tensor, rate: int, wanted: int, samples: int) -> Tensor:
    """(N,) -> (samples,)."""
    result, place = torch.zeros(samples), 0
    resampler = av.AudioResampler("fltp", "mono", wanted)
    for piece in (*channel.float().contiguous().split(PIECE_SAMPLES), None):
        for part in resampler.resample(None if piece is None else audio_frame(piece, rate)):
            got = torch.from_numpy(part.to_ndarray()[0])[:samples - place]
            result[place:place + len(got)] = got
            place += len(got)
    return result


def audio_frame(samples: Tensor, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples[None].numpy(), "fltp", "mono")
    frame.sample_rate = rate
    return frame
