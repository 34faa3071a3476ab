"""AvatarForcing's temporal anchor: the last finished latents stay in sight of a rolling window, clean.

The paper gives a token budget and no figure; of the 7 latents of the authors' code one is the style anchor and four are
being written, so 2 are seen.
"""
from collections.abc import Iterable
from dataclasses import dataclass

from .layout import Layout
from .technique import ChunkPosition, Technique

OFFLOADS, PRECISIONS = ("VRAM", "RAM"), ("model", "fp8")


@dataclass(frozen=True, eq=False)
class TemporalAnchor(Technique):
    """`latents`: how many; 0 for none. `offload`, `precision`: where and in what their keys and values are kept, for a
    model that has a KV cache of them."""
    latents: int = 2
    offload: str = "VRAM"
    precision: str = "model"

    def __post_init__(self):
        if self.latents < 0:
            raise ValueError(f"latents: got {self.latents}, wanted 0 or more")
        for name, came, wanted in (("keep", self.offload, OFFLOADS), ("precision", self.precision, PRECISIONS)):
            if came not in wanted:
                raise ValueError(f"{name}: got {came!r}, wanted one of {', '.join(wanted)}")

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        if not position.rolls and self.latents:
            return "temporal anchor is inactive: no Rolling Window samples"
        if self.precision != PRECISIONS[0] and not position.remembers:
            return "temporal anchor: precision fp8 is inactive: this model computes its finished latents in each window"
        return None


def find_temporal_anchor(techniques: Iterable[Technique]) -> TemporalAnchor:
    """The one among some techniques; one of no latents where there is none."""
    found = (technique for technique in techniques if isinstance(technique, TemporalAnchor))
    return next(found, TemporalAnchor(0))


def count_recents(techniques: Iterable[Technique]) -> int:
    """How many finished latents stay in sight."""
    return find_temporal_anchor(techniques).latents
