"""A finished video as a larger, smoother one to be refined: which chunks, and what each of them begins from.

LongCat-Video's refinement enlarges a clip, doubles its frames and lets the model go on from half noise. Here all chunks
are cut from one enlarged video, so frames that two of them share are the same; the authors enlarge each by itself.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...techniques.timeline import Timeline
from .plan import MAX_FPS, Chunk, ChunkPlan, check_size, exact_fps

LATENT_STEP = 4     # conditioning frames and noise are multiples of so many latents: a block's frames
FITS = ("crop", "stretch")


class Frames(Protocol):
    """Frames of a video by number."""
    @property
    def count(self) -> int: ...

    def between(self, first: int, end: int) -> Sequence[Tensor]:
        """Frames `first` to `end`, exclusive, (H, W, 3) each, 0..1."""


def plan_refinement(frames: int, fps: Fraction, rate: int, width: int, height: int, chunk_frames: int,
                    overlap_frames: int, grid: int = 16) -> ChunkPlan:
    """Chunks of a video of `frames` frames, of each of which `rate` are made; the others count frames of the source.

    Conditioning frames and new ones of every chunk are multiples of 4 latents; what is behind the end is trimmed.
    `grid`: of pixels, the model's. Raises ValueError for a chunk not longer than its overlap, too many frames a second,
    or a size off the grid.
    """
    if fps * rate > MAX_FPS:
        advice = "Set mode to spatial" if fps <= MAX_FPS else "Give it fewer"
        raise ValueError(f"video: it has {float(fps):.6g} frames a second, {rate} of each make more than {MAX_FPS}. "
                         f"{advice}")
    check_size(width, height, grid)
    clock = Timeline(exact_fps(float(fps * rate)))
    longest = up_to_step(math.ceil(Fraction(rate * chunk_frames, clock.temporal_ratio)))
    context = up_to_step(clock.latents_for_frames(rate * overlap_frames))
    if longest <= context:
        raise ValueError(f"chunk_frames: got {chunk_frames} frames that overlap by {overlap_frames}, which is "
                         f"{longest} latents and {context}; wanted a longer chunk, such as 93 with an overlap of 13")
    needed = clock.latents_for_frames(rate * frames)
    chunks = [Chunk(0, 0, 0, min(longest, up_to_step(needed)), "", 0)]
    while (done := chunks[-1].end_latent) < needed:
        new = min(longest - context, up_to_step(needed - done))
        chunks.append(Chunk(len(chunks), done - context, context, context + new, "", len(chunks)))
    return ChunkPlan(clock, rate * frames, width, height, tuple(chunks))


def up_to_step(latents: int) -> int:
    return -(-latents // LATENT_STEP) * LATENT_STEP


@dataclass(frozen=True, eq=False)
class EnlargedVideo:
    """`source`, `rate` times as many frames, each `width` x `height`: bilinear in the picture, linear in time, the ends
    kept. `fit`: whether what is over is cropped, or the picture stretched, as the authors do."""
    source: Frames
    rate: int
    width: int
    height: int
    fit: str = "crop"

    def frames(self, first: int, count: int) -> Tensor:
        """(count, height, width, 3) in 0..1 from frame `first` on; behind the end the last one is repeated."""
        places = [self.place(min(frame, self.source.count * self.rate - 1)) for frame in range(first, first + count)]
        begin, end = places[0][0], min(places[-1][0] + 2, self.source.count)
        shown = self.source.between(begin, end)

        @lru_cache(2)
        def larger(index: int) -> Tensor:
            return self.enlarge(shown[min(index, end - 1) - begin])

        frames = torch.empty(count, self.height, self.width, 3)
        for frame, (index, share) in zip(frames, places, strict=True):
            frame.copy_(torch.lerp(larger(index), larger(index + 1), share) if share else larger(index))
        return frames

    def place(self, frame: int) -> tuple[int, float]:
        """The frame of the source before frame number `frame`, and how far it is on its way to the next one."""
        steps = max(self.source.count * self.rate - 1, 1)
        index, rest = divmod(frame * (self.source.count - 1), steps)
        return index, rest / steps

    def enlarge(self, picture: Tensor) -> Tensor:
        """(H, W, 3) -> (height, width, 3)."""
        rows, columns = picture.shape[:2]
        if self.fit == "crop":
            high = min(rows, max(round(columns * self.height / self.width), 1))
            wide = min(columns, max(round(rows * self.width / self.height), 1))
            picture = picture[(rows - high) // 2:, (columns - wide) // 2:][:high, :wide]
        size = self.height, self.width
        return interpolate(picture.float().movedim(-1, 0)[None], size, mode="bilinear", align_corners=True)[0].movedim(
            0, -1)
