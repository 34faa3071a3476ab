"""From a speech encoder's layers to audio features at a video's rate, and the audio slots around each of its frames
(LongCat-Video-Avatar, section 3.1; HuMo, InfiniteTalk and OmniAvatar bring features to their rate the same way).

Silence is an encoding like any other; zeros are the unconditional audio of guidance and nothing else.
"""
import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor

LEAST_SILENCE_SECONDS = Fraction(1, 2)      # after the speech: what is repeated behind it must be silence
WHISPER_GROUPS = ((0, 8), (8, 16), (16, 24), (24, 32), (32, 33))


def silence_after(samples: int, sample_rate: int, fps: int, chunk_frames: int, overlap_frames: int) -> int:
    """Samples of silence that follow the speech before it is encoded: to the end of its last whole chunk, as the
    authors have it, and at least LEAST_SILENCE_SECONDS."""
    new, seconds = chunk_frames - overlap_frames, Fraction(samples, sample_rate)
    chunks = max(1, math.ceil((seconds * fps - overlap_frames) / new))
    whole = Fraction(overlap_frames + chunks * new, fps)
    return math.ceil(max(whole - seconds, LEAST_SILENCE_SECONDS) * sample_rate)


def positions(frames: int, steps: int) -> tuple[Tensor, Tensor]:
    """Where `steps` spread over `frames` lie, the first and the last where they are: the frame below each (steps,), and
    the next one's share (steps,). float32, as torch's own interpolation has them over a whole clip.

    Avatar 1.0 does it to the convolutional features, before projection and transformer; 1.5 to the finished groups.
    """
    place = torch.arange(steps, dtype=torch.float32) * (torch.tensor(frames - 1.0) / max(steps - 1, 1))
    below = place.long().clamp(max=frames - 1)
    return below, place - below


def interpolate_frames(frames: Tensor, below: Tensor, share: Tensor) -> Tensor:
    """(S, ...) -> (steps, ...): each between the frame `below` it and the next; behind the last comes itself."""
    share = share.to(frames).view(-1, *[1] * (frames.ndim - 1))
    above = (below + 1).clamp(max=len(frames) - 1)
    return frames[below.to(frames.device)] * (1 - share) + frames[above.to(frames.device)] * share


def whisper_groups(states: Tensor | Sequence[Tensor]) -> Tensor:
    """All 33 states (1, S, C) at 50 Hz -> (S, 5, C): means of four eighths, and the final one alone."""
    if len(states) != WHISPER_GROUPS[-1][1]:
        raise ValueError(f"whisper: got {len(states)} hidden states, wanted 33, those of "
                         "whisper-large-v3")
    return torch.stack([mean_states(states[first:end]) for first, end in WHISPER_GROUPS], 1)


def mean_states(states: Tensor | Sequence[Tensor]) -> Tensor:
    """Of (1, S, C) each -> (S, C), without putting them all into one tensor first."""
    total = states[0][0].clone()
    for state in states[1:]:
        total += state[0]
    return total / len(states)


def halve_rate(pieces: Iterable[Tensor], steps: int, count: int | None = None) -> Iterator[Tensor]:
    """Rows piece by piece (n, ...), at least `count` together -> piece by piece, `steps` together.

    The first and the last of the `count` frames, 2 * steps where nothing else is said, stay where they are.
    """
    count = count or 2 * steps
    below, share = positions(count, steps)
    last = (below + 1).clamp(max=count - 1)     # the frame each step waits for
    first, done = 0, 0
    frames = None
    for piece in pieces:
        frames = piece if frames is None else torch.cat([frames[-1:], piece])
        ready = int((last < first + len(frames)).sum())
        yield interpolate_frames(frames, below[done:ready] - first, share[done:ready])
        first, done = first + len(frames) - 1, ready


def slot_steps(first_frame: int, frames: int, stride: int, steps: int, slots: int = 5) -> Tensor:
    """The feature steps (frames, slots) around each video frame, of `steps` that there are.

    `stride`: feature steps per video frame (2 in Avatar 1.0, 1 in 1.5). Before the start and after the end the first
    and the last step are repeated.
    """
    center = stride * torch.arange(first_frame, first_frame + frames)
    return (center[:, None] + torch.arange(slots) - slots // 2).clamp(0, steps - 1)
