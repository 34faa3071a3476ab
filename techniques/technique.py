"""What every technique answers, and where in the take it is asked.

A technique is a frozen dataclass. It answers the questions that concern it and leaves the rest to these defaults;
`ORDER` is the order in which they are asked, so that the order of the nodes in the graph does not matter.
"""
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from .attention_guidance import AttentionGuidance
from .layout import Layout, Span
from .protocols import Past
from .sparse_blocks import SparseBlocks

ORDER = ("LatentStitch", "PersistentLatents", "TemporalAnchor", "StyleAnchor", "LookaheadAnchor",
         "NarrativeKeyframes", "VideoReference", "CustomBackground", "GlobalTime", "ReferenceSkip", "ConditioningCache",
         "BlockSparseAttention", "NegativeText", "ColourMatch")


@dataclass(frozen=True, eq=False)
class ChunkPosition:
    """Where in the take one chunk stands. Outside *Long Take* it is the first chunk, with nothing handed over.

    `start_seconds`: time of the chunk's first new frame. `reference`: (1, C, 1, h, w) latent of the take's picture.
    `context`: (1, C, k, h, w) clean latents that open the chunk, for models that take them as tokens. `chunk`: its
    number, from 0. `first_latent`: index of the chunk's first latent in the take. `window`: which latents of the
    sampler's `whole` number a call holds, in its order, where a node samples in context windows. `rolls`: whether a
    call is a rolling window's; `remembers`: whether its model keeps picture and finished latents in a KV cache.
    `call_latents`: how many latents a call has at most, where those are fewer than the sampler's; 0 where it has all.
    `identity`: (1, C, k, h, w), further pictures of the person that stand in the sequence. `opening`: (1, C, 1, h, w),
    the take's first latent, from its second chunk on.
    """
    start_seconds: Fraction = Fraction(0)
    reference: Tensor | None = None
    context: Tensor | None = None
    chunk: int = 0
    first_latent: int = 0
    window: tuple[int, ...] = ()
    whole: int = 0
    rolls: bool = False
    remembers: bool = False
    call_latents: int = 0
    identity: Tensor | None = None
    opening: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Technique:
    """`stacks`: whether several may stand on one model; of the others a later one replaces the earlier."""
    stacks: ClassVar[bool] = False

    def sort_key(self) -> tuple:
        """Among all techniques, and among its like. ValueError where `ORDER` names neither it nor what it inherits."""
        own = next((kind.__name__ for kind in type(self).__mro__ if kind.__name__ in ORDER), None)
        if own is None:
            raise ValueError(f"technique: got {type(self).__name__}, which has no place in the order of techniques. "
                             "Inherit from one that has, or name it in ORDER of techniques/technique.py")
        return (ORDER.index(own),)

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        """What enters the sequence, and at what time?"""
        return layout

    def visibility(self, layout: Layout) -> Mapping[tuple[int, int], float]:
        """{(query frame, key frame): weight} for pairs that do not see each other in full (0 hides, 1 is normal)."""
        return {}

    def handover(self, past: Past, count: int, encode: Callable[[Tensor], Tensor], temporal_ratio: int = 4
                 ) -> Tensor | None:
        """What passes to the next chunk: `count` clean latents (1, C, count, h, w), fewer when the take is younger.
        `encode` is (T, H, W, 3) -> (1, C, t, h, w)."""
        return None

    def handover_frames(self, count: int, temporal_ratio: int = 4) -> int:
        """How many decoded frames of the past that needs."""
        return 0

    def conditioning_cache(self) -> str | None:
        """Where a KV cache of the conditioning frames is kept, for models that can: "VRAM" or "RAM"."""
        return None

    def finish_frames(self, frames: Tensor, picture: Tensor) -> Tensor:
        """Decoded frames (T, H, W, 3), 0..1, as they are written and the next chunk is given them; `picture`: the
        take's own (1, H, W, 3)."""
        return frames

    def picture_notice(self, picture: Tensor) -> str | None:
        """A sentence for the log when decoded frames cannot be changed by this picture of the take (1, H, W, 3)."""
        return None

    def finishes(self) -> bool:
        """Whether it changes decoded frames."""
        return type(self).finish_frames is not Technique.finish_frames

    def pads(self) -> bool:
        """Whether the take's picture stands in a window where nothing is known yet, for models that take known frames
        as channels."""
        return False

    def sparse_attention(self) -> SparseBlocks | None:
        """Which keys self-attention leaves out, for models that can."""
        return None

    def negative_text(self) -> tuple[Tensor, AttentionGuidance] | None:
        """What the text cross-attention is guided away from, for models that can: an encoded prompt, and how far."""
        return None

    def check_chunk(self, latents: int, context: int, height: int, width: int) -> None:
        """Raises ValueError for a chunk of so many latents, `context` of them given, and a size in latents, that it
        cannot have."""

    def check_first_call(self, latents: int) -> None:
        """Raises ValueError where a take cannot begin with a call of so many latents, a chunk's or a window's."""

    def pictures(self) -> Mapping[str, Tensor]:
        """Latents (1, C, k, h, w) of its own, by what the user calls them."""
        return {}

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        """A sentence for the log when the technique changes nothing in this layout."""
        return None

    def take_notices(self, end_seconds: Fraction) -> Sequence[str]:
        """Sentences for the log about what of it a take that ends at `end_seconds` never uses."""
        return ()


def sort_techniques(techniques: Iterable[Technique]) -> tuple[Technique, ...]:
    return tuple(sorted(techniques, key=lambda technique: technique.sort_key()))


def equal_techniques(some: Any, others: Any) -> bool:
    """Whether two techniques, or tuples of them, say the same: by value, pictures included."""
    if type(some) is not type(others):
        return False
    if isinstance(some, Tensor):
        return some.shape == others.shape and some.dtype == others.dtype and torch.equal(some.cpu(), others.cpu())
    if is_dataclass(some):
        return all(equal_techniques(getattr(some, part.name), getattr(others, part.name)) for part in fields(some))
    if isinstance(some, tuple | list):
        return len(some) == len(others) and all(map(equal_techniques, some, others))
    return bool(some == others)


def find_handover(techniques: Iterable[Technique]) -> Technique | None:
    """The technique that says what passes to the next chunk."""
    return next((technique for technique in techniques if type(technique).handover is not Technique.handover), None)


def finishing_frames(techniques: Iterable[Technique]) -> tuple[Technique, ...]:
    """Those that change decoded frames, in order."""
    return tuple(technique for technique in techniques if technique.finishes())


def find_conditioning_cache(techniques: Iterable[Technique]) -> str | None:
    """Where a KV cache of the conditioning frames is kept; None where no technique wants one."""
    return next(filter(None, (technique.conditioning_cache() for technique in techniques)), None)


def find_negative_text(techniques: Iterable[Technique]) -> tuple[Tensor, AttentionGuidance] | None:
    """What the text cross-attention is guided away from; None where it is not."""
    return next(filter(None, (technique.negative_text() for technique in techniques)), None)


def find_sparse_attention(techniques: Iterable[Technique]) -> SparseBlocks | None:
    """Which keys self-attention leaves out; None where it sees all."""
    return next(filter(None, (technique.sparse_attention() for technique in techniques)), None)


def lay_out(own: Layout, techniques: tuple[Technique, ...], position: ChunkPosition
            ) -> tuple[Layout, dict[tuple[int, int], float]]:
    """The model's own layout after all techniques, and its visibility: {(query frame, key frame): weight}. A picture
    that two of them want at one time stands once."""
    layout = own
    for technique in techniques:
        layout = technique.layout(layout, position)
    layout = stand_once(layout)
    return layout, visibility_table(layout, techniques)


def stand_once(layout: Layout) -> Layout:
    """The layout without whole clean frames that stand in it already, at the same times; the model's own stay."""
    pictures = [span for span in layout.spans if span.latents is not None and span.clean and span.audio is None
                and (span.tokens is None or span.tokens.whole)]
    for place, span in enumerate(pictures):
        if any(other.times == span.times and same_latents(other.latents, span.latents) for other in pictures[:place]):
            layout = layout.without(span)
    return layout


def same_latents(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether both are one picture; of two on a card only where they are one tensor, since a step would wait for it."""
    if one is None or other is None or one is other:
        return one is other
    return one.device.type == other.device.type == "cpu" and one.shape == other.shape and torch.equal(one, other)


def place_anchor(layout: Layout, time: float, latents: Tensor | None, position: ChunkPosition) -> Layout:
    """An anchor from RoPE time `time` on: `latents` (1, C, k, h, w), or the model's own reference, which moves there,
    or the take's picture. A reference that another anchor has moved stays there, and the take's picture joins it.

    Raises ValueError where there is no picture.
    """
    own = layout.find("reference")
    if latents is None and own is not None and not own.placed:
        return layout.change("reference", times=tuple(time + frame for frame in range(len(own.times))), placed=True)
    latents = position.reference if latents is None else latents
    if latents is None:
        missing = ("this model has no reference picture of its own" if own is None else
                   "another anchor has moved this model's own reference")
        raise ValueError(f"anchor: {missing}, and no other came. Connect a LATENT to the anchor input (Reference "
                         "Picture makes one) or a reference to Long Take")
    return layout.append(Span("anchor", tuple(time + frame for frame in range(latents.shape[2])), latents=latents,
                              placed=True))


def restricts_visibility(techniques: tuple[Technique, ...]) -> bool:
    """Whether any technique changes what sees what, in this layout or another."""
    return any(type(technique).visibility is not Technique.visibility for technique in techniques)


def visibility_table(layout: Layout, techniques: tuple[Technique, ...]) -> dict[tuple[int, int], float]:
    """All techniques' visibility in one table; where two speak of the same pair their weights multiply."""
    table: dict[tuple[int, int], float] = {}
    for technique in techniques:
        for pair, weight in technique.visibility(layout).items():
            table[pair] = table.get(pair, 1.0) * weight
    return table
