"""Conditions that hold something for each latent frame, cut to the frames of one call: in core's context windows, and
in windows of our own that core knows nothing of.
"""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..techniques.audio.segments import runs

WINDOW = "lodestar_window"     # in transformer_options: a Window of ours


@dataclass(frozen=True)
class Window:
    """`latents`: which of the sampler's `total` latent frames a call holds, in its order; the first `finished` of them
    are clean."""
    latents: tuple[int, ...]
    total: int
    finished: int = 0


@dataclass(frozen=True)
class Cut:
    """How a condition counts: along `dim` the first latent has `first` entries, each further one `per_latent`.

    Where `first` is less, as a causal VAE counts, a cut that begins later has the `first` entries before its own in
    front of them. `core_cuts`: whether core's context windows cut it, which they do where it has one entry per latent.
    """
    dim: int
    per_latent: int
    first: int
    core_cuts: bool = False

    def count_latents(self, entries: int) -> int:
        """How many latents so many entries are for."""
        return (entries - self.first) // self.per_latent + 1

    def entries(self, latents: Sequence[int]) -> list[int]:
        """The entries of some latents. The first of all latents repeats its entry where it is not the cut's first."""
        begins = [self.first + self.per_latent * (latent - 1) for latent in latents]
        own = [max(0, begin + step) for begin in begins for step in range(self.per_latent)]
        if self.first == self.per_latent:
            return own
        if latents[0] == 0:
            return [*range(self.first), *own[self.per_latent:]]
        return [*range(begins[0] - self.first, begins[0]), *own]

    def of(self, value: Tensor, latents: Sequence[int]) -> Tensor:
        """The part of `value` that belongs to some latents; a view where it lies in one piece."""
        parts = [value.narrow(self.dim, first, end - first) for first, end in runs(self.entries(latents))]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.dim)


def window_of(transformer_options: Mapping) -> Window | None:
    """The window of a call: ours, or core's. None where the call holds all latents."""
    core = transformer_options.get("context_window")
    if core is None or WINDOW in transformer_options:
        return transformer_options.get(WINDOW)
    anchor = getattr(core, "causal_anchor_index", None)
    first = [anchor] if anchor is not None and anchor >= 0 else []
    return Window((*first, *core.index_list), core.total_frames)


def cut_conditions(conditions: dict, cuts: Mapping[str, Cut], transformer_options: Mapping, frames: int) -> dict:
    """The conditions of a call with `frames` latent frames, each one in `cuts` for these alone. A condition ends where
    the sampler's latent ends, and may begin before it. Raises ValueError for one that does not cover them."""
    window = window_of(transformer_options)
    if window is None:
        return conditions
    cut = {}
    for name, how in cuts.items():
        value = conditions.get(name)
        if value is None or (how.core_cuts and WINDOW not in transformer_options):
            continue
        covered = how.count_latents(value.shape[how.dim])
        before = covered - window.total
        if before < 0 or len(window.latents) != frames:
            raise ValueError(f"{name}: the context window has latents {min(window.latents)} to {max(window.latents)} "
                             f"of {window.total} and the call {frames} of them, the conditioning covers {covered}. "
                             "Encode the whole speech or video")
        cut[name] = how.of(value, [before + latent for latent in window.latents])
    return {**conditions, **cut}
