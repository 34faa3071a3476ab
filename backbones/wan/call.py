"""One call of a ComfyUI Wan model: its arguments, its RoPE frequencies, and its attention with queries split."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from ...techniques.layout import Span
from ...techniques.rope import rope_frequencies, scaled_axes
from ..frame_conditions import WINDOW, window_of
from ..model_call import KeysBeside, ModelCall, split_queries
from ..sampling_run import once
from ..span_latents import latents_of


@dataclass(frozen=True, eq=False, kw_only=True)
class WanCall(ModelCall):
    """`timestep`: (B,) or (B, T). Positions are handed in by standing in for `rope_encode`."""
    names: ClassVar = ("x", "timestep", "context", "clip_fea", "time_dim_concat", "transformer_options")
    timestep: Tensor
    context: Tensor
    clip_fea: Tensor | None
    time_dim_concat: Tensor | None

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per latent frame as (height, width)."""
        _, rows, columns = self.module.patch_size
        return -(-self.x.shape[-2] // rows), -(-self.x.shape[-1] // columns)

    def rows(self, times: Sequence[float]) -> Tensor:
        """RoPE frequencies for latent frames at `times`, with ScaleROPE's options acting on them as on the model's
        own. Kept for the run, but for core's context windows at places of their own, of which there are many."""
        embedder, device = self.module.rope_embedder, self.x.device
        axes = scaled_axes(self.transformer_options.get("rope_options"))
        place = (tuple(times), self.grid, tuple(embedder.axes_dim), embedder.theta, axes)
        make = partial(rope_frequencies, times, *self.grid, embedder.axes_dim, theta=embedder.theta, scale=axes[0],
                       shift=axes[1], device=device)
        window = None if WINDOW in self.transformer_options else window_of(self.transformer_options)
        if times[0] > 0 and window is not None and tuple(times[:len(window.latents)]) == window.latents:
            return make()
        return once(self.transformer_options, ("rope frequencies", place, device), make)

    def latents(self, span: Span, process_in: Callable[[Tensor], Tensor]) -> Tensor:
        return latents_of(span, self.x, self.module.out_dim, process_in, self.transformer_options)


def split_attention(call: WanCall, visibility: dict[tuple[int, int], float], frames: int,
                    total_tokens: Callable[[], int], beside: KeysBeside | None = None) -> Callable:
    """`split_queries` of the `frames` latent frames at the head of the sequence. `beside`: further keys and values, as
    those of a video reference; a compiled block asks for them each time."""
    text_lengths = {tensor.shape[1] for tensor in (call.context, call.clip_fea) if tensor is not None}
    last_block: list[int | None] = [None]

    def is_video(kwargs: dict) -> bool:
        """Of as many text as video tokens, a block's self-attention is the one that comes first."""
        if total_tokens() not in text_lengths:
            return True
        block = kwargs["transformer_options"].get("block_index")
        comes_first, last_block[0] = block != last_block[0], block
        return comes_first

    override = split_queries(call.transformer_options, visibility, frames, call.grid[0] * call.grid[1], total_tokens,
                             is_video=is_video, beside=beside)
    return override if beside is None else torch.compiler.disable(override, recursive=False)
