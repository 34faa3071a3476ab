"""Distillation of a rolling window (AvatarForcing, section 3.4): regression on a teacher's path, then distribution
matching with a critic (its equation 5).

The paper names the gradient alone; that it is divided by the mean distance from the student's prediction to the
teacher's is as in DMD (Yin et al. 2024). The critic is a LoRA of the teacher's, trained by flow matching on what the
student makes.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1e-6        # of the distance that a gradient is divided by


def regression_loss(prediction: Tensor, clean: Tensor) -> Tensor:
    """Of the student's x0 at a state on the teacher's path against where that path ends."""
    return (prediction - clean).square().mean()


def matching_gradient(student: Tensor, teacher: Tensor, critic: Tensor) -> Tensor:
    """(critic - teacher) / mean |student - teacher|: which way lies the student's distribution from the teacher's.
    All are x0 (B, C, T, h, w); `teacher` and `critic` are predicted from the student's, noised."""
    scale = (student - teacher).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=LEAST)
    return (critic - teacher) / scale


def matching_loss(student: Tensor, gradient: Tensor) -> Tensor:
    """Half the squared distance to a fixed point that `gradient` leads to: its derivative is `gradient` / numel."""
    return 0.5 * (student - (student - gradient).detach()).square().mean()


def mix_states(trajectory: Tensor, levels: Tensor, wanted: Sequence[float]) -> Tensor:
    """States (1, C, T, h, w) of a teacher's path (levels, C, T, h, w), latent t at `wanted[t]`, in a straight line
    between its two nearest. `levels`: falling. ValueError for one outside of them."""
    made = []
    for latent, sigma in enumerate(wanted):
        if not float(levels[-1]) <= sigma <= float(levels[0]):
            raise ValueError(f"sigmas: got {sigma:g}, the teacher's path has {float(levels[0]):g} down to "
                             f"{float(levels[-1]):g}")
        after = max(1, min(int((levels >= sigma).sum()), len(levels) - 1))
        above, below = float(levels[after - 1]), float(levels[after])
        share = (above - sigma) / (above - below)
        made.append(torch.lerp(trajectory[after - 1, :, latent], trajectory[after, :, latent], share))
    return torch.stack(made, 1)[None]
