"""HuMo's audio features: whisper-large-v3 at 25 Hz, five groups of its 33 states, for speech of any length.

As the authors have it each stretch of 30 s is encoded by itself, and the rate is halved over the whole speech at once:
a frame's features depend on where the speech ends, so chunks take their part of it after this.
"""
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ...techniques.audio.features import halve_rate, whisper_groups
from ...techniques.audio.segments import Segment
from ...techniques.audio.talk_windows import steps_of_samples
from ..audio.families import RATE, Whisper

FPS, WHISPER_HZ = 25, 50


def encode_speech(family: Whisper, device: torch.device, speech: Tensor,
                  watch: Callable[[Sequence[Tensor]], Iterator[Tensor]] = iter) -> Iterator[Tensor]:
    """(N,) at 16 kHz -> piece by piece (n, 5, C), a row per video frame. `watch`: is given the stretches and hands
    them out, so that a user sees how far it is."""
    frames = len(speech) * FPS // RATE
    stretches = speech.split(family.segment_frames * family.hop)
    whole = Segment(0, family.segment_frames, 0, family.segment_frames)

    def groups(stretch: Tensor) -> Tensor:
        return whisper_groups(family.open(stretch[None], device, [whole]).encode(whole, range(family.layer_count)))

    steps = steps_of_samples(2 * frames, WHISPER_HZ, FPS)
    return halve_rate(map(groups, watch(stretches)), steps, 2 * frames)
