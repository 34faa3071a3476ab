"""wav2vec2 at the rate of the frames, as talking-avatar models are trained with it: the convolutions' features are
brought to one feature frame per video frame before projection and transformer, which is not the same as doing it behind
them.
"""
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from ...techniques.audio.features import between, positions
from ...techniques.audio.windows import Window
from .families import Wav2Vec2Clip, first_of


def encode_at(clip: Wav2Vec2Clip, steps: int, windows: Iterable[Window], keep: Sequence[int]) -> Iterator[list[Tensor]]:
    """Per segment the hidden states `keep` (1, n, C) of what it keeps; segments count in `steps` over the clip,
    whose first and last feature stay where they are."""
    family, rows = clip.family, clip.family.rows(clip.speech.shape[1])
    below, share = positions(rows, steps)
    for window in windows:
        here = below[window.first:window.end]
        first, end = int(here[0]), min(int(here[-1]) + 2, rows)
        features = between(clip.features(first, end)[0], here - first, share[window.first:window.end])
        hidden = first_of(family.network.feature_projection(features[None]))
        kept = slice(window.keep_first - window.first, window.keep_end - window.first)
        yield [layer[:, kept] for layer in family.walk(hidden, keep)]
