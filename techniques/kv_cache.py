"""A KV cache whose tokens keep their places: keys after their norm and before RoPE, values, where each token stands.

Since keys are rotated when they are read, the same cache can stand at any time: an anchor that moves with the window
(AvatarForcing), the last clean frames, LongCat's conditioning frames and a video reference are uses of it. The product
has LongCat's conditioning frames in one; what a stream remembers on ComfyUI's own models is in backbones/kv_slots.py.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .rope import Axes, rope_frequencies_at, rotate

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class KVCache:
    """`blocks`: per block keys after their norm and before RoPE, and values, each (B, tokens, heads, D). They are asked
    for one block after the other, so that a sequence which offloads them can bring one over.

    `places` (tokens, 3) float32: time, row, column. `times` and `frame_tokens`: when each frame stands and how many
    tokens it has, which may be none. Time counts from this cache's own first frame.
    """
    blocks: Sequence[Pair]
    places: Tensor
    times: tuple[float, ...]
    frame_tokens: tuple[int, ...]

    @classmethod
    def of_frames(cls, blocks: Sequence[Pair], times: Sequence[float], grid: tuple[int, int],
                  device: torch.device | None = None) -> "KVCache":
        """Of whole frames that stand at `times`, each with rows x columns tokens."""
        return cls(blocks, places_of(times, grid, device), tuple(time - times[0] for time in times),
                   (grid[0] * grid[1],) * len(times))

    @property
    def frames(self) -> int:
        return len(self.frame_tokens)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for pair in self.blocks for tensor in pair)

    def only(self, block: int) -> "KVCache":
        """The same tokens in one block alone."""
        return replace(self, blocks=(self.blocks[block],))

    def frequencies(self, time: float, axes_dim: Sequence[int], *, theta: float = 10000.0,
                    scale: Axes = (1.0, 1.0, 1.0), shift: Axes = (0.0, 0.0, 0.0)) -> Tensor:
        """RoPE frequencies (1, tokens, 1, D / 2, 2, 2), float32, of the first frame standing at `time`: for `keys`.
        The same in every block and step, so make them once."""
        places = self.places.to(torch.float64, copy=True)
        places[:, 0] += time
        return rope_frequencies_at(places, axes_dim, theta=theta, scale=scale, shift=shift)

    def keys(self, block: int, frequencies: Tensor, rotate: Callable[[Tensor, Tensor], Tensor] = rotate) -> Tensor:
        """(B, tokens, heads, D), standing where `frequencies` says."""
        return rotate(self.blocks[block][0], frequencies)

    def append(self, other: "KVCache", most: int) -> "KVCache":
        """This cache with `other` one frame behind its last; of the whole the newest `most` frames.

        Raises ValueError where nothing would be left.
        """
        if most < 1:
            raise ValueError(f"frames: got {most}, wanted a cache of at least 1")
        own, others = self.newest(most - other.frames), other.newest(most)
        behind = own.times[-1] + 1 if own.frames else 0.0
        times = own.times + tuple(behind + time for time in others.times)
        places = torch.cat([own.places, move_places(others.places, behind)])
        blocks = tuple((torch.cat([key, later_key], 1), torch.cat([value, later_value], 1))
                       for (key, value), (later_key, later_value) in zip(own.blocks, others.blocks, strict=True))
        return KVCache(blocks, places, times, own.frame_tokens + others.frame_tokens)

    def newest(self, frames: int) -> "KVCache":
        """Its last `frames` frames, or all it has; views."""
        dropped = max(0, self.frames - max(0, frames))
        first, times = sum(self.frame_tokens[:dropped]), self.times[dropped:]
        begin = times[0] if times else 0.0
        return KVCache(tuple((key[:, first:], value[:, first:]) for key, value in self.blocks),
                       move_places(self.places[first:], -begin), tuple(time - begin for time in times),
                       self.frame_tokens[dropped:])

    def select(self, tokens: Tensor) -> "KVCache":
        """The tokens whose entry of `tokens` (tokens,) bool is true, where they are; reads its values, so not in a
        step."""
        counts = tuple(int(part.sum()) for part in tokens.split(self.frame_tokens))
        chosen = tokens.nonzero().flatten().to(self.places.device)
        blocks = tuple((key[:, chosen], value[:, chosen]) for key, value in self.blocks)
        return KVCache(blocks, self.places[chosen], self.times, counts)


def places_of(times: Sequence[float], grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(frames * rows * columns, 3) float32 of whole frames: time from the first one on, row, column."""
    times = [time - times[0] for time in times]
    axes = (torch.tensor(times, dtype=torch.float32, device=device),
            *(torch.arange(count, dtype=torch.float32, device=device) for count in grid))
    return torch.cartesian_prod(*axes)


def move_places(places: Tensor, time: float) -> Tensor:
    return torch.cat([places[:, :1] + time, places[:, 1:]], 1)


def standing(caches: Sequence[KVCache], times: Sequence[float]) -> tuple[tuple[KVCache, float], ...]:
    """Each cache that has frames and the time of its first, of the `times` of all of them one behind the other."""
    placed, first = [], 0
    for cache in filter(lambda cache: cache.frames, caches):
        placed.append((cache, times[first]))
        first += cache.frames
    return tuple(placed)
