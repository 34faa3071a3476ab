"""Recipes whose loss is plain flow matching on a chunk: what differs is what stands beside it.

Flexible anchor (Lookahead Anchoring), stitching and disentangled silence (LongCat-Video-Avatar).
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...techniques.flexible_anchor import FARTHEST_FRAMES, draw_anchor_time, nearest_picture
from ...techniques.flow_matching import draw_sigma, flow_loss, mix
from ...techniques.lookahead_anchor import LookaheadAnchor
from ...techniques.technique import Technique
from .clips import Clip, Clips, check_arrays, speaking
from .recipe import LORA, Example, Network, Phase, generator_of

RATIO = 4           # pixel frames of a latent


@dataclass(frozen=True)
class Chunks:
    """What every recipe of this pack knows. `chunk_latents`: new ones of a chunk, `context_latents`: clean ones before
    them. `shift`: of the levels. `null_audio`: how often an example has no sound at all, for guidance; `null_text` is
    the model's own affair. `farthest_frames`: d_max, pixel frames."""
    seed: int = 0
    chunk_latents: int = 9
    context_latents: int = 4
    shift: float = 5.0
    null_audio: float = 0.1
    farthest_frames: int = FARTHEST_FRAMES

    def __post_init__(self):
        if self.chunk_latents < 1 or self.context_latents < 0:
            raise ValueError(f"chunk: got {self.chunk_latents} latents behind {self.context_latents} of context, "
                             "wanted at least 1 and 0")


class FlowRecipe:
    """Draws a clip, a place in it and a level, in this order, from the step's own generator."""
    name = "flow matching"
    arrays: Sequence[str] = ("latents",)
    trains: Sequence[str] = ()
    layouts: Sequence[str] = ("context as latents",)
    phases: Sequence[Phase] = (Phase("flow matching"),)
    adapters: Sequence[str] = (LORA,)
    needs_speech = False      # whether it draws only from clips in which somebody speaks

    def __init__(self, clips: Clips, chunks: Chunks):
        self.clips, self.chunks = clips, chunks
        check_arrays(clips, self.needs, self.name)
        self.check_lengths()

    def __repr__(self) -> str:
        """What a resumed run must have in common with the one before."""
        return f"{type(self).__name__}({self.chunks})"

    @property
    def needs(self) -> Sequence[str]:
        return self.arrays

    @cached_property
    def chosen(self) -> Sequence[int]:
        """The clips that it draws from."""
        return speaking(self.clips) if self.needs_speech else range(len(self.clips))

    @property
    def length(self) -> int:
        """Latents of a clip that an example takes."""
        return self.chunks.chunk_latents + self.chunks.context_latents

    def check_lengths(self) -> None:
        if not len(self.chosen):
            raise ValueError(f"clips: in none of {len(self.clips)} does anybody speak, which {self.name} needs")
        for index in self.chosen:
            clip = self.clips[index]
            if clip["latents"].shape[1] < self.length + 1:
                raise ValueError(f"clips: {clip.info.name!r} has {clip['latents'].shape[1]} latents, {self.name} takes "
                                 f"{self.length + 1} ({self.chunks.context_latents} of context): make longer clips, or "
                                 "shorter chunks")

    def adapter_at(self, step: int) -> str:
        return LORA

    def example(self, step: int) -> Example:
        generator = generator_of(self.chunks.seed, step)
        clip = self.clips[self.chosen[draw(generator, 0, len(self.chosen))]]
        opening = self.opens(generator)
        known = 0 if opening else self.chunks.context_latents
        last = clip["latents"].shape[1] - known - self.chunks.chunk_latents
        first = 0 if opening else known + draw(generator, 1, last + 1)
        latents = part(clip["latents"], first, self.chunks.chunk_latents)
        sigma = draw_sigma(generator, self.chunks.shift)
        given: dict[str, Any] = {
            "first_latent": first, "sound": self.sound(clip, generator), "weight": face_of(clip, first, latents),
            **({} if opening else self.continues(clip, first, generator)), **self.beside(clip, first, generator)}
        return Example(clip, latents, torch.randn(latents.shape, generator=generator),
                       torch.full((latents.shape[2],), sigma), **given)

    def opens(self, generator: torch.Generator) -> bool:
        """Whether the example is a take's first chunk, one in five."""
        return not self.chunks.context_latents or float(torch.rand((), generator=generator)) < 0.2

    def continues(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        """What was handed over to a chunk whose new latents begin at `first`."""
        return {"context": part(clip["latents"], first - self.chunks.context_latents, self.chunks.context_latents)}

    def beside(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        """Reference and techniques."""
        return {"reference": reference_of(clip)}

    def sound(self, clip: Clip, generator: torch.Generator) -> str:
        if "speech" not in clip or float(torch.rand((), generator=generator)) < self.chunks.null_audio:
            return "null"
        return "silence" if clip.info.silent else "speech"

    def loss(self, network: Network, example: Example) -> Tensor:
        clean, noise = network.to_model(example.latents), example.noise
        noise = noise.to(clean)
        velocity = network.velocity(example, mix(clean, noise, example.sigmas), example.sigmas)
        return flow_loss(velocity, clean, noise, example.weight)


class FlexibleAnchor(FlowRecipe):
    """The anchor is the clip's own picture at its own time, in the chunk or up to d_max ahead: l ~ U[0, n-1+d_max]."""
    name = "flexible anchor"
    arrays = ("latents", "pictures", "picture_frames")
    layouts = ("anchor in the chunk or ahead", "context as latents")
    trains = ("*patch_embed*", "*attn*", "*ffn*")

    def beside(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        wanted = draw_anchor_time(generator, self.chunks.chunk_latents, self.chunks.farthest_frames / RATIO)
        place = nearest_picture(clip["picture_frames"], RATIO * (first + wanted))
        time = float(clip["picture_frames"][place]) / RATIO - first
        end = self.chunks.chunk_latents - 1 + self.chunks.farthest_frames / RATIO
        picture = clip["pictures"][place][None, :, None].float()
        anchor: tuple[Technique, ...] = (LookaheadAnchor(schedule=(min(max(time, 0.0), end),), latents=picture),)
        return {"techniques": anchor, "reference": picture}


class Stitching(FlowRecipe):
    """Context latents are cut from an overlapping chunk, as cross-chunk latent stitching hands them over; a share of
    them re-encoded, so that both ways stay known."""
    name = "stitching"
    layouts = ("context as latents of an overlapping chunk", "context re-encoded")

    def continues(self, clip: Clip, first: int, generator: torch.Generator) -> dict[str, Any]:
        given = super().continues(clip, first, generator)
        if "contexts" not in clip or float(torch.rand((), generator=generator)) >= 0.25:
            return given
        starts = clip["context_starts"] + clip["contexts"].shape[2]
        fitting = (starts == first).nonzero().flatten().tolist()
        length = self.chunks.context_latents
        if not fitting or clip["contexts"].shape[2] < length:
            return given
        return {"context": clip["contexts"][fitting[0]][None, :, -length:].float(), "re_encoded": True}


class Silence(FlowRecipe):
    """A clip in which nobody speaks has encoded silence as its features, never zeros: zeros are "no sound is given",
    and a model that never saw the difference shuts its mouth for both (section 3.2)."""
    name = "disentangled silence"
    arrays = ("latents", "speech")
    layouts = ("encoded silence", "no sound at all")

    def sound(self, clip: Clip, generator: torch.Generator) -> str:
        null = float(torch.rand((), generator=generator)) < self.chunks.null_audio
        return "null" if null and not clip.info.silent else "silence" if clip.info.silent else "speech"


def draw(generator: torch.Generator, first: int, stop: int) -> int:
    """One of first .. stop - 1."""
    return int(torch.randint(first, stop, (), generator=generator))


def part(latents: Tensor, first: int, count: int) -> Tensor:
    """(1, C, count, h, w) float32 of a clip's (C, T, h, w); nothing else of it is read."""
    return latents[:, first:first + count][None].float()


def reference_of(clip: Clip, place: int = 0) -> Tensor:
    """(1, C, 1, h, w): one of the clip's pictures, or its first latent, which is one frame."""
    return clip["pictures"][place][None, :, None].float() if "pictures" in clip else part(clip["latents"], 0, 1)


def first_of(clip: Clip) -> int:
    """The clip's latent at which a path or a pair of takes begins."""
    return int(clip["first"]) if "first" in clip else 0


def given_of(clip: Clip) -> Tensor | None:
    """(1, C, k, h, w): what the teacher was given before a path or a pair of takes."""
    return clip["given"][None].float() if "given" in clip else None


def face_of(clip: Clip, first: int, latents: Tensor, more: float = 1.0) -> Tensor | None:
    """The loss's weight (1, 1, n, h, w), its mean 1: a face counts `more` than the rest."""
    if "mask" not in clip:
        return None
    weight = 1 + more * part(clip["mask"], first, latents.shape[2])
    return weight / weight.mean()

