"""Rectified flow as every recipe here trains it: x = (1-s) x0 + s e, and the network predicts v = e - x0."""
import torch
from torch import Tensor


def mix(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """The state (B, C, T, h, w) whose latent t stands at `sigmas` (T,): 1 is noise."""
    level = sigmas.view(1, 1, -1, 1, 1).to(clean)
    return (1 - level) * clean + level * noise


def clean_of(x: Tensor, velocity: Tensor, sigmas: Tensor) -> Tensor:
    """The prediction of x0 that a velocity at `sigmas` (T,) is."""
    return x - sigmas.view(1, 1, -1, 1, 1).to(x) * velocity


def weighted_error(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of the squared difference; `weight`: broadcast over it."""
    error = (prediction - target).square()
    return error.mean() if weight is None else (error * weight.to(error)).mean()


def shifted_sigma(uniform: Tensor, shift: float) -> Tensor:
    """Levels of training: `uniform` in 0..1, shifted towards noise."""
    return shift * uniform / (1 + (shift - 1) * uniform)


def flow_loss(velocity: Tensor, clean: Tensor, noise: Tensor, weight: Tensor | None = None) -> Tensor:
    return weighted_error(velocity, noise - clean, weight)


def draw_sigma(generator: torch.Generator, shift: float, least: float = 1e-3) -> float:
    """One level, never so low that nothing is left to learn."""
    return max(least, float(shifted_sigma(torch.rand((), generator=generator), shift)))
