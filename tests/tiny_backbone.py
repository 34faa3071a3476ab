"""A toy model and a toy causal video VAE that obey the protocols of the driver; torch only, exact, fast.

The VAE has what makes the real one hard to stream: a memory that reaches back, a first latent that is one frame, and
pairs. A latent's frames depend on the latents before it and on its place in its pair.
"""
import weakref
from collections.abc import Iterator

import torch
from torch import Tensor

RATIO = 8        # pixels per latent, each way
CHANNELS = 3
REACH = 5        # latents that a latent's frames look back


class ToyStream:
    """A FrameStream. Counts what it decodes and knows how many of its frames are still alive."""
    warmup_latents = REACH + 1  # the first of a stream gives one frame, so it is not seen as it was

    def __init__(self):
        self._seen: list[Tensor] = []
        self._held: Tensor | None = None
        self.decoded_latents = 0
        self.peeks = 0
        self.most_alive_frames = 0
        self._groups: list[weakref.ref] = []

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        waiting = ([] if self._held is None else [self._held]) + list(latents[0].clone().unbind(1))
        self._held = None
        if not self._seen and waiting:
            yield self._emit(waiting[:1])
            waiting = waiting[1:]
        while len(waiting) >= 2:
            yield self._emit(waiting[:2])
            waiting = waiting[2:]
        self._held = waiting[0] if waiting else None

    def flush(self) -> Iterator[Tensor]:
        if self._held is not None:
            yield self._emit([self._held])
        self._held = None

    def peek(self) -> Tensor | None:
        if self._held is None:
            return None
        self.peeks += 1
        return self._pictures(self._seen, [self._held])

    def _emit(self, group: list[Tensor]) -> Tensor:
        frames = self._pictures(self._seen, group)
        self.decoded_latents += len(group)
        self._seen = [*self._seen, *group][-REACH:]
        self._groups.append(weakref.ref(frames.untyped_storage()))
        alive = (group() for group in self._groups)
        self.most_alive_frames = max(self.most_alive_frames,
                                     sum(len(storage) // (4 * frames[0].numel()) for storage in alive if storage))
        return frames

    @staticmethod
    def _pictures(seen: list[Tensor], group: list[Tensor]) -> Tensor:
        """[(C, h, w)] -> (T, H, W, 3): 1 frame for the first latent ever, 4 for any other."""
        frames, memory = [], list(seen)
        for place, latent in enumerate(group):
            past = sum((old / 2 ** age for age, old in enumerate(reversed(memory[-REACH:]), start=2)), latent)
            for moment in range(4 if memory else 1):
                picture = torch.sigmoid(past + moment / 7 + place / 5)
                frames.append(picture.movedim(0, -1).repeat_interleave(RATIO, 0).repeat_interleave(RATIO, 1))
            memory.append(latent)
        return torch.stack(frames)


class ToyOverlapStream:
    """A FrameStream over a VAE without a carried memory: each push is decoded after a few earlier latents."""
    warmup_latents = 4

    def __init__(self):
        self._seen: Tensor | None = None

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        window = latents if self._seen is None else torch.cat([self._seen, latents], dim=2)
        pictures = torch.sigmoid(window + window.mean(dim=2, keepdim=True))[0].movedim(0, -1)  # attends to all of it
        pictures = pictures.repeat_interleave(RATIO, 1).repeat_interleave(RATIO, 2).repeat_interleave(4, 0)
        new = 4 * latents.shape[2] - (3 if self._seen is None else 0)
        self._seen = window[:, :, -self.warmup_latents:].clone()
        yield pictures[len(pictures) - new:]

    def flush(self) -> Iterator[Tensor]:
        return iter(())

    def peek(self) -> Tensor | None:
        return None


def decode_at_once(latents: Tensor) -> Tensor:
    """The oracle: a whole take (1, C, T, h, w) in one go."""
    stream = ToyStream()
    return torch.cat([*stream.push(latents), *stream.flush()])


def toy_encode(frames: Tensor) -> Tensor:
    """(T, H, W, 3) -> (1, C, t, h, w), something that depends on every value given."""
    pictures = frames[:, ::RATIO, ::RATIO].movedim(-1, 0)
    return torch.cat([pictures[:, :1], pictures[:, 1:].unfold(1, 4, 4).mean(-1)], dim=1)[None]


def last_latents(count: int):
    return lambda past: past.latents(count)


class ToySampler:
    """A ChunkSampler: noise from the seed, pulled towards the prompt and what `context_of(past)` gives.

    `context_of` may ask for `past_frames` decoded frames. It fails as chunk `fail_at` begins; `sampled` counts chunks.
    """

    def __init__(self, width: int, height: int, context_of=None, past_frames: int = 0, fail_at: int | None = None):
        self.shape = (CHANNELS, height // RATIO, width // RATIO)
        self.context_of, self.past_frames, self.fail_at = context_of, past_frames, fail_at
        self.sampled: list[int] = []

    def sample(self, chunk, past) -> Iterator[Tensor]:
        if chunk.index == self.fail_at:
            raise ConnectionError("the plug was pulled")
        self.sampled.append(chunk.index)
        yield self.latents(chunk, self.context_of(past) if self.context_of and chunk.index else None)

    def latents(self, chunk, context: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(chunk.seed(0))
        latents = torch.randn(1, self.shape[0], chunk.latents, *self.shape[1:], generator=generator)
        latents += len(chunk.prompt) / 10
        if context is not None:
            latents += 0.5 * context.mean(dim=2, keepdim=True)
        return latents[:, :, chunk.context_latents:]

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor], past) -> None:
        assert not state


class ToyRollingSampler(ToySampler):
    """The same in up to three pieces a chunk, each drawn to what is behind it and to a sum over the whole take, which
    no finished latents give back."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.drift = torch.zeros(1, self.shape[0], 1, *self.shape[1:])

    def sample(self, chunk, past) -> Iterator[Tensor]:
        latents, = super().sample(chunk, past)
        for piece in latents.split(-(-latents.shape[2] // 3), 2):
            own = piece + self.drift + (past.first_latents(1) / 5 if chunk.index else 0)
            self.drift = 0.9 * self.drift + 0.1 * piece.mean(2, keepdim=True)
            yield own
            frames = past.frames(self.past_frames).mean() if self.past_frames else 0
            self.drift = self.drift + past.latents(2).mean() / 5 + frames

    def state(self) -> dict[str, Tensor]:
        return {"drift": self.drift}

    def restore(self, state: dict[str, Tensor], past) -> None:
        self.drift = state["drift"]
