"""Narrative keyframes (Seo et al. 2025, section 4.4): pictures at story times, each pursued as the lookahead anchor.

The paper gives no rule for the hand-over; ours: a chunk pursues the first keyframe that has not been passed, and a
keyframe is passed when a chunk's first new frame stands at or after its time. After the last one, the take's own
picture is the anchor again.
"""
from dataclasses import dataclass, replace
from fractions import Fraction

from torch import Tensor

from .layout import LOOKAHEAD_LATENTS, Layout, Span
from .technique import ChunkPosition, Technique


@dataclass(frozen=True, eq=False)
class NarrativeKeyframes(Technique):
    """`keyframes`: (seconds, latents (1, C, 1, h, w)) in order of time."""
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

    def take_notices(self, end_seconds: Fraction) -> list[str]:
        """Keyframes that the take ends before, or that are passed when it begins."""
        return [f"the keyframe at {float(seconds):g} s is never reached: the take ends at {float(end_seconds):g} s"
                if seconds else "the keyframe at 0 s is passed before the take begins; give it a later time"
                for seconds, _ in self.keyframes if not 0 < seconds < end_seconds]

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        latents = self.keyframe_at(position.start_seconds)
        if latents is None:
            return layout
        ahead = [span for span in layout.references if min(span.times) > layout.last_time]
        if ahead:
            return layout.change(ahead[0], times=ahead[0].times[:1], latents=latents)
        return layout.append(Span("anchor", (layout.last_time + LOOKAHEAD_LATENTS,), latents=latents))
