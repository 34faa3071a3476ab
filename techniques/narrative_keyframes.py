"""Narrative keyframes (paper 000, section 4.4): pictures at story times, each pursued as the lookahead anchor.

The paper gives no rule for the hand-over; ours: a chunk pursues the first keyframe that has not been passed, and a
keyframe is passed when a chunk's first new frame stands at or after its time. After the last one, the take's own
picture is the anchor again.
"""
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

from torch import Tensor

from .layout import Layout, Span
from .technique import DEFAULT_DISTANCE_LATENTS, ChunkPosition, Technique


@dataclass(frozen=True, eq=False)
class NarrativeKeyframes(Technique):
    """`keyframes`: (seconds, latents (1, C, 1, h, w)) in order of time."""
    rank: ClassVar[int] = 2
    keyframes: tuple[tuple[Fraction, Tensor], ...] = ()

    def plus(self, seconds: Fraction, latents: Tensor) -> "NarrativeKeyframes":
        """The same story with one more keyframe. Raises ValueError on a negative or doubled time."""
        if seconds < 0:
            raise ValueError(f"at_seconds: got {float(seconds):g}, wanted 0 or more")
        if any(seconds == time for time, _ in self.keyframes):
            raise ValueError(f"at_seconds: two keyframes stand at {float(seconds):g} s. Move one of them")
        if latents.shape[2] != 1:
            raise ValueError(f"keyframe: got {latents.shape[2]} latent frames, wanted 1 (one picture)")
        return replace(self, keyframes=tuple(sorted((*self.keyframes, (seconds, latents)), key=lambda pair: pair[0])))

    def pictures(self) -> dict[str, Tensor]:
        return {f"keyframe at {float(seconds):g} s": latents for seconds, latents in self.keyframes}

    def keyframe_at(self, start_seconds: Fraction) -> Tensor | None:
        """What a chunk whose first new frame stands at `start_seconds` pursues; None once all are passed."""
        return next((latents for seconds, latents in self.keyframes if seconds > start_seconds), None)

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        latents = self.keyframe_at(position.start_seconds)
        if latents is None:
            return layout
        ahead = [span for span in layout.references if min(span.times) > layout.last_time]
        if ahead:
            return layout.change(ahead[0].name, times=ahead[0].times[:1], latents=latents)
        return layout.append(Span("anchor", (layout.last_time + DEFAULT_DISTANCE_LATENTS,), latents=latents))
