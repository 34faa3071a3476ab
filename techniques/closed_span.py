"""What stands beside a call as keys and values: clean frames that see one another and nothing else (TAVR, step 2).

They see neither noise nor the call's other frames, so a model keeps them in a KV cache for the whole take; tokens that
were not selected leave nothing. A video of the person and a scene are two of them.
"""
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from .layout import Layout, Span
from .technique import ChunkPosition, Technique, restricts_visibility

OFFLOADS = ("VRAM", "RAM")


@dataclass(frozen=True, eq=False)
class ClosedSpan(Technique):
    """`role`: its span's name. `called`: what a user calls it."""
    role: ClassVar[str]
    called: ClassVar[str]

    @property
    @abstractmethod
    def offload(self) -> str:
        """Where its keys and values are kept: "VRAM" or "RAM"."""

    @abstractmethod
    def span(self, layout: Layout, position: ChunkPosition) -> Span:
        """What stands beside the layout, and when; closed."""

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        return layout.append(self.span(layout, position))

    def visibility(self, layout: Layout) -> Mapping[tuple[int, int], float]:
        """It sees only itself."""
        span = layout.find(self.role)
        if span is None:
            return {}
        own = layout.frame_indices(span)
        others = [frame for frame in range(layout.frames) if frame not in own]
        return {(query, key): 0.0 for query in own for key in others}

    def conditioning_cache(self) -> str:
        return self.offload


def closed_spans(techniques: Iterable[Technique]) -> dict[str, ClosedSpan]:
    """Those among some techniques, by the names of their spans."""
    return {technique.role: technique for technique in techniques if isinstance(technique, ClosedSpan)}


def hides_frames(techniques: Iterable[Technique]) -> bool:
    """Whether a technique hides frames of a call from one another; a closed span hides only what it does not see."""
    return restricts_visibility(tuple(other for other in techniques if not isinstance(other, ClosedSpan)))
