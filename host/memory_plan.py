"""What a training will hold in memory, counted before its first step."""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import comfy.model_management
import torch

from ..backbones.train_counting import counting_guider, tally_of
from ..backbones.train_host import Adapters, trained_layers
from ..pipelines.training.recipe import Recipe
from .recipe_network import GuidedNetwork

ROOM = 1 << 30      # what a step needs beside: kernels' work space, the example, fragments
KINDS = (16, 24, 32, 48, 80, 96)    # GB of cards


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes. `weights`: of the model as it is stored; `adapters`: in fp32 with gradient and both of AdamW's moments;
    `between`: what blocks are given and what is saved outside of them, held from forward to backward; `inside`: what
    one block's backward makes again; `card`: the device's memory, 0 where it is the processor's."""
    weights: int
    adapters: int
    between: int
    inside: int
    card: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.between + self.inside + ROOM

    @property
    def fits(self) -> bool:
        return not self.card or self.total <= self.card

    def __str__(self) -> str:
        parts = (f"{gigabytes(self.total)}: weights {gigabytes(self.weights)}, LoRA with gradient and AdamW "
                 f"{gigabytes(self.adapters)}, activations {gigabytes(self.between)} between blocks and "
                 f"{gigabytes(self.inside)} in one, {gigabytes(ROOM)} beside")
        if not self.card:
            card = next((size for size in KINDS if size * 1e9 >= self.total), None)
            return f"memory of a step {parts}; " + (f"a card of {card} GB has room for it" if card else
                                                    "more than one card has")
        has = f"this card has {gigabytes(self.card)}"
        return f"memory of a step {parts}; {has}" + ("" if self.fits else
                                                     ": weights are offloaded, which is slow. A quantised model (fp8, "
                                                     "int8), shorter chunks or a smaller size needs less")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def plan_memory(model, recipe: Recipe, rank: int, positive: list) -> MemoryPlan:
    """Of a MODEL ready for training (attach.copy_for_training), whose weights may be on the meta device. `positive`:
    CONDITIONING of all clips."""
    layers = trained_layers(model.model, recipe.trains)
    numbers = sum(rank * (layer.weight.shape[0] + layer.weight.shape[1:].numel()) for _, layer in layers)
    tally = tally_of(model, recipe.trains, rank)
    with torch.inference_mode(False), torch.enable_grad(), counting_guider(model, positive, tally) as given:
        network = GuidedNetwork(*given, cast(Adapters, NoAdapters()), lambda clip: positive)
        recipe.loss(network, recipe.example(0))
    device = comfy.model_management.get_torch_device()
    card = 0 if device.type in ("cpu", "mps") else comfy.model_management.get_total_memory(device)
    weights = sum(weight.nbytes for weight in model.model.parameters())
    return MemoryPlan(weights, 16 * numbers * len(recipe.adapters), tally.between, tally.inside, int(card))


class NoAdapters:
    """Adapters that are counted, not there."""

    @contextmanager
    def use_within(self, name: str | None) -> Iterator[None]:
        with torch.set_grad_enabled(name is not None and torch.is_grad_enabled()):
            yield
