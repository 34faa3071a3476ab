"""EverAnimate's two stages: persistent latents first, then restorative flow on spoilt clips.

Levels are the paper's 1000 shifted ones, and only the second stage spoils; the pictures of the person never are.
"""
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...techniques import restorative_flow as flow
from ...techniques.persistent_latents import PersistentLatents
from ...techniques.technique import ChunkPosition
from .clips import Clip, Clips
from .flow_recipes import Chunks, FlowRecipe, part
from .recipe import Example, Network, Phase, generator_of


class RestorativeFlow(FlowRecipe):
    """`adaptation`: steps of the first stage, examples where a step adds up several. `count`: pictures in all."""
    name = "restorative flow"
    arrays = ("latents", "pictures", "perturbed")
    layouts = ("pictures of the person", "context as latents")

    def __init__(self, clips: Clips, chunks: Chunks, adaptation: int = flow.STAGES["adaptation"].steps, count: int = 4):
        self.adaptation, self.count, self.every = adaptation, count, flow.levels(shift=chunks.shift)
        super().__init__(clips, chunks)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, adaptation={self.adaptation}, count={self.count})"

    @property
    def phases(self) -> Sequence[Phase]:    # type: ignore[override]
        return Phase("adaptation"), Phase("restoration", self.adaptation)

    def example(self, step: int) -> Example:
        given, chance = super().example(step), random.Random(self.chunks.seed * 1_000_003 + step)
        generator = generator_of(self.chunks.seed + 1, step)
        sigma = self.every[torch.randint(len(self.every), (), generator=generator)]
        spoils = step >= self.adaptation and flow.is_spoilt(float(sigma), chance)
        more = {"spoilt": part(given.clip["perturbed"], given.first_latent, given.latents.shape[2])} if spoils else {}
        return replace(given, sigmas=sigma.expand(given.latents.shape[2]).clone(), more=more)

    def beside(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        pictures = clip["pictures"]
        order = torch.randperm(len(pictures), generator=generator)[:self.count].tolist()
        chosen = pictures[order].float().movedim(0, 1)[None]
        return {"techniques": (PersistentLatents(self.count, self.chunks.context_latents),),
                "reference": chosen[:, :, :1], "position": ChunkPosition(identity=chosen[:, :, 1:])}

    def loss(self, network: Network, example: Example) -> Tensor:
        clean = network.to_model(example.latents)
        spoilt = network.to_model(example.more["spoilt"]) if "spoilt" in example.more else None
        sigma, every = example.sigmas[:1].to(clean), self.every.to(clean)
        weight = flow.bell(sigma, every) if spoilt is not None else 0.0
        pair = flow.make_pair(clean, example.noise.to(clean), sigma, spoilt, weight)
        return flow.restorative_loss(network.velocity(example, pair.x, example.sigmas), pair,
                                     flow.loss_weight(sigma, every))
