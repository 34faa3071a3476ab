"""OmniAvatar's audio features: wav2vec2-base-960h at 25 Hz, all its hidden states.

Silence follows the normalised speech as zeros, as upstream pads it; segments give what one pass gives.
"""
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...networks.omniavatar.settings import FPS
from ...techniques.audio.segments import Segment, plan_segments
from ...techniques.audio.waveform import standardize
from ..audio.at_frame_rate import encode_at
from ..audio.families import RATE, Wav2Vec2

SEGMENT_SECONDS, OVERLAP_SECONDS = 30, 4


def prepare_speech(speech: Tensor, frames: int) -> Tensor:
    """(N,) at 16 kHz -> (frames * 640,): zero mean and unit variance, then zeros."""
    return pad(standardize(speech.clone()), (0, frames * RATE // FPS - len(speech)))


def encode_speech(family: Wav2Vec2, device: torch.device, prepared: Tensor, frames: int,
                  watch: Callable[[Sequence[Segment]], Iterable[Segment]] = iter) -> Iterator[list[Tensor]]:
    """`prepared` speech -> piece by piece every hidden state (1, n, C), together `frames`. `watch`: is given the
    segments and hands them out, so that a user sees how far it is."""
    family = replace(family, variance_correction=None)     # `prepare_speech` did that
    segments = plan_segments(frames, SEGMENT_SECONDS * FPS, OVERLAP_SECONDS * FPS)
    clip = family.open(prepared[None], device, segments)
    return encode_at(clip, frames, watch(segments), range(family.layer_count))
