"""InfiniteTalk's and MultiTalk's audio features: chinese-wav2vec2-base at 25 Hz, what leaves each of its 12 layers.

The speech is brought to -23 LUFS, and the convolutions' features to the video's rate before the transformer, as the
authors have it; segments give what one pass gives.
"""
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ...techniques.audio.segments import Segment, plan_segments
from ...techniques.audio.talk_windows import steps_of_samples
from ...techniques.audio.waveform import level_loudness
from ..audio.at_frame_rate import encode_at
from ..audio.families import RATE, Wav2Vec2

FPS, LAYERS, WIDTH = 25, 12, 768
WINDOW_SECONDS, OVERLAP_SECONDS = 30, 4


def encode_speech(family: Wav2Vec2, device: torch.device, speech: Tensor,
                  watch: Callable[[Sequence[Segment]], Iterator[Segment]] = iter) -> Iterator[list[Tensor]]:
    """(N,) at 16 kHz -> piece by piece what leaves each layer (1, n, C), a row per video frame. `watch`: is given the
    windows and hands them out, so that a user sees how far it is."""
    steps = steps_of_samples(len(speech), RATE, FPS)
    windows = plan_segments(steps, WINDOW_SECONDS * FPS, OVERLAP_SECONDS * FPS)
    clip = family.open(level_loudness(speech, RATE)[None], device, windows)
    return encode_at(clip, steps, watch(windows), range(1, family.layer_count))
