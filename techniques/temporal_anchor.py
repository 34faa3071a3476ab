"""AvatarForcing's temporal anchor: the last finished latents stay in sight of a rolling window, clean.

The paper gives a token budget and no figure; of the 7 latents of the authors' code one is the style anchor and four are
being written, so 2 are seen.
"""
from collections.abc import Iterable
from dataclasses import dataclass

from .layout import Layout
from .technique import ChunkPosition, Technique


@dataclass(frozen=True, eq=False)
class TemporalAnchor(Technique):
    """`latents`: how many; 0 for none."""
    latents: int = 2

    def __post_init__(self):
        if self.latents < 0:
            raise ValueError(f"latents: got {self.latents}, wanted 0 or more")

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        return None if position.rolls or not self.latents else "temporal anchor is inactive: no Rolling Window samples"


def count_recents(techniques: Iterable[Technique]) -> int:
    """How many finished latents stay in sight."""
    return next((technique.latents for technique in techniques if isinstance(technique, TemporalAnchor)), 0)
