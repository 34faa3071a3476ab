"""What stands beside a call of ComfyUI's Wan: its frames pass the model alone, the attention override keeps their keys.

Keys come to the override after RoPE and are turned back in float32, as in memory.py. What is not selected is hidden
from the pass, too, and leaves nothing.
"""
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...techniques.rope import rotate, scaled_axes
from ..reference_pass import (
    Beside,
    Keep,
    VideoKeys,
    frequencies_of,
    kept_once,
    options_alone,
    positive_row,
    text_of_run,
    tokens_of,
)
from .call import WanCall

Alone = Callable[[WanCall], WanCall]    # a call with the positive prompt, at level 0 -> one that holds a video


def video_keys(call: WanCall, one: Beside, with_video: Alone, before: int = 0) -> VideoKeys:
    """What every call attends to of a span beside it. `with_video`: how its family is given known frames; `before`:
    how many latent frames then open the sequence, which the span does not see."""
    tokens, x, module, span = tokens_of(one, call.grid), call.x, call.module, one.span

    def make(keep: Keep) -> None:
        alone = with_video(call.change(
            timestep=call.timestep.new_zeros(1), context=text_of_run(call.transformer_options, call.context),
            clip_fea=None if call.clip_fea is None else positive_row(call.transformer_options, call.clip_fea),
            time_dim_concat=None, stand_ins={}, transformer_options=options_alone(call.transformer_options)))
        times = [time - span.times[0] for time in span.times]
        rows = alone.rows(times)
        chosen = None if tokens.whole else tokens.keep.flatten().nonzero().flatten().to(x.device)
        alone = alone.with_attention(keep_keys(alone, before * call.grid[0] * call.grid[1], chosen, rows, keep))
        if "rope_encode" not in alone.stand_ins:
            alone = alone.change(stand_ins={"rope_encode": lambda *_, **__: rows})
        with alone.in_place():
            module._forward(*alone.arguments, **alone.extra)

    cache = kept_once(call.transformer_options, (id(module), x.dtype), one, x.device, make, tokens)
    axes = scaled_axes(call.transformer_options.get("rope_options"))
    embedder = module.rope_embedder
    return VideoKeys(cache, frequencies_of(call.transformer_options, cache, span.times[0], embedder.axes_dim,
                                           embedder.theta, axes))


def keep_keys(call: WanCall, first: int, chosen: Tensor | None, rows: Tensor, keep: Keep) -> Callable:
    """An attention override under which all tokens see the video's alone, and which hands over what is kept of them.

    The video begins at token `first`; `chosen`: which of its tokens there are, None for all; `rows`: RoPE frequencies
    of all of them.
    """
    heads, earlier = call.module.num_heads, call.transformer_options.get("optimized_attention_override")
    total = first + rows.shape[1]
    back = (rows if chosen is None else rows[:, chosen]).transpose(-1, -2)
    last_block: list[int | None] = [None]

    def take(x: Tensor) -> Tensor:
        return x[:, first:] if chosen is None else x[:, first:][:, chosen]

    def override(function, q, k, v, *args, **kwargs):
        attend = function if earlier is None else partial(earlier, function)
        block = kwargs["transformer_options"]["block_index"]
        if block == last_block[0] or q.shape[1] != total or k.shape[1] != total:    # a block's first is self-attention
            return attend(q, k, v, *args, **kwargs)
        last_block[0] = block
        k, v = take(k), take(v)
        keep(rotate(k.unflatten(2, (heads, -1)), back), v.unflatten(2, (heads, -1)).contiguous())
        return attend(q, k, v, *args, **kwargs)

    return torch.compiler.disable(override, recursive=False)
