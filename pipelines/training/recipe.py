"""What a fine-tune is: a recipe makes one example for each step, and says what its loss is.

An example is one chunk as the model meets it in use: the techniques of the product lay it out, and the backbone is
asked for its conditions as for any chunk of a take. So a recipe trains on every family whose techniques it uses.
"""
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ...techniques.technique import ChunkPosition, Technique
from .clips import Clip


@dataclass(frozen=True, eq=False)
class Example:
    """One chunk of one clip; its latents all in LATENT space.

    `latents`: (1, C, n, h, w) clean, what is to be made. `noise`: of the same shape, in model space, sigma 1.
    `sigmas`: (n,) level of each latent. `first_latent`: of the clip, the chunk's first. `context`: (1, C, k, h, w) the
    clean latents that open the chunk, beside `latents`; `re_encoded`: whether they begin with a frame alone.
    `reference`: (1, C, 1, h, w) the person's picture. `techniques`, `position`: what lays out the call.
    `sound`: "speech", "silence" (encoded), "null" (zeros). `weight`: (1, 1, n, h, w) of the loss, its mean 1; None: 1
    everywhere. `more`: what only the recipe's own loss reads.
    """
    clip: Clip
    latents: Tensor
    noise: Tensor
    sigmas: Tensor
    first_latent: int = 0
    context: Tensor | None = None
    re_encoded: bool = False
    reference: Tensor | None = None
    techniques: tuple[Technique, ...] = ()
    position: ChunkPosition = field(default_factory=ChunkPosition)
    sound: str = "speech"
    weight: Tensor | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


class Network(Protocol):
    """The model under training, as a loss sees it. Model space, float32."""

    def to_model(self, latents: Tensor) -> Tensor:
        """Latents of an example (1, C, n, h, w) in model space, on the model's device."""

    def velocity(self, example: Example, x: Tensor, sigmas: Tensor, first: int = 0) -> Tensor:
        """The predicted e - x0 (1, C, f, h, w) of the state `x`, which holds the example's latents from `first` on, all
        by default; they stand at `sigmas` (f,)."""

    def without_adapter(self) -> AbstractContextManager[None]:
        """Inside, `velocity` is the base model's own, without gradient."""

    def with_adapter(self, name: str) -> AbstractContextManager[None]:
        """Inside, `velocity` has another of the run's adapters, such as DMD's critic."""


@dataclass(frozen=True)
class Phase:
    """A stage of a recipe that begins at step `first`."""
    name: str
    first: int = 0


LORA = "lora"       # the adapter that is saved


class Recipe(Protocol):
    """`name`: in the menu. `needs`: arrays that each clip must have. `trains`: patterns of the module names that get an
    adapter; empty for all linear layers. `layouts`: how it lays out a chunk, for the log. `phases`: its stages, in
    order. `adapters`: all that it trains, LORA first."""
    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Sequence[str]: ...

    @property
    def trains(self) -> Sequence[str]: ...

    @property
    def layouts(self) -> Sequence[str]: ...

    @property
    def phases(self) -> Sequence[Phase]: ...

    @property
    def adapters(self) -> Sequence[str]: ...

    def adapter_at(self, step: int) -> str:
        """Which adapter step `step` changes."""

    def example(self, step: int) -> Example:
        """Of one step, or accumulated part of a step: a pure function of the recipe's seed and `step`."""

    def loss(self, network: Network, example: Example) -> Tensor:
        """A number with a gradient."""


def generator_of(seed: int, step: int) -> torch.Generator:
    """What a step draws from, the same on every machine; the steps of two seeds never meet."""
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + step * 0x85EBCA77 + 1) & 0x7FFF_FFFF_FFFF)
