"""One call of a ComfyUI Wan model: its arguments, its RoPE frequencies, and its attention with queries split."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from ...techniques.layout import Span
from ...techniques.rope import rope_frequencies, scaled_axes
from ...techniques.visibility import attend_by_groups, query_groups
from ..backbone import latents_of
from ..frame_conditions import window_of
from ..model_call import ModelCall
from ..sampling_run import once


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
        own. Kept for the run, but for context windows at places of their own, of which there are many."""
        embedder, device = self.module.rope_embedder, self.x.device
        axes = scaled_axes(self.transformer_options.get("rope_options"))
        place = (tuple(times), self.grid, tuple(embedder.axes_dim), embedder.theta, axes)
        make = partial(rope_frequencies, times, *self.grid, embedder.axes_dim, theta=embedder.theta, scale=axes[0],
                       shift=axes[1], device=device)
        window = window_of(self.transformer_options)
        if times[0] > 0 and window is not None and tuple(times[:len(window.latents)]) == window.latents:
            return make()
        return once(self.transformer_options, ("rope frequencies", place, device), make)

    def latents(self, span: Span, process_in: Callable[[Tensor], Tensor]) -> Tensor:
        return latents_of(span, self.x, self.module.out_dim, process_in, self.transformer_options)


def split_attention(call: WanCall, visibility: dict[tuple[int, int], float], frames: int,
                    total_tokens: Callable[[], int]) -> Callable:
    """An attention override that splits the queries, chained onto any override already on the call.

    `frames`: latent frames at the head of the sequence. `total_tokens` is asked while the model runs, since a model
    may add tokens of its own. Cross-attention passes through untouched.
    """
    groups = query_groups(visibility, frames)
    tokens_per_frame = call.grid[0] * call.grid[1]
    earlier = call.transformer_options.get("optimized_attention_override")
    text_lengths = {tensor.shape[1] for tensor in (call.context, call.clip_fea) if tensor is not None}
    last_block: list[int | None] = [None]

    def override(function, q, k, v, *args, **kwargs):
        def attend(q, k, v):
            if earlier is not None:
                return earlier(function, q, k, v, *args, **kwargs)
            return function(q, k, v, *args, **kwargs)

        dim, total = (2 if kwargs.get("skip_reshape") else 1), total_tokens()
        if not visibility or q.shape[dim] != total or k.shape[dim] != total:
            return attend(q, k, v)
        if total in text_lengths:   # as many text as video tokens: a block's self-attention is the one that comes first
            block = kwargs["transformer_options"].get("block_index")
            if block == last_block[0]:
                return attend(q, k, v)
            last_block[0] = block
        return attend_by_groups(attend, q, k, v, tokens_per_frame, groups, dim)

    return override
