"""Cross-chunk latent stitching (LongCat-Video-Avatar, section 3.4; EverAnimate, section 4.1): the next chunk
continues from a chunk's last latents.

The hand-over makes no VAE round trip, so nothing is lost to decoding and encoding again. `re-encode` decodes the tail
and encodes it again, for models trained that way (LongCat-Video-Avatar 1.5); its first latent is a one-frame latent.
"""
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .layout import Layout
from .protocols import Past
from .technique import ChunkPosition, Technique
from .timeline import frames_of

MODES = ("stitch", "re-encode")


@dataclass(frozen=True, eq=False)
class LatentStitch(Technique):
    mode: str = "stitch"

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"mode: got {self.mode!r}, wanted one of {', '.join(MODES)}")

    def handover(self, past: Past, count: int, encode: Callable[[Tensor], Tensor], temporal_ratio: int = 4) -> Tensor:
        if self.mode == "stitch":
            return past.latents(count)
        frames = past.frames(self.handover_frames(count, temporal_ratio))
        return encode(frames[(len(frames) - 1) % temporal_ratio:])   # a causal VAE takes 1 + whole latents of frames

    def handover_frames(self, count: int, temporal_ratio: int = 4) -> int:
        return frames_of(count, temporal_ratio) if self.mode == "re-encode" else 0

    def layout(self, layout: Layout, position: ChunkPosition) -> Layout:
        return layout.open_with(position.context)
