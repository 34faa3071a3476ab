"""UniPC (Zhao et al. 2023), second order with B(h) = exp(-h) - 1 on flow matching, as HuMo samples: every evaluation
corrects the step that led to it and predicts the next one. The last step goes to the prediction itself.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """The corrected state at one sigma, and the clean latents that were predicted there."""
    sigma: Tensor
    state: Tensor
    clean: Tensor

    @property
    def log_ratio(self) -> Tensor:
        return log_ratio(self.sigma)


def log_ratio(sigma: Tensor) -> Tensor:
    """lambda, in which the solver takes its steps."""
    return torch.log1p(-sigma) - torch.log(sigma)


def predict(last: Evaluation, before: Evaluation | None, sigma: Tensor) -> Tensor:
    """The state at `sigma`, from the last evaluation and, in second order, the one before."""
    h = log_ratio(sigma) - last.log_ratio
    slope = torch.zeros_like(last.clean)
    if before is not None:
        slope = (before.clean - last.clean) * (h / (before.log_ratio - last.log_ratio) / 2)
    return base(last, sigma, h) - (1 - sigma) * torch.expm1(-h) * slope


def correct(last: Evaluation, before: Evaluation | None, sigma: Tensor, clean: Tensor) -> Tensor:
    """The state at `sigma` once more, now that `clean` was predicted there."""
    h = log_ratio(sigma) - last.log_ratio
    growth, change = torch.expm1(-h), clean - last.clean
    if before is None:
        slope = change / 2
    else:
        ratio = (before.log_ratio - last.log_ratio) / h
        first = growth / -h - 1
        second = first / -h - 0.5
        older = (first - 2 * second) / growth / (1 - ratio)     # [[1, 1], [ratio, 1]] rho = [first, 2 second] / growth
        slope = (before.clean - last.clean) / ratio * older + change * (first / growth - older)
    return base(last, sigma, h) - (1 - sigma) * growth * slope


def base(last: Evaluation, sigma: Tensor, h: Tensor) -> Tensor:
    """The first-order step."""
    return sigma / last.sigma * last.state - (1 - sigma) * torch.expm1(-h) * last.clean


def sample(denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, sigmas: Tensor,
           observe: Callable[[int, Tensor, Tensor], None] = lambda step, state, clean: None) -> Tensor:
    """From `noise` (...) at sigmas[0] down to the last sigma, 0. `denoise`: (state, sigma) -> clean latents; `observe`
    gets the step, the state before it and what was predicted."""
    state, done = noise, list[Evaluation]()
    for step, sigma in enumerate(sigmas[:-1]):
        clean = denoise(state, sigma)
        observe(step, state, clean)
        if done:
            state = correct(done[-1], done[-2] if step > 1 else None, sigma, clean)
        done = [*done[-1:], Evaluation(sigma, state, clean)]
        last = step == len(sigmas) - 2
        state = clean if last and sigmas[-1] == 0 else predict(done[-1], None if last or step == 0 else done[0],
                                                               sigmas[step + 1])
    return state
