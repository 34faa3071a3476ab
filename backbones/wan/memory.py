"""Calls of a Wan model that sees what a stream remembers, and writes what it is to remember, through the attention
override: keys come there after RoPE and are turned back in float32, which loses nothing that the model's dtype had.
"""
from collections.abc import Callable

from torch import Tensor, cat

from ...techniques.rope import rotate
from ..model_call import KeysBeside
from ..written_memory import MemoryCall
from .call import WanCall


def attention_with_memory(call: WanCall, memory: MemoryCall, own: int, rows: Tensor, beside: KeysBeside | None = None
                          ) -> Callable:
    """An attention override that joins the memory's keys to those of self-attention, chained onto any override already
    on the call. `own`: how many latents open the sequence, the newest of which are written; `rows`: the RoPE
    frequencies of the whole sequence; `beside`: further keys and values, which all see."""
    tokens, heads, total = call.grid[0] * call.grid[1], call.module.num_heads, rows.shape[1]
    branches = memory.memory.branches(call.transformer_options)
    seen = call.rows(memory.times) if memory.seen else rows
    newest = slice((own - len(memory.slots)) * tokens, own * tokens)
    back = rows[:, newest].transpose(-1, -2)
    earlier = call.transformer_options.get("optimized_attention_override")
    last_block: list[int | None] = [None]

    def override(function, q, k, v, *args, **kwargs):
        block = kwargs["transformer_options"].get("block_index")

        def attend(k, v):
            if earlier is not None:
                return earlier(function, q, k, v, *args, **kwargs)
            return function(q, k, v, *args, **kwargs)

        if block == last_block[0] or q.shape[1] != total or k.shape[1] != total:    # a block's first is self-attention
            return attend(k, v)
        last_block[0] = block
        kept = memory.read(branches, block, k.dtype)
        seen_k, seen_v = (k, v) if kept is None else (
            cat([rotate(kept[0], seen).flatten(2), k], 1), cat([kept[1].flatten(2), v], 1))
        made = attend(*((seen_k, seen_v) if beside is None else beside.join(block, seen_k, seen_v)))
        if memory.writes:
            key, value = (part[:, newest].unflatten(2, (heads, -1)) for part in (k, v))
            memory.write(branches, block, rotate(key, back), value)
        return made

    return override
