"""Guidance with separate scales for text and speech (LongCat-Video-Avatar, disentangled guidance), and CFG-zero.

Nothing is predicted that the scales make redundant. The formulas are affine, so velocities, raw outputs and denoised
latents may all be combined by them.
"""
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor


def shares(*scales: float) -> tuple[float, ...]:
    """Weights of a chain of predictions, each with a condition less than the one before, and a scale between any two.

    They sum to 1 and write last + scales[-1] * (the one before - last) + ... + scales[0] * (first - second). For
    LongCat: text and speech, negative text and speech, neither, under (text_scale, audio_scale). A prediction of weight
    0 need not be made: of three one is left at scales of 1 and 1, two where they are equal or the last one is 1.
    """
    return (scales[0], *(later - earlier for earlier, later in pairwise(scales)), 1 - scales[-1])


def as_pair(*scales: float) -> tuple[tuple[float, ...], int, float]:
    """The same guidance as unconditional + scale * (conditional - unconditional), for all that hooks into plain CFG.

    Gives the weights of the predictions in the conditional one, which of them is the unconditional one (the last that
    is not redundant, and never the first), and the scale. Equal scales are plain CFG, and last ones of 1 leave
    predictions out.
    """
    needed = list(scales)
    while needed and needed[-1] == 1:
        needed.pop()
    scale = max(needed, default=1.0) or 1.0
    weights = shares(*(one / scale for one in needed)) if needed else (1.0,)
    return (*weights, *[0.0] * (len(scales) + 1 - len(weights))), max(len(needed), 1), scale


def combine_predictions(predictions: Sequence[Tensor | None], weights: Sequence[float]) -> Tensor:
    """The weighted sum of the predictions that were made. ValueError where one with a weight is missing."""
    total = None
    for prediction, weight in zip(predictions, weights, strict=True):
        if weight == 0:
            continue
        if prediction is None:
            raise ValueError(f"guidance: a prediction of weight {weight:g} was not made")
        total = prediction * weight if total is None else total + prediction * weight
    if total is None:
        raise ValueError("guidance: all weights are 0")
    return total


def projection_scale(positive: Tensor, negative: Tensor) -> Tensor:
    """CFG-zero's scale of the negative prediction, per sample: (B, ...) -> (B, 1)."""
    positive, negative = positive.flatten(1).float(), negative.flatten(1).float()
    return (positive * negative).sum(1, keepdim=True) / (negative.square().sum(1, keepdim=True) + 1e-8)


def align_negative(positive: Tensor, negative: Tensor) -> Tensor:
    """The negative prediction as CFG-zero takes it: as long as the positive one reaches along it."""
    return negative * projection_scale(positive, negative).view(-1, *[1] * (negative.ndim - 1)).to(negative)


def zero_guided(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """CFG-zero (Fan et al.), as the base LongCat-Video samples; over noisy frames alone where clean ones are cached."""
    negative = align_negative(positive, negative)
    return negative + scale * (positive - negative)
