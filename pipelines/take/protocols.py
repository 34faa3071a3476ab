"""What the driver of a take asks for: what makes a chunk's latents, and whoever watches."""
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from ...techniques.protocols import Past
from .plan import Chunk


class ChunkSampler(Protocol):
    """What makes a chunk's new latents: ComfyUI's sampler (host/), one without ComfyUI (headless/), a toy in tests."""

    @property
    def past_frames(self) -> int:
        """How many decoded frames `past` must be able to give; 0 where the hand-over needs latents alone."""

    def sample(self, chunk: Chunk, past: Past) -> Iterator[Tensor]:
        """The chunk's new latents piece by piece, in order: (1, C, t, h, w) each, `chunk.new_latents` in all.

        Each piece is decoded and written before the next is asked for. A sampler of whole chunks yields one.
        """

    def state(self) -> dict[str, Tensor]:
        """What the next chunk needs and a finished take cannot rebuild, kept on disk with each chunk; {} if nothing."""

    def restore(self, state: dict[str, Tensor], past: Past) -> None:
        """Go on from another run's `state`: called once, before the first chunk, where a take is resumed."""


class Events:
    """What happens while a take is made. These do nothing; whoever watches overrides what it wants to know."""

    def check_cancelled(self) -> None:
        """Called between chunks and between groups of frames: what it raises passes through, and what is finished stays
        in the journal."""

    def latents_replayed(self, latents: int, total: int) -> None:
        """Before each portion of the finished latents that the decoder of a resumed take must see again."""

    def frames_ready(self, chunk: Chunk, frames: Tensor) -> None:
        """Frames (T, H, W, 3) of the chunk are decoded, at least one, and are about to be written."""

    def frames_written(self, chunk: Chunk, frames: int) -> None:
        """So many frames of the chunk are decoded and written."""

    def stop_wanted(self) -> bool:
        """Whether the take is to end with the chunk that was finished last."""
        return False

    def chunk_finished(self, chunk: Chunk) -> None:
        """The chunk is safe on disk."""
