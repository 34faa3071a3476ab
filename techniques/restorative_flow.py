"""Restorative flow matching (EverAnimate, section 3.3): a network learns to leave the state that a spoilt clip would be
in, back to the clean one. At inference its LoRA is an ordinary one.

With x = (1-s) x0 + s e and x' = (1-s) P(x0) + s e, the velocity that reaches x0 from x' is (e - x0) + (x' - x) / s.
That has no bound, so the target is (e - x0) + w(s) (x' - x) with a bell w. As in the authors' code, w is 0 at pure
noise, greatest where s = 1/2, and the loss has the same bell once more; only clips with s >= 1/2 are spoilt.
"""
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

MIDDLE, WIDTH = 500.0, 1000.0       # of the bell, in timesteps
THRESHOLD = 0.5                     # sigma from which on upwards a clip is spoilt
PROBABILITY = 0.8                   # in the paper; the authors' code draws it twice
SCHEDULES = ("gaussian_timestep", "fixed", "sigma_ramp", "scheduler_weight")


def levels(steps: int = 1000, shift: float = 5.0) -> Tensor:
    """The shifted sigmas of training, from 1 downwards (steps,)."""
    even = 1 - torch.arange(steps, dtype=torch.float64) / steps
    return (shift * even / (1 + (shift - 1) * even)).float()


def bell(sigmas: Tensor, every: Tensor) -> Tensor:
    """A Gaussian about sigma 1/2, 0 at its least and 1 at its most over `every` sigma of training."""
    own, all_ = (torch.exp(-2 * ((1000 * each - MIDDLE) / WIDTH) ** 2) for each in (sigmas, every))
    return (own - all_.min()) / (all_.max() - all_.min())


def loss_weight(sigmas: Tensor, every: Tensor) -> Tensor:
    """The same bell with mean 1 over `every` sigma of training."""
    return bell(sigmas, every) / bell(every, every).mean()


def restoring_weight(schedule: str, sigmas: Tensor, every: Tensor) -> Tensor:
    """How much of x' - x the target has. Raises ValueError for an unknown schedule."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: got {schedule!r}, wanted one of {', '.join(SCHEDULES)}")
    return {"gaussian_timestep": lambda: bell(sigmas, every), "fixed": lambda: torch.ones_like(sigmas),
            "sigma_ramp": lambda: (sigmas - every.min()) / (every.max() - every.min()),
            "scheduler_weight": lambda: loss_weight(sigmas, every)}[schedule]()


def exact_weight(sigmas: Tensor) -> Tensor:
    """With which one Euler step of size sigma from x' ends in x0."""
    return 1 / sigmas


@dataclass(frozen=True, eq=False)
class Pair:
    """A state and the velocity that is wanted of it, (B, C, T, h, w)."""
    x: Tensor
    target: Tensor


def make_pair(x0: Tensor, noise: Tensor, sigmas: Tensor, spoilt: Tensor | None = None, weight: Tensor | float = 0.0
              ) -> Pair:
    """`sigmas`, `weight`: (B,). `spoilt`: P(x0) of the last of its frames; those before, the pictures of the person,
    are never spoilt. Without it, and where it is x0, plain flow matching."""
    level = sigmas.view(-1, 1, 1, 1, 1)
    whole = x0 if spoilt is None else torch.cat([x0[:, :, :x0.shape[2] - spoilt.shape[2]], spoilt], 2)
    apart = (1 - level) * (whole - x0)
    strength = weight.view(-1, 1, 1, 1, 1) if isinstance(weight, Tensor) else weight
    return Pair((1 - level) * x0 + level * noise + apart, noise - x0 + strength * apart)


def restorative_loss(prediction: Tensor, pair: Pair, weight: Tensor) -> Tensor:
    """Over all frames, the pictures of the person among them; `weight`: (B,), as of `loss_weight`."""
    return (weight * (prediction - pair.target).square().flatten(1).mean(1)).mean()


def is_spoilt(sigma: float, draw: random.Random) -> bool:
    """Whether a clip of this level is spoilt; as often as in the paper."""
    return sigma >= THRESHOLD and draw.random() < PROBABILITY


@dataclass(frozen=True)
class Stage:
    """`spoils`: whether clips are spoilt, `scales`: whether pictures of the person are scaled and shifted.
    `spoils_motion`: the paper's stage 1 alone, which the authors' scripts leave out."""
    steps: int
    spoils: bool
    scales: bool
    spoils_motion: bool = False
    rank: int = 32


STAGES: Mapping[str, Stage] = {"adaptation": Stage(4000, False, False), "restoration": Stage(1000, True, True)}
