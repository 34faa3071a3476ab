"""A training run that can be ended and taken up again: checkpoint, averaged weights, learning rate, log of the loss."""
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_EVERY_SECONDS, LOG_EVERY_STEPS, WARMUP_STEPS = 120, 25, 100


class Optimizer:
    """Muon for what is a matrix, convolutions as matrices of their outputs included, AdamW for the rest. On these small
    networks it needs about half the steps that AdamW alone does."""

    def __init__(self, model: nn.Module):
        self.matrices = [weight for weight in model.parameters() if weight.numel() > 2 * weight.shape[0]
                         and weight.ndim > 1]
        self.seen = [nn.Parameter(weight.detach().flatten(1)) for weight in self.matrices]   # the same memory
        known = set(map(id, self.matrices))
        rest = [weight for weight in model.parameters() if id(weight) not in known]
        self.parts = (torch.optim.Muon(self.seen, weight_decay=0.0), torch.optim.AdamW(rest, betas=(0.9, 0.98)))

    def step(self, rates: tuple[float, float]) -> None:
        for weight, seen in zip(self.matrices, self.seen, strict=True):
            seen.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part, rate in zip(self.parts, rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
        for weight in (*self.matrices, *(weight for group in self.parts[1].param_groups for weight in group["params"])):
            weight.grad = None


class Run:
    """`step(index)` gives the loss of one batch. `rate`: Muon's; AdamW's is a fifth; at the end `left` of it is left.
    What is in `folder` already is gone on from."""

    def __init__(self, folder: Path, model: nn.Module, steps: int, rate: float, average: float = 0.999,
                 left: float = 0.05):
        self.folder, self.model, self.steps, self.rate, self.average = folder, model, steps, rate, average
        self.left = left
        self.optimizer = Optimizer(model)
        self.averaged = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.done, self.log = 0, []
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            self.resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def resume(self) -> None:
        kept = torch.load(self.checkpoint, map_location=next(self.model.parameters()).device, weights_only=True)
        self.model.load_state_dict(kept["model"])
        for part, state in zip(self.optimizer.parts, kept["optimizer"], strict=True):
            part.load_state_dict(state)
        self.averaged, self.done, self.log = kept["averaged"], kept["done"], kept["log"]

    def save(self) -> None:
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save({"model": self.model.state_dict(), "averaged": self.averaged,
                    "optimizer": [part.state_dict() for part in self.optimizer.parts], "done": self.done,
                    "log": self.log}, unfinished)
        unfinished.replace(self.checkpoint)
        (self.folder / "log.json").write_text(json.dumps(self.log), encoding="utf-8")

    def learning_rate(self) -> float:
        """Warm-up, then a cosine down to what is to be left."""
        share = 0.5 + 0.5 * math.cos(math.pi * self.done / self.steps)
        return self.rate * min(1, (self.done + 1) / WARMUP_STEPS) * (self.left + (1 - self.left) * share)

    def train(self, step: Callable[[int], Tensor], minutes: float) -> None:
        """Until all steps are done or `minutes` have passed."""
        started = saved = time.monotonic()
        recent: list[float] = []
        while self.done < self.steps and time.monotonic() - started < minutes * 60:
            loss = step(self.done)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step((self.learning_rate(), self.learning_rate() / 5))
            self.done += 1
            self.follow()
            recent.append(loss.item())
            if self.done % LOG_EVERY_STEPS == 0:
                self.log.append([self.done, sum(recent) / len(recent)])
                print(f"{self.done} {self.log[-1][1]:.4f} {(time.monotonic() - started) / 60:.1f} min", flush=True)
                recent = []
            if time.monotonic() - saved > SAVE_EVERY_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    @torch.no_grad()
    def follow(self) -> None:
        """The running average of the weights, quicker at the start."""
        share = max(1 - self.average, 1 / (self.done + 10))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.averaged[name].lerp_(tensor, share)
            else:
                self.averaged[name].copy_(tensor)
