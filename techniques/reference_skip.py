"""Reference Skip Attention (LongCat-Video-Avatar, eq. 8-10 and fig. 6): frames near the reference's own
time do not attend to it, so that it gives the identity without being copied.

`hard` removes the reference from the keys of frames m-radius..m+radius; `soft` removes it for m alone and multiplies
its weight for the neighbours by `factor`. The band is clipped to the chunk; `upstream` is `hard` as the authors' code
has it: nothing is removed unless the whole band lies inside the chunk, nor with a radius of 0.
"""
from collections.abc import Mapping
from dataclasses import dataclass

from .layout import Layout
from .technique import ChunkPosition, Technique

MODES = ("hard", "soft", "upstream")


@dataclass(frozen=True, eq=False)
class ReferenceSkip(Technique):
    """`radius` in latent frames; `factor` in 0..1 is the neighbours' share of attention in soft mode."""
    mode: str = "hard"
    radius: int = 1
    factor: float = 0.5

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}, wanted one of {', '.join(MODES)}")
        if self.radius < 0 or not 0 <= self.factor <= 1:
            raise ValueError(f"got radius {self.radius} and factor {self.factor:g}, wanted a radius of 0 or more "
                             f"latent frames and a factor from 0 to 1")

    def visibility(self, layout: Layout) -> Mapping[tuple[int, int], float]:
        chunk = layout["chunk"]
        weights = {}
        for span in layout.references:
            for key, time in zip(layout.frame_indices(span), span.times, strict=True):
                if self.mode == "upstream" and not self.fits(time, layout):
                    continue
                for query, own_time in zip(layout.frame_indices(chunk), chunk.times, strict=True):
                    away = abs(own_time - time)
                    if away <= max(self.radius, 0.5 if self.mode == "soft" else 0):
                        weights[query, key] = self.factor if self.mode == "soft" and away > 0.5 else 0.0
        return weights

    def fits(self, time: float, layout: Layout) -> bool:
        """Whether upstream's code would act: the whole band is in the chunk."""
        return self.radius > 0 and layout["chunk"].times[0] <= time - self.radius \
            and time + self.radius <= layout.last_time

    def notice(self, layout: Layout, position: ChunkPosition) -> str | None:
        if not layout.references:
            return "reference skip is inactive: there is no reference or anchor in this chunk"
        if self.visibility(layout):
            return None
        times = ", ".join(f"{time:g}" for span in layout.references for time in span.times)
        if self.mode == "upstream":
            first = layout["chunk"].times[0]
            return (f"reference skip is inactive: in upstream mode the whole band must lie in the chunk ({first:g} to "
                    f"{layout.last_time:g}) with a radius of 1 or more, and the reference stands at {times} with a "
                    f"radius of {self.radius}. Mode 'hard' clips the band instead")
        return (f"reference skip is inactive: the reference stands at {times}, and no frame of the chunk "
                f"(0 to {layout.last_time:g}) is within {self.radius} of it. Place it 'in chunk' to use the skip")
