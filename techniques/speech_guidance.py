"""Guidance with separate scales for text and speech (LongCat-Video-Avatar, disentangled guidance), and CFG-zero.

Nothing is predicted that the scales make redundant. The formulas are affine, so velocities, raw outputs and denoised
latents may all be combined by them.
"""
from collections.abc import Sequence

from torch import Tensor


def shares(text_scale: float, audio_scale: float) -> tuple[float, float, float]:
    """Weights of the predictions with text and speech, with the negative text and speech, with neither.

    They sum to 1 and write u + text_scale * (c - u_t) + audio_scale * (u_t - u); a prediction of weight 0 need not be
    made: one is left at scales of 1 and 1, two where they are equal or the audio scale is 1.
    """
    return text_scale, audio_scale - text_scale, 1 - audio_scale


def as_pair(text_scale: float, audio_scale: float) -> tuple[tuple[float, float, float], int, float]:
    """The same guidance as unconditional + scale * (conditional - unconditional), for all that hooks into plain CFG.

    Gives the weights of the three predictions in the conditional one, which of them is the unconditional one (the last,
    or the middle one where the last is redundant), and the scale. Equal scales, and an audio scale of 1, are plain CFG.
    """
    scale = max(text_scale, audio_scale) or 1.0
    positive, negative, silent = shares(text_scale / scale, audio_scale / scale)
    if audio_scale == 1:
        return (positive, negative + silent, 0.0), 1, scale
    return (positive, negative, silent), 2, scale


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
