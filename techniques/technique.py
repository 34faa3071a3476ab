"""What every technique answers, and where in the take it is asked.

A technique is a frozen dataclass. It answers the questions that concern it and leaves the rest to these defaults;
`rank` fixes the order in which they are asked, so that the order of the nodes on the canvas does not matter.
"""
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from .layout import Layout

DEFAULT_DISTANCE_LATENTS = 3   # of a lookahead anchor: 12 pixel frames, where paper 000 finds the best lip sync


@dataclass(frozen=True, eq=False)
class ChunkPosition:
    """Where in the take one chunk stands. Outside *Long Take* it is the first chunk, with nothing handed over.

    `start_seconds`: time of the chunk's first new frame. `reference`: (1, C, 1, h, w) latent of the take's picture.
    `context`: (1, C, k, h, w) clean latents that open the window, for models that take them as tokens. `chunk`: its
    number, from 0. `first_latent`: number of the window's first latent in the take.
    """
    start_seconds: Fraction = Fraction(0)
    reference: Tensor | None = None
    context: Tensor | None = None
    chunk: int = 0
    first_latent: int = 0


@dataclass(frozen=True, eq=False)
class Technique:
    rank: ClassVar[int]

    def sort_key(self) -> tuple:
        return (self.rank,)

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        """What enters the sequence, and at what time?"""
        return layout

    def visibility(self, layout: Layout) -> Mapping[tuple[int, int], float]:
        """{(query frame, key frame): factor} for pairs that do not see each other in full (0 hides, 1 is normal)."""
        return {}

    def pictures(self) -> Mapping[str, Tensor]:
        """Latents (1, C, k, h, w) of its own, by what the user calls them."""
        return {}

    def notice(self, layout: Layout) -> str | None:
        """A sentence for the log when the technique changes nothing in this layout."""
        return None


def lay_out(own: Layout, techniques: tuple[Technique, ...], position: ChunkPosition
            ) -> tuple[Layout, dict[tuple[int, int], float]]:
    """The model's own layout after all techniques, and who sees whom: {(query frame, key frame): factor}."""
    layout = own
    for technique in techniques:
        layout = technique.layout(layout, position)
    return layout, visibility_table(layout, techniques)


def restricts_visibility(techniques: tuple[Technique, ...]) -> bool:
    """Whether any technique has a say in who sees whom, in this layout or another."""
    return any(type(technique).visibility is not Technique.visibility for technique in techniques)


def visibility_table(layout: Layout, techniques: tuple[Technique, ...]) -> dict[tuple[int, int], float]:
    """All techniques' visibility in one table; where two speak of the same pair their factors multiply."""
    table: dict[tuple[int, int], float] = {}
    for technique in techniques:
        for pair, factor in technique.visibility(layout).items():
            table[pair] = table.get(pair, 1.0) * factor
    return table
