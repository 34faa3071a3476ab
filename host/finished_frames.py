"""A VAE's stream whose frames the techniques finish: what is written, and what the next chunk continues from."""
from collections.abc import Iterator

from torch import Tensor

from ..techniques.protocols import FrameStream
from ..techniques.technique import Technique


class FinishedFrames:
    """A FrameStream. `picture`: the take's own (1, H, W, 3)."""

    def __init__(self, stream: FrameStream, techniques: tuple[Technique, ...], picture: Tensor):
        self.stream, self.techniques, self.picture = stream, techniques, picture
        self.warmup_latents = stream.warmup_latents

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        return map(self.finish, self.stream.push(latents))

    def flush(self) -> Iterator[Tensor]:
        return map(self.finish, self.stream.flush())

    def peek(self) -> Tensor | None:
        held = self.stream.peek()
        return None if held is None else self.finish(held)

    def finish(self, frames: Tensor) -> Tensor:
        for technique in self.techniques:
            frames = technique.finish_frames(frames, self.picture)
        return frames
