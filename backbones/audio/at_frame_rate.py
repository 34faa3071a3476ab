"""wav2vec2 at the rate of the frames, as talking-avatar models are trained with it: the convolutions' features are
brought to one feature frame per video frame before projection and transformer, which is not the same as doing it behind
them.
"""
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from ...techniques.audio.features import interpolate_frames, positions
from ...techniques.audio.segments import Segment
from .families import Wav2Vec2Clip, first_of


def encode_at(clip: Wav2Vec2Clip, steps: int, segments: Iterable[Segment], keep: Sequence[int]
              ) -> Iterator[list[Tensor]]:
    """Per segment the hidden states `keep` (1, n, C) of what it keeps; segments count in `steps` over the clip,
    whose first and last feature stay where they are."""
    family, rows = clip.family, clip.family.rows(clip.speech.shape[1])
    below, share = positions(rows, steps)
    for segment in segments:
        here = below[segment.first:segment.end]
        first, end = int(here[0]), min(int(here[-1]) + 2, rows)
        features = interpolate_frames(clip.features(first, end)[0], here - first, share[segment.first:segment.end])
        hidden = first_of(family.network.feature_projection(features[None]))
        kept = slice(segment.keep_first - segment.first, segment.keep_end - segment.first)
        yield [layer[:, kept] for layer in family.walk(hidden, keep)]
