"""AvatarForcing's students: regression on a teacher's paths, then distribution matching on rolling windows.

A rollout runs as in use, without gradient, to a window that was drawn; the gradient goes through the last pass of that
window alone. The teacher is the network with its adapters off, the critic another adapter on it, trained by flow
matching on what the student makes.
"""
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...techniques.distillation import matching_gradient, matching_loss, mix_states, regression_loss
from ...techniques.flow_matching import clean_of, draw_sigma, flow_loss, mix
from ...techniques.rolling_window import Call, Rolling, list_calls, noise_seed, spread_levels
from ...techniques.style_anchor import StyleAnchor
from ...techniques.technique import Technique
from ...techniques.temporal_anchor import TemporalAnchor
from .clips import Clip, Clips
from .flow_recipes import Chunks, FlowRecipe, draw, first_of, given_of, part, reference_of
from .recipe import LORA, Example, Network, Phase, generator_of

CRITIC, CRITIC_STEPS = "critic", 2      # of the critic for each of the student; DMD2 has 5


class Regression(FlowRecipe):
    """The student sees the states of the teacher's own path, each block at its level of the window, and is asked for
    the path's end."""
    name = "student regression"
    arrays = ("trajectory", "trajectory_sigmas")
    layouts = ("a level for each block",)
    phases = (Phase("regression"),)

    def __init__(self, clips: Clips, chunks: Chunks, rolling: Rolling):
        self.rolling = rolling
        super().__init__(clips, chunks)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.rolling})"

    def check_lengths(self) -> None:
        for index in range(len(self.clips)):
            latents = self.clips[index]["trajectory"].shape[2]
            if latents < self.rolling.block_latents:
                raise ValueError(f"clips: the path of {self.clips[index].info.name!r} has {latents} latents, less than "
                                 f"a block of {self.rolling.block_latents}. Make longer ones with Backfill")

    def example(self, step: int) -> Example:
        generator = generator_of(self.chunks.seed, step)
        clip = self.clips[draw(generator, 0, len(self.clips))]
        path, rolling = clip["trajectory"], self.rolling
        blocks = min(path.shape[2] // rolling.block_latents, rolling.length)
        refinement = draw(generator, 0, rolling.passes)
        levels = [rolling.sigmas[(blocks - 1 - block) * rolling.passes + refinement] for block in range(blocks)]
        sigmas = torch.tensor(levels).repeat_interleave(rolling.block_latents)
        end = part(path[-1], 0, len(sigmas))
        states = mix_states(path.float(), clip["trajectory_sigmas"], sigmas.tolist())
        nothing = torch.zeros_like(end)     # a path is in model space, and of the clip's own latents nothing is seen
        return Example(clip, nothing, nothing, sigmas, first_of(clip), given_of(clip),
                       sound=self.sound(clip, generator), more={"state": states, "end": end},
                       **self.beside(clip, 0, generator))

    def beside(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        picture = reference_of(clip)
        techniques: tuple[Technique, ...] = (StyleAnchor(latents=picture),)
        return {"techniques": techniques, "reference": picture}

    def loss(self, network: Network, example: Example) -> Tensor:
        like = network.to_model(example.latents)
        x, end = (example.more[name].to(like) for name in ("state", "end"))
        velocity = network.velocity(example, x, example.sigmas)
        return regression_loss(clean_of(x, velocity, example.sigmas), end)


class Matching(FlowRecipe):
    """DMD on rollouts of 1 to `blocks` blocks, `recents` finished latents of which stay in sight."""
    name = "student matching"
    arrays = ("latents", "speech")
    layouts = ("rolling window",)
    phases = (Phase("distribution matching"),)
    adapters = (LORA, CRITIC)

    def __init__(self, clips: Clips, chunks: Chunks, rolling: Rolling, blocks: int = 8, recents: int = 2):
        self.rolling, self.blocks, self.recents = rolling, blocks, recents
        super().__init__(clips, chunks)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.rolling}, blocks={self.blocks}, recents={self.recents})"

    @property
    def length(self) -> int:
        return self.rolling.block_latents

    def adapter_at(self, step: int) -> str:
        return LORA if step % (CRITIC_STEPS + 1) == CRITIC_STEPS else CRITIC

    def example(self, step: int) -> Example:
        """`latents` of a rollout are zeros but for their size: nothing of the clip but picture and speech is seen."""
        generator = generator_of(self.chunks.seed, step)
        clip = self.clips[draw(generator, 0, len(self.clips))]
        fitting = (clip["latents"].shape[1] - 1) // self.rolling.block_latents
        blocks = draw(generator, 1, min(self.blocks, fitting) + 1)
        calls = [call for call in list_calls(self.rolling, blocks, self.recents) if not call.writes]
        picture = part(clip["latents"], 0, 1)
        latents = torch.zeros_like(part(clip["latents"], 1, blocks * self.rolling.block_latents))
        seed = draw(generator, 0, 1 << 40)
        sigma = draw_sigma(generator, self.chunks.shift, 0.02)
        more = {"blocks": blocks, "last": calls[draw(generator, 0, len(calls))], "seed": seed, "sigma": sigma,
                "critic": self.adapter_at(step) == CRITIC}
        return Example(clip, latents, torch.randn(latents.shape, generator=generator),
                       torch.ones(latents.shape[2]), 1, reference=picture, sound="speech",
                       techniques=(StyleAnchor(latents=picture), TemporalAnchor(self.recents)), more=more)

    def roll_out(self, network: Network, example: Example) -> tuple[Tensor, Call]:
        """The student's x0 of the drawn window, and its call; with gradient where it is on, through that call alone."""
        last, rolling, seed = example.more["last"], self.rolling, example.more["seed"]
        held: dict[int, Tensor] = {}
        seen: list[Tensor] = []
        like = network.to_model(example.latents)

        def noise_of(block: int, level: int) -> Tensor:
            generator = torch.Generator().manual_seed(noise_seed(seed, block, level))
            shape = (*like.shape[:2], rolling.block_latents, *like.shape[3:])
            return torch.randn(shape, generator=generator).to(like)

        for call in list_calls(rolling, example.more["blocks"], self.recents):
            if call.writes:
                seen = [torch.cat([*seen, held.pop(call.blocks.start)], 2)[:, :, -self.recents:]]
                continue
            for block, level in zip(call.blocks, call.levels, strict=True):
                if level == 0:
                    held[block] = noise_of(block, 0)
            x = torch.cat([held[block] for block in call.blocks], 2)
            ends = (call.window, call.refinement) == (last.window, last.refinement)
            with torch.set_grad_enabled(ends and torch.is_grad_enabled()):
                clean = self.predict(network, example, call, x, seen[0] if seen else None)
            if ends:
                return clean, call
            for block, level, its in zip(call.blocks, call.levels, clean.split(rolling.block_latents, 2), strict=True):
                held[block] = rolling.move(held[block], its, level, partial(noise_of, block))
            if call.emits is not None and not self.recents:
                held.pop(call.emits)
        raise AssertionError("the drawn window is one of the rollout's")

    def predict(self, network: Network, example: Example, call: Call, x: Tensor, seen: Tensor | None) -> Tensor:
        """x0 of a window beside the finished latents that it sees, which stand at level 0."""
        levels = torch.tensor(spread_levels(self.rolling.sigmas, call, self.rolling.block_latents))
        known = len(call.recents) if seen is not None else 0
        whole = x if seen is None else torch.cat([seen[:, :, -known:], x], 2)
        sigmas = torch.cat([torch.zeros(known), levels])
        velocity = network.velocity(example, whole, sigmas, call.latents.start - 1 - known)
        return clean_of(x, velocity[:, :, known:], levels)

    def loss(self, network: Network, example: Example) -> Tensor:
        critic = example.more["critic"]
        with torch.set_grad_enabled(not critic):
            clean, call = self.roll_out(network, example)
        alone = replace(example, techniques=example.techniques[:1])
        first = call.latents.start - 1
        sigmas = torch.full((clean.shape[2],), example.more["sigma"])
        noise = example.noise[:, :, :clean.shape[2]].to(clean)
        x = mix(clean.detach(), noise, sigmas)
        if critic:
            with network.with_adapter(CRITIC):
                return flow_loss(network.velocity(alone, x, sigmas, first), clean.detach(), noise)
        with torch.no_grad():
            with network.without_adapter():
                teacher = clean_of(x, network.velocity(alone, x, sigmas, first), sigmas)
            with network.with_adapter(CRITIC):
                own = clean_of(x, network.velocity(alone, x, sigmas, first), sigmas)
        return matching_loss(clean, matching_gradient(clean.detach(), teacher, own))

