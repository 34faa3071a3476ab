"""From a speech encoder's layers to LongCat's windows (paper 001, section 3.1): 12 layers of wav2vec2 at 32 Hz for
Avatar 1.0, five groups of whisper-large-v3's layers at 25 Hz for 1.5, then five neighbouring steps per video frame.

Silence is an encoding like any other; the zero window is the guidance's null condition and nothing else.
"""
import torch
from torch import Tensor
from torch.nn.functional import interpolate

WHISPER_GROUPS = ((0, 8), (8, 16), (16, 24), (24, 32), (32, 33))


def resampled(features: Tensor, steps: int) -> Tensor:
    """(B, S, C) -> (B, steps, C): linear, the first and the last step stay where they are.

    Avatar 1.0 does it to the convolutional features, before projection and transformer; 1.5 to the finished groups.
    """
    return interpolate(features.transpose(1, 2), steps, mode="linear", align_corners=True).transpose(1, 2)


def wav2vec_layers(states: Tensor) -> Tensor:
    """All 13 states (13, 1, S, C) -> (S, 12, C): what leaves each layer, without what enters the first."""
    return states[1:, 0].transpose(0, 1)


def whisper_groups(states: Tensor) -> Tensor:
    """All 33 states (33, 1, S, C) at 50 Hz -> (S, 5, C): means of four eighths, and the final one alone."""
    if len(states) != WHISPER_GROUPS[-1][1]:
        raise ValueError(f"whisper: got {len(states)} hidden states, wanted 33: LongCat-Avatar 1.5 needs "
                         "whisper-large-v3")
    return torch.stack([states[first:end, 0].mean(0) for first, end in WHISPER_GROUPS], 1)


def whisper_features(groups: Tensor, samples: int, sample_rate: int, rate_hz: int = 25) -> Tensor:
    """Groups (S, 5, C) at twice `rate_hz` -> (steps, 5, C) at `rate_hz` for as long as the speech lasts."""
    steps = samples * rate_hz // sample_rate
    flat = groups[:2 * steps].flatten(1)[None]
    return resampled(flat, steps)[0].unflatten(1, groups.shape[1:])


def windows(features: Tensor, first_frame: int, frames: int, stride: int, slots: int = 5) -> Tensor:
    """(steps, S, C) -> (1, frames, slots, S, C): what is heard around each video frame from `first_frame` on.

    `stride`: feature steps per video frame (2 in Avatar 1.0, 1 in 1.5). Before the start and after the end the first
    and the last step are repeated.
    """
    center = stride * torch.arange(first_frame, first_frame + frames, device=features.device)
    index = center[:, None] + torch.arange(slots, device=features.device) - slots // 2
    return features[index.clamp(0, len(features) - 1)][None]
