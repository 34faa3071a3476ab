"""TAVR's last stage: masked DPO on pairs of takes. The reference network is the same one with the LoRA off."""
from dataclasses import replace

import torch
from torch import Tensor

from ...techniques.flow_matching import draw_sigma, mix
from ...techniques.preference import BETA, face_weight, masked_error, preference_loss
from .clips import Clips
from .flow_recipes import Chunks, FlowRecipe, draw, first_of, given_of, part
from .recipe import Example, Network, Phase, generator_of


class Preference(FlowRecipe):
    """`beta`: how far it may leave the network before this training. Both takes have one noise and one level."""
    name = "preference"
    arrays = ("winner", "loser")
    layouts = ("a pair of takes",)
    phases = (Phase("masked DPO"),)

    def __init__(self, clips: Clips, chunks: Chunks, beta: float = BETA):
        self.beta = beta
        super().__init__(clips, chunks)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, beta={self.beta:g})"

    def check_lengths(self) -> None:
        for index in range(len(self.clips)):
            clip = self.clips[index]
            shapes = tuple(clip["winner"].shape), tuple(clip["loser"].shape)
            if shapes[0] != shapes[1]:
                raise ValueError(f"clips: the takes of {clip.info.name!r} have the shapes {shapes[0]} and {shapes[1]}, "
                                 "wanted two equal ones. Make them with Preference Pairs")

    def example(self, step: int) -> Example:
        generator = generator_of(self.chunks.seed, step)
        clip = self.clips[draw(generator, 0, len(self.clips))]
        winner, loser = (part(clip[name], 0, clip[name].shape[1]) for name in ("winner", "loser"))
        mask = part(clip["mask"], 0, winner.shape[2]) if "mask" in clip else torch.zeros_like(winner[:, :1])
        example = Example(clip, winner, torch.randn(winner.shape, generator=generator),
                          torch.full((winner.shape[2],), draw_sigma(generator, self.chunks.shift)),
                          first_of(clip), given_of(clip), sound=self.sound(clip, generator), weight=face_weight(mask),
                          more={"loser": loser})
        return replace(example, **self.beside(clip, 0, generator))

    def loss(self, network: Network, example: Example) -> Tensor:
        takes = [network.to_model(latents) for latents in (example.latents, example.more["loser"])]
        noise, mask = example.noise.to(takes[0]), example.weight.to(takes[0])   # type: ignore[union-attr]

        def errors() -> list[Tensor]:
            return [masked_error(network.velocity(example, mix(clean, noise, example.sigmas), example.sigmas), clean,
                                 noise, mask) for clean in takes]

        with torch.no_grad(), network.without_adapter():
            before = errors()
        (winner, loser), (winner_before, loser_before) = errors(), before
        return preference_loss(winner, loser, winner_before, loser_before, self.beta)
