"""Lookahead Anchoring (Seo et al. 2025): the reference picture stands ahead of the chunk instead of inside it.

The anchor is a clean latent at RoPE time n-1+d in every chunk: always visible, never reached, not part of the output.
The paper's comparison placements (its Table 4) are the other values of `placement`; unlike the paper we need no
separate projection for the anchor: most backbones here take a timestep of 0 for it, and where one timestep is for all
frames it is clean at the step's own, or stands in a reference's slot as the model was trained.
"""
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .layout import LOOKAHEAD_LATENTS, Layout
from .technique import ChunkPosition, Technique, place_anchor

PADDING = "padding"
PLACEMENTS = ("lookahead", "past", "in chunk", "chunk end", PADDING)
FARTHEST = 1024.0       # latent frames


def anchor_time(layout: Layout, placement: str, distance: float, index: float = 0) -> float:
    """RoPE time of the anchor. `distance` and `index` in latent frames.

    lookahead: n-1+d. past: -d, that is d before the chunk's first frame. in chunk: `index`. chunk end: n-1. With
    padding it has none.
    """
    check_distance(placement, distance)
    if placement == "in chunk" and not 0 <= index <= layout.last_time:
        raise ValueError(f"index: got {index:g}, wanted 0 to {layout.last_time:g}, the latent frames "
                         "of the first chunk, or of a stream's first block")
    return {"lookahead": layout.last_time + distance, "past": -distance, "in chunk": index,
            "chunk end": layout.last_time}[placement]


def check_distance(placement: str, distance: float) -> None:
    """ValueError where an anchor that should stand outside the chunk would not, or for no placement at all."""
    if placement not in PLACEMENTS:
        raise ValueError(f"placement: got {placement!r}, wanted one of {', '.join(PLACEMENTS)}")
    if placement in ("lookahead", "past") and distance < 1:
        raise ValueError(f"distance: got {distance:g} latent frames, wanted at least 1: at 0 the anchor would lie "
                         f"inside the chunk. Raise it (4 pixel frames are 1 latent frame) or place it 'chunk end'")


def parse_schedule(text: str) -> tuple[float, ...]:
    """"10, 30, -10" -> RoPE times in latent frames. Raises ValueError naming what cannot be read."""
    try:
        times = tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise ValueError(f"schedule: got {text[:100]!r}, wanted latent frames with commas between, such as 10, 30, -10"
                         ) from error
    if not all(abs(time) <= FARTHEST for time in times):
        raise ValueError(f"schedule: got {text[:100]!r}, wanted latent frames from -{FARTHEST:g} to {FARTHEST:g}")
    return times


@dataclass(frozen=True, eq=False)
class LookaheadAnchor(Technique):
    """`distance`, `index` in latent frames; `latents` (1, C, k, h, w), or None for the take's own picture.

    `schedule`: RoPE times, one per chunk in turn and then from the start again; where given, it decides the place.
    Placement `padding` (Stable Video Infinity, Li et al. 2025) adds nothing to the sequence: the take's picture stands
    in the model's channels for known frames, at every frame that is not known.
    """
    stacks: ClassVar[bool] = True
    distance: float = LOOKAHEAD_LATENTS
    placement: str = "lookahead"
    index: float = 0
    latents: Tensor | None = None
    schedule: tuple[float, ...] = ()

    def __post_init__(self):
        if not self.schedule:
            check_distance(self.placement, self.distance)
        if self.pads() and self.latents is not None:
            raise ValueError("anchor: got latents, but placement 'padding' takes the picture itself. Leave anchor open "
                             "and connect the picture to Long Take's reference")

    def sort_key(self) -> tuple:
        return (*super().sort_key(), self.latents is not None, PLACEMENTS.index(self.placement), self.distance,
                self.index, self.schedule)

    def pictures(self) -> dict[str, Tensor]:
        return {} if self.latents is None else {"anchor": self.latents}

    def pads(self) -> bool:
        return self.placement == PADDING and not self.schedule

    def check_first_call(self, latents: int) -> None:
        if not self.schedule and self.placement == "in chunk":
            anchor_time(Layout.of_chunk(latents), self.placement, self.distance, self.index)

    def time(self, layout: Layout, position: ChunkPosition) -> float:
        if self.schedule:
            return self.schedule[position.chunk % len(self.schedule)]
        if self.placement == "in chunk" and position.chunk:   # the first chunk held it; a shorter last one need not
            return self.index
        return anchor_time(layout, self.placement, self.distance, self.index)

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        if self.pads():
            return layout
        return place_anchor(layout, self.time(layout, position), self.latents, position)
