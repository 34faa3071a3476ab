"""What a take remembers of person and place: Persistent Latents' pictures, fixed after the first chunk and kept in the
journal, the frame that CLIP vision sees, and the take's own first latent."""
from collections.abc import Iterator

import torch
from torch import Tensor

from ..backbones.allocator import give_back
from ..pipelines.take.plan import Chunk
from ..techniques.persistent_latents import CLIP_PICTURES, draw_frames, quantise
from ..techniques.protocols import Past
from .take_inputs import TakeInputs

IDENTITY = "identity"


def count_context(inputs: TakeInputs) -> int:
    """How many latents of the take so far a chunk is handed."""
    if inputs.memory_in_channels and inputs.persistent is not None:
        return inputs.persistent.motion_latents
    return inputs.backbone.context_latents(inputs.plan.overlap_latents)


class IdentityMemory:
    """Of the chunk that is being made `pictures` (1, C, k, h, w) beside the reference, and `seen` (1, H, W, 3), what
    CLIP vision sees in its place; both None without the technique. `opening` (1, C, 1, h, w): the take's first latent,
    from its second chunk on. `fixed`: the pictures from the second chunk on."""

    def __init__(self, inputs: TakeInputs):
        self.inputs, self.technique = inputs, inputs.persistent
        self.fixed: Tensor | None = None
        self.pictures: Tensor | None = None
        self.opening: Tensor | None = None
        self.seen: Tensor | None = None

    def begin_chunk(self, chunk: Chunk, past: Past) -> None:
        self.pictures, self.seen = self.pictures_of(chunk, past), self.clip_picture(chunk, past)
        self.opening = past.first_latents(1) if chunk.index else None

    @property
    def past_frames(self) -> int:
        return int(self.shows_last_frame)

    @property
    def shows_last_frame(self) -> bool:
        """As EverAnimate runs, whose clips each show CLIP vision where they begin."""
        return (self.technique is not None and self.inputs.plan.repeated_frames > 0
                and self.inputs.clip_vision is not None and self.technique.clip_picture == CLIP_PICTURES[0])

    def state(self) -> dict[str, Tensor]:
        return {} if self.fixed is None else {IDENTITY: self.fixed}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.fixed = state.get(IDENTITY)

    def pictures_of(self, chunk: Chunk, past: Past) -> Tensor | None:
        if self.technique is None:
            return None
        if not chunk.index or not self.draws:
            return self.inputs.views
        if self.fixed is None:
            self.fixed = torch.cat([self.inputs.views, *self.draw(past)], 2)
        return self.fixed

    @property
    def draws(self) -> bool:
        """Upstream, which hands over nothing where there is no motion, shows every clip what it shows the first."""
        assert self.technique is not None
        return self.missing > 0 and not (self.inputs.memory_in_channels and not self.technique.motion_latents)

    @property
    def missing(self) -> int:
        """How many pictures the first chunk completes."""
        assert self.technique is not None
        return self.technique.missing(self.inputs.views.shape[2])

    def draw(self, past: Past) -> Iterator[Tensor]:
        """Latents (1, C, 1, h, w) of frames of the first chunk, decoded once more, of which no others are held."""
        assert self.technique is not None
        first = self.inputs.plan.chunks[0]
        frames = self.inputs.plan.timeline.frames_for_latents(first.latents)
        wanted = set(draw_frames(self.missing, frames, self.technique.seed))
        for frame in self.pick(past.first_latents(first.latents), wanted):
            yield self.inputs.encode(quantise(frame))
        give_back()

    def pick(self, latents: Tensor, wanted: set[int]) -> list[Tensor]:
        """Of the frames that the latents (1, C, t, h, w) decode to those numbered so, (1, H, W, 3) each, in order."""
        stream, seen, found = self.inputs.open_stream(), 0, []
        for groups in (stream.push(latents), stream.flush()):
            for group in groups:
                found += [group[number - seen][None].cpu() for number in sorted(wanted)
                          if seen <= number < seen + len(group)]
                seen += len(group)
        return found

    def clip_picture(self, chunk: Chunk, past: Past) -> Tensor | None:
        """None where it sees the reference."""
        return quantise(past.frames(1).cpu()) if chunk.index and self.shows_last_frame else None
