"""A training run that can be ended and taken up again: checkpoint, averaged weights, learning rate, log of the loss."""
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .precision import fastest

SAVE_EVERY_SECONDS, LOG_EVERY_STEPS, WARMUP_STEPS, DECAY = 110, 25, 200, 0.2
SETTLING = 0.05         # share of the newest weights in the average while the rate falls
AT_REST: list[Callable[[], None]] = []          # what else is done whenever a checkpoint has been written
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315), 5     # torch.optim.Muon's coefficients and iterations


def orthogonalise(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix with its singular values brought near 1, by iterations in `dtype`: what torch.optim.Muon does in bf16,
    which some CPUs are 40 times slower at than at fp32."""
    (a, b, c), iterations = NEWTON_SCHULZ
    x = gradient.to(dtype)
    x = x.T if gradient.shape[0] > gradient.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if gradient.shape[0] > gradient.shape[1] else x


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon without weight decay, in the number format that is fastest here."""

    def __init__(self, weights: list[nn.Parameter], momentum: float = 0.95):
        super().__init__(weights, {"lr": 1e-3, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for weight in filter(lambda weight: weight.grad is not None, group["params"]):
                state = self.state[weight]
                held = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                held.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonalise(weight.grad.lerp(held, group["momentum"]), fastest(weight.device.type))
                rows, columns = weight.shape
                weight.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


class Optimizer:
    """Muon for what is a matrix, convolutions as matrices of their outputs included, AdamW for the rest. On these small
    networks it needs about half the steps that AdamW alone does."""

    def __init__(self, model: nn.Module):
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.matrices = [weight for weight in trained if weight.numel() > 2 * weight.shape[0] and weight.ndim > 1]
        self.seen = [nn.Parameter(weight.detach().flatten(1)) for weight in self.matrices]   # the same memory
        known = set(map(id, self.matrices))
        rest = [weight for weight in trained if id(weight) not in known]
        self.parts = tuple(make(weights) for make, weights in (
            (Muon, self.seen), (lambda weights: torch.optim.AdamW(weights, betas=(0.9, 0.98)), rest)) if weights)
        self.rest = rest

    def step(self, rate: float) -> None:
        """`rate`: Muon's; AdamW's is a fifth."""
        for weight, seen in zip(self.matrices, self.seen, strict=True):
            seen.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate if isinstance(part, Muon) else rate / 5
            part.step()
        for weight in (*self.matrices, *self.rest):
            weight.grad = None


class Run:
    """`step(index)` gives the loss of one batch; what of `model` requires a gradient is trained, at `rate` (Muon's).
    The average of the weights begins after `settled` steps. The checkpoint of every `keep_every`th step stays. What is
    in `folder` already is gone on from."""

    def __init__(self, folder: Path, model: nn.Module, steps: int, rate: float, average: float = 0.999,
                 settled: int = 0, keep_every: int = 5000):
        self.folder, self.model, self.steps, self.rate = folder, model, steps, rate
        self.average, self.settled, self.keep_every = average, settled, keep_every
        self.optimizer = Optimizer(model)
        self.averaged = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.done = 0
        self.log: list[list[float]] = []        # [step, loss]
        self.precisions: list = []
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            self.resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def decaying(self) -> bool:
        return self.done >= (1 - DECAY) * self.steps

    def resume(self) -> None:
        kept = torch.load(self.checkpoint, map_location=next(self.model.parameters()).device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        for part, state in zip(self.optimizer.parts, kept["optimizer"], strict=True):
            part.load_state_dict(state)
        self.averaged, self.done, self.log = kept["averaged"], kept["done"], kept["log"]
        self.precisions = kept["precisions"]

    def save(self) -> None:
        """Whole or not at all, whenever the process ends."""
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save({"model": self.model.state_dict(), "averaged": self.averaged,
                    "optimizer": [part.state_dict() for part in self.optimizer.parts], "done": self.done,
                    "log": self.log, "precisions": self.precisions}, unfinished)
        if self.done and self.done % self.keep_every == 0:
            kept = self.folder / f"checkpoint_{self.done:06d}.pt"
            kept.unlink(missing_ok=True)
            kept.hardlink_to(unfinished)
        unfinished.replace(self.checkpoint)
        log = {"loss": self.log, "precisions": self.precisions}
        (self.folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
        for act in AT_REST:
            act()

    def learning_rate(self) -> float:
        """Warm-up, constant, then down in a straight line to 0 over the last fifth: until then a run's length may
        change, and other runs leave from it."""
        return self.rate * min(1, (self.done + 1) / WARMUP_STEPS, (self.steps - self.done) / (DECAY * self.steps))

    def train(self, step: Callable[[int], Tensor], minutes: float, kept: Callable[[int], None] = lambda done: None
              ) -> bool:
        """Until all steps are done or `minutes` have passed; whether all are. `kept` is called after each checkpoint
        that stays, with its step."""
        started = saved = time.monotonic()
        used = str(fastest(next(self.model.parameters()).device.type)).removeprefix("torch.")
        self.precisions += [used] if used not in self.precisions else []
        recent: list[float] = []
        while self.done < self.steps and time.monotonic() - started < minutes * 60:
            loss = step(self.done)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step(self.learning_rate())
            self.done += 1
            self.follow()
            recent.append(loss.item())
            if self.done % LOG_EVERY_STEPS == 0:
                self.log.append([self.done, sum(recent) / len(recent)])
                print(f"{self.done} {self.log[-1][1]:.4f} {(time.monotonic() - started) / 60:.1f} min", flush=True)
                recent = []
            if time.monotonic() - saved > SAVE_EVERY_SECONDS or self.done % self.keep_every == 0:
                self.save()
                saved = time.monotonic()
            if self.done % self.keep_every == 0:
                kept(self.done)
        self.save()
        return self.done >= self.steps

    @torch.no_grad()
    def follow(self) -> None:
        """The running average of the weights, quicker at the start; nearly the weights themselves while the rate falls,
        since they settle then by themselves and an average would still remember where they were before."""
        share = max(1 - self.average, 1 / (max(self.done - self.settled, 0) + 10)) if self.done > self.settled else 1.0
        share = max(share, SETTLING) if self.decaying else share
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.averaged[name].lerp_(tensor, share)
            else:
                self.averaged[name].copy_(tensor)
