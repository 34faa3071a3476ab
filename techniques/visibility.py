"""Which queries see which keys, without ever building a mask: queries are split into groups that see the same keys.

A weight of 0 hides a key; a weight between 0 and 1 multiplies its share of the attention map before the rows are
renormalised, which is exactly an attention bias of log weight. Both stay on fused attention kernels.
"""
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Bias = tuple[tuple[int, float], ...]             # (key frame, weight), only where the weight is not 1
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (q, k, v) -> output, tokens along the same axis


def query_groups(visibility: Mapping[tuple[int, int], float], frames: int) -> list[tuple[list[int], Bias]]:
    """{(query frame, key frame): weight} -> the query frames 0..frames-1, gathered by what they see."""
    groups: dict[Bias, list[int]] = defaultdict(list)
    for query in range(frames):
        seen = tuple(sorted((key, weight) for (row, key), weight in visibility.items() if row == query and weight != 1))
        groups[seen].append(query)
    return [(queries, seen) for seen, queries in groups.items()]


def closed_spans(lengths: Sequence[int], frames: int) -> dict[tuple[int, int], float]:
    """The spans of `lengths` frames that open a sequence of `frames` see nothing but themselves, each for itself."""
    visibility, start = {}, 0
    for length in lengths:
        own = range(start, start + length)
        visibility.update({(query, key): 0.0 for query in own for key in range(frames) if key not in own})
        start += length
    return visibility


Starts = int | Sequence[int]      # at which token frame 0 begins, the others behind it; or each frame


def token_ranges(frames: Sequence[int], tokens_per_frame: int, first: Starts = 0) -> list[tuple[int, int]]:
    """Latent frames as sorted, merged [start, end) token ranges; `first`: where they begin."""
    ranges: list[tuple[int, int]] = []
    for start in sorted(first + frame * tokens_per_frame if isinstance(first, int) else first[frame]
                        for frame in frames):
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], start + tokens_per_frame)
        else:
            ranges.append((start, start + tokens_per_frame))
    return ranges


def take_tokens(tensor: Tensor, ranges: Sequence[tuple[int, int]], dim: int) -> Tensor:
    """The tokens in `ranges`: a view where they are one range, a copy otherwise."""
    parts = [tensor.narrow(dim, start, end - start) for start, end in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def without_tokens(ranges: Sequence[tuple[int, int]], total: int) -> list[tuple[int, int]]:
    """The complement of `ranges` in [0, total)."""
    edges = [0, *(edge for pair in ranges for edge in pair), total]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]


def attend_by_groups(attend: Attend, query: Tensor, key: Tensor, value: Tensor, tokens_per_frame: int,
                     groups: Sequence[tuple[list[int], Bias]], dim: int = 1, first: Starts = 0) -> Tensor:
    """Self-attention in which each group of query frames sees its own keys.

    `query`, `key`, `value` have their tokens along `dim` (1 for (B, S, H*D)); frames begin at token `first`, or each at
    its own, and are `tokens_per_frame` tokens each; the other tokens see everything, and are seen by all. `attend` is
    called without a mask: once for each hard group, twice for a group with weights between 0 and 1.
    """
    total = key.shape[dim]
    grouped = token_ranges([frame for queries, _ in groups for frame in queries], tokens_per_frame, first)
    others = without_tokens(grouped, query.shape[dim])
    if others and all(bias for _, bias in groups):
        groups = [*groups, ([], ())]
    output = None
    for queries, bias in groups:
        rows = token_ranges(queries, tokens_per_frame, first)
        if not bias:
            rows = [*rows, *others]
        result = attend_with_bias(attend, take_tokens(query, rows, dim), key, value, tokens_per_frame, bias, total,
                                  dim, first)
        if output is None:
            shape = list(result.shape)
            shape[1] = query.shape[dim]
            output = result.new_empty(shape)
        start = 0
        for begin, end in rows:
            output.narrow(1, begin, end - begin).copy_(result.narrow(1, start, end - begin))
            start += end - begin
    assert output is not None
    return output


def attend_with_bias(attend: Attend, query: Tensor, key: Tensor, value: Tensor, tokens_per_frame: int,
                     bias: Bias, total: int, dim: int, first: Starts = 0) -> Tensor:
    """One group's attention: hidden keys are cut out, down-weighted ones scale the values and the row sums."""
    hidden = token_ranges([frame for frame, weight in bias if weight == 0], tokens_per_frame, first)
    visible = without_tokens(hidden, total)
    weights = {frame: weight for frame, weight in bias if weight != 0}
    if not weights:
        return attend(query, take_tokens(key, visible, dim), take_tokens(value, visible, dim))
    scale = torch.ones(total, dtype=value.dtype, device=value.device)
    for frame, weight in weights.items():
        (start, _), = token_ranges([frame], tokens_per_frame, first)
        scale.narrow(0, start, tokens_per_frame).fill_(weight)
    shape = [1] * value.ndim
    shape[dim] = total
    scales = take_tokens(scale.view(shape).expand_as(value), visible, dim).contiguous()
    keys = take_tokens(key, visible, dim)
    return attend(query, keys, take_tokens(value, visible, dim) * scales) / attend(query, keys, scales)
