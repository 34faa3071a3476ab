"""AvatarForcing's style anchor: a picture that has a RoPE time of its own in every call, so that it stays at one
distance.

K(i) = RoPE(K before RoPE, u + d), u the oldest latent that the call sees and d = -1 by default; in local time that is d
itself. Without re-indexing it stays at the take's own first latent, as a cache of rotated keys has it, and the stream
leaves it behind. The authors' code does that in the calls that write a finished block, which the paper does not say.
A model with a `written` memory keeps its keys before RoPE; in any other it rides as a clean latent in every call.
"""
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from .layout import Layout
from .technique import ChunkPosition, Technique, place_anchor

AUDIO, IN_WRITE = ("nothing", "window"), ("same", "upstream")


@dataclass(frozen=True, eq=False)
class StyleAnchor(Technique):
    """`distance`: latents from the oldest one that is seen. `reindex`: whether it moves along. `window_audio`: whether
    its audio features are the window's first, instead of zeros. `in_write`: "upstream" leaves it behind in writes.
    `latents`: (1, C, 1, h, w), None for the take's own picture."""
    distance: float = -1.0
    reindex: bool = True
    window_audio: bool = False
    in_write: str = "same"
    latents: Tensor | None = None

    def __post_init__(self):
        if self.in_write not in IN_WRITE:
            raise ValueError(f"in_write: got {self.in_write!r}, wanted one of {', '.join(IN_WRITE)}")

    def pictures(self) -> dict[str, Tensor]:
        return {} if self.latents is None else {"style anchor": self.latents}

    def time(self, local_zero: int, writing: bool = False) -> float:
        """RoPE time in a call whose oldest other latent is number `local_zero` of the take and stands at 0. `writing`:
        whether the call is made to remember a finished block."""
        behind = not self.reindex or (writing and self.in_write == "upstream")
        return -local_zero if behind else self.distance

    def picture(self, position: ChunkPosition) -> Tensor:
        """(1, C, k, h, w) in LATENT space. Raises ValueError where there is none."""
        latents = self.latents if self.latents is not None else position.reference
        if latents is None:
            raise ValueError("style anchor: no picture came. Connect a LATENT to its anchor input (Reference Picture "
                             "makes one) or a reference to Long Take")
        return latents

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        changed = self.window_audio or self.in_write != IN_WRITE[0]
        return "style anchor: anchor_audio and in_write are inactive: this model does not remember its picture" if (
            changed and not position.remembers) else None

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        if position.remembers:
            return layout
        return place_anchor(layout, self.time(position.first_latent), self.latents, position)


def find_style_anchor(techniques: Iterable[Technique]) -> StyleAnchor | None:
    """The one among some techniques."""
    return next((technique for technique in techniques if isinstance(technique, StyleAnchor)), None)
