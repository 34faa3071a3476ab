"""TAVR's video reference: frames of the person, filmed anywhere, that every frame of a take attends to.

The model's blocks see the reference alone (its frames see one another and nothing else), and the frames being made see
it beside themselves: O = attention(z; z, z_ref), O_ref = attention(z_ref; z_ref). So its keys and values are the same
in every step and need no mask: a model that can keeps them in a KV cache, in any other they ride in each call as a
span that sees only itself. When it stands in RoPE time is not published; `ahead` is ours, for models not trained so.
"""
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .closed_span import OFFLOADS, ClosedSpan
from .layout import LOOKAHEAD_LATENTS, REFERENCES, Layout, Span
from .reference_tokens import Tokens
from .technique import ChunkPosition

PLACEMENTS = ("ahead", "before", "own")
MOST_FRAMES = 48    # the most that the paper shows


@dataclass(frozen=True, eq=False)
class VideoReference(ClosedSpan):
    """`latents`: (1, C, R, h, w) in LATENT space. `tokens`: which of its tokens there are, of R latent frames.

    `placement`: `ahead` from n-1+d on, `before` up to time -2, so that a scene has room at -1, `own` from 0 on, as a
    clip of its own.
    `audio`: what is said in it, as the family's `audio_for` gives it for these latents, None for nothing. `offload`:
    where its keys and values are kept.
    """
    role: ClassVar[str] = REFERENCES
    called: ClassVar[str] = "video reference"
    latents: Tensor
    tokens: Tokens
    placement: str = PLACEMENTS[0]
    distance: float = LOOKAHEAD_LATENTS
    audio: Tensor | None = None
    offload: str = OFFLOADS[0]

    def __post_init__(self):
        if self.tokens.frames != self.frames:
            raise ValueError(f"tokens: got those of {self.tokens.frames} latent frames for {self.frames}")
        for name, came, wanted in (("placement", self.placement, PLACEMENTS), ("keep", self.offload, OFFLOADS)):
            if came not in wanted:
                raise ValueError(f"{name}: got {came!r}, wanted one of {', '.join(wanted)}")
        if self.placement == PLACEMENTS[0] and self.distance < 1:
            raise ValueError(f"distance: got {self.distance:g} latent frames, wanted at least 1: at 0 the reference "
                             "would lie inside the chunk. Raise it, or choose placement own")

    @property
    def frames(self) -> int:
        return self.latents.shape[2]

    def times(self, layout: Layout) -> tuple[float, ...]:
        """RoPE time of each of its latent frames."""
        first = {"ahead": layout.last_time + self.distance, "before": -self.frames - 1, "own": 0}[self.placement]
        return tuple(first + frame for frame in range(self.frames))

    def span(self, layout: Layout, position: ChunkPosition) -> Span:
        return Span(self.role, self.times(layout), latents=self.latents, placed=True, closed=True, tokens=self.tokens,
                    audio=self.audio)

    def pictures(self) -> dict[str, Tensor]:
        return {self.called: self.latents}
