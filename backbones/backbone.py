"""What the rest of the pack asks of a model family: how to call it with a layout, and what one chunk needs.

A backbone turns a Layout plus conditions into latents on one family; it keeps no state between calls.
"""
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..techniques.layout import Layout
from ..techniques.technique import Moment, Technique


@dataclass(frozen=True, eq=False)
class ChunkRequest:
    """What the take wants of one chunk.

    `latents`: window length. `context`: (1, C, k, h, w) handed over, None for the first chunk. `reference`: (1, C, 1,
    h, w). `audio`: (L, frames, C), one row per pixel frame from the window's first latent on, 4 per latent. `canvas`:
    what the backbone's own `canvas` gave for this chunk.
    """
    latents: int
    latent_shape: tuple[int, int, int]   # channels, height, width
    context: Tensor | None = None
    reference: Tensor | None = None
    audio: Tensor | None = None
    canvas: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ChunkInputs:
    """What the sampler gets: `samples` (1, C, t, h, w), and values to set in every (`silent`: negative) condition."""
    samples: Tensor
    noise_mask: Tensor | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    silent: dict[str, Any] = field(default_factory=dict)
    context: Tensor | None = None        # clean tokens that the patched model lays out itself

    def window(self, sampled: Tensor, handed_over: Tensor | None) -> Tensor:
        """The whole window (1, C, n, h, w): the sampled latents with the handed-over ones, exact, at its head."""
        if handed_over is None:
            return sampled
        head = handed_over.to(sampled)
        kept = sampled if self.context is not None else sampled[:, :, head.shape[2]:]
        return torch.cat([head, kept], dim=2)


class Backbone(ABC):
    supported: ClassVar[str]             # for the refusal: what of this family is supported
    name: str
    fps: int                             # what the family was trained at
    chunk_frames: int                    # a good chunk length, pixel frames
    overlap_frames: int                  # a good overlap inside the window, pixel frames; 0 when context is outside
    grid: int                            # width and height must be multiples of this
    audio_shape: tuple[int, int] | None  # (layers, width) of the speech features it takes
    temporal_ratio: int = 4

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent; a token is two latents wide."""
        return self.grid // 2

    def overlap(self, asked_frames: int) -> int:
        """The overlap inside the window for what a user asked: -1 is the family's own."""
        if asked_frames > 0 and self.overlap_frames == 0:
            raise ValueError(f"overlap_frames: got {asked_frames}, but {self.name} keeps its context outside the chunk "
                             f"(its motion frames). Set it to -1 or 0")
        return self.overlap_frames if asked_frames < 0 else asked_frames

    def fps_note(self, fps: Fraction) -> str:
        """A line for the plan's summary where the take runs at another rate than the family was trained at."""
        return "" if fps == self.fps else (f"\n{self.name} was trained at {self.fps} fps; at {float(fps):g} fps lips "
                                           f"and motion may run at the wrong speed")

    def context_latents(self, overlap: int) -> int:
        """How many latents of the take so far the next chunk wants handed over."""
        return overlap

    @abstractmethod
    def prepare(self, executor, args, kwargs, techniques: tuple[Technique, ...], moment: Moment,
                process_in: Callable[[Tensor], Tensor]):
        """A DIFFUSION_MODEL wrapper's call with the techniques applied: `.arguments`, `.extra` and `.in_place()`."""

    def canvas(self, encode: Callable[[Tensor], Tensor], picture: Tensor | None, latents: int, height: int,
               width: int) -> Tensor | None:
        """What a window looks like to the VAE before anything is known but its first `picture` (1, H, W, 3), for
        models that take known frames as channels; asked once per take. `encode`: (T, H, W, 3) -> (1, C, t, h, w)."""
        return None

    @abstractmethod
    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """What the sampler is given for one chunk, so that the family sees its context, picture and speech."""


def laid_out(own: Layout, techniques: tuple[Technique, ...], moment: Moment, transformer_options: dict
             ) -> tuple[Layout, dict[tuple[int, int], float]]:
    """The model's own layout after all techniques, and who sees whom: {(query frame, key frame): factor}.

    A technique that changes nothing in this layout says so in the log, in the first step of a sampling run.
    """
    layout = own
    for technique in techniques:
        layout = technique.layout(layout, moment)
    for technique in techniques:
        notice = technique.notice(layout)
        if notice is not None and is_first_step(transformer_options):
            logging.getLogger("lodestar").warning(notice)
    return layout, factors_of(layout, techniques)


def hides(techniques: tuple[Technique, ...]) -> bool:
    """Whether any technique has a say in who sees whom, in this layout or another."""
    return any(type(technique).visibility is not Technique.visibility for technique in techniques)


def factors_of(layout: Layout, techniques: tuple[Technique, ...]) -> dict[tuple[int, int], float]:
    """All techniques' visibility in one table; where two speak of the same pair their factors multiply."""
    table: dict[tuple[int, int], float] = {}
    for technique in techniques:
        for pair, factor in technique.visibility(layout).items():
            table[pair] = table.get(pair, 1.0) * factor
    return table


def is_first_step(transformer_options: dict) -> bool:
    """Whether this call is the first of a sampling run, as far as the sampler tells; negatives do not count."""
    schedule, now = transformer_options.get("sample_sigmas"), transformer_options.get("sigmas")
    if schedule is None or now is None or 0 not in transformer_options.get("cond_or_uncond", (0,)):
        return False
    return bool(torch.isclose(now.flatten()[0], schedule[0].to(now)))
