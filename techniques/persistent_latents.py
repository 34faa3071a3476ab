"""Persistent latents (EverAnimate, section 4.1): a take remembers the person in pictures that never change, and goes on
from the latents of the clip before as they were sampled.

Identity memory is N pictures, each encoded alone: the reference, and views that were given or frames of the first clip,
drawn once. Motion memory is the last M latents. In a model that was trained so both stand in its channels, the pictures
marked as known and the motion not. We also let the user give views and choose the order; where a model has no such
channels the pictures stand ahead of the chunk as clean frames, which is ours.
"""
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import LOOKAHEAD_LATENTS, Layout, Span
from .protocols import Past
from .technique import ChunkPosition, Technique

COMPLETE_WITH = ("frames of the first chunk", "the reference")
ORDERS = ("reference first", "upstream")
CLIP_PICTURES = ("last frame", "reference")
MOST_PICTURES, MOST_MOTION = 8, 4


@dataclass(frozen=True, eq=False)
class Memory:
    """`identity`: (1, C, N, h, w), one latent a picture. `motion`: (1, C, M, h, w), None for the first clip."""
    identity: Tensor
    motion: Tensor | None = None


@dataclass(frozen=True, eq=False)
class PersistentLatents(Technique):
    """`count`: pictures in all, N. `motion_latents`: M. `views`: (n, H, W, 3), 0..1, beside the reference; what lacks
    is completed as `complete_with` says, by `seed`. `clip_picture`: what CLIP vision sees from the second clip on."""
    count: int = 4
    motion_latents: int = 1
    complete_with: str = COMPLETE_WITH[0]
    order: str = ORDERS[0]
    seed: int = 0
    views: Tensor | None = None
    clip_picture: str = CLIP_PICTURES[0]

    def __post_init__(self):
        limits = {"count": (1, MOST_PICTURES), "motion_latents": (0, MOST_MOTION)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name}: got {getattr(self, name)}, wanted {least} to {most}")
        for name, known in (("complete_with", COMPLETE_WITH), ("order", ORDERS), ("clip_picture", CLIP_PICTURES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, wanted one of {', '.join(known)}")

    @property
    def given_views(self) -> tuple[Tensor, ...]:
        """(1, H, W, 3) each, as many as there is room for beside the reference."""
        return () if self.views is None else tuple(view[None] for view in self.views[:self.count - 1])

    @property
    def drawn(self) -> int:
        """How many frames of the first chunk become pictures."""
        return self.missing(len(self.given_views))

    def missing(self, views: int) -> int:
        """The same where of the views so many differ from the reference and from one another."""
        return self.count - 1 - views if self.complete_with == COMPLETE_WITH[0] else 0

    def arrange(self, reference: Tensor, others: Tensor) -> Tensor:
        """The identity memory (1, C, N, h, w): `others` (1, C, k, h, w), the rest is the reference."""
        filled = reference.expand(-1, -1, self.count - others.shape[2], -1, -1)
        return torch.cat([filled, others] if self.order == ORDERS[0] else [others, filled], 2)

    def handover(self, past: Past, count: int, encode: Callable[[Tensor], Tensor], temporal_ratio: int = 4) -> Tensor:
        return past.latents(count)

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        """Where the model has no channels for them: context, and the pictures that it does not show itself, each
        farther ahead than the one before."""
        layout = layout if layout.find("context") else layout.open_with(position.context)
        if position.identity is None:
            return layout
        own = [] if layout.find("reference") or position.reference is None else [position.reference]
        pictures = torch.cat([*own, position.identity], 2)
        last = max(time for span in layout.spans for time in span.times)
        times = tuple(last + LOOKAHEAD_LATENTS * (place + 1) for place in range(pictures.shape[2]))
        return layout.append(Span("anchor", times, latents=pictures)) if times else layout

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        if position.reference is not None or position.identity is not None:
            return None
        return "persistent latents: only Long Take hands anything from clip to clip; a clip alone is as its first one"


def memory_channels(memory: Memory, latents: int, null: Tensor) -> tuple[Tensor, Tensor]:
    """What a clip of so many latents knows (1, C, N + latents, h, w): pictures, motion, and `null` (1, C, 1, h, w),
    which is zero in model space, wherever nothing is known. And a mask (1, 1, N + latents, h, w): 1 on the pictures,
    which alone are marked as known."""
    motion = [] if memory.motion is None else [memory.motion]
    slots = memory.identity.shape[2]
    rest = latents - sum(part.shape[2] for part in motion)
    channels = torch.cat([memory.identity, *motion, null.to(memory.identity).expand(
        memory.identity.shape[0], -1, rest, -1, -1)], 2)
    known = torch.zeros_like(channels[:, :1])
    known[:, :, :slots] = 1
    return channels, known


def draw_frames(count: int, frames: int, seed: int) -> list[int]:
    """Which of a clip's `frames` become pictures, in order; never the first, which the reference shows. Fewer than
    `count` where it has no more."""
    return sorted(random.Random(seed).sample(range(1, frames), min(count, frames - 1)))


def quantise(frames: Tensor) -> Tensor:
    """Decoded frames, 0..1, with 8 bits a value, as the authors' code has them in between."""
    return (frames.clamp(0, 1) * 255).to(torch.uint8).float() / 255
