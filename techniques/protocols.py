"""What several floors ask of each other's objects: the take so far, a VAE that decodes as a stream, and the frames of a
video that drive a chunk."""
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor


class Past(Protocol):
    """The take so far, to be read only: what a hand-over or a chunk sampler may continue from.

    Between two pieces of a chunk it has the pieces already given. Nothing is there before the first latent.
    """

    def latents(self, count: int) -> Tensor:
        """The last `count` latents (1, C, count, h, w), exactly as sampled; fewer when the take is younger."""

    def first_latents(self, count: int) -> Tensor:
        """The first `count` latents (1, C, count, h, w), exactly as sampled; fewer when the take is younger."""

    def frames(self, count: int) -> Tensor:
        """The last `count` decoded frames (count, H, W, 3), 0..1; fewer when the take is younger. Raises ValueError for
        more than the chunk sampler said it needs (`past_frames`)."""


class FrameStream(Protocol):
    """A VAE that decodes a take piece by piece, as if it were decoded at once."""

    warmup_latents: int
    """How many of the last latents bring a fresh stream to the state of an old one (their frames are thrown away); the
    first must have an even number in the take, so that its pairs (0, 1-2, 3-4, ...) are the same pairs."""

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        """Latents (1, C, t, h, w) -> frames (T, H, W, 3) float32, 0..1, a few latents at a time and decoded when they
        are asked for: exhaust the iterator before going on. An odd last latent is held back.

        Frames stay where they were made: whoever needs them elsewhere moves what it needs of them. Afterwards the
        stream holds device memory only where there is plenty: the sampler may have it.
        """

    def flush(self) -> Iterator[Tensor]:
        """The last frames, if some are held back. Nothing may be pushed afterwards."""

    def peek(self) -> Tensor | None:
        """The frames that `flush` would give now, with the stream left as it is; None when nothing is held back."""


class ChunkFrames(Protocol):
    """Of one video the frames that stand beside a chunk's own; they are read when they are asked for."""

    def read(self, fit: Callable[[Tensor], Tensor]) -> Tensor:
        """(frames, ...): each (H, W, channels), 0..1, as `fit` makes it. Only fitted frames are held."""
