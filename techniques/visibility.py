"""Which queries see which keys, without ever building a mask: queries are split into groups that see the same keys.

A factor of 0 hides a key; a factor between 0 and 1 multiplies its weight in the attention map before the rows are
renormalised, which is exactly softmax(logits + log factor). Both stay on fused attention kernels.
"""
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Factors = tuple[tuple[int, float], ...]             # (key frame, factor), only where the factor is not 1
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (q, k, v) -> output, tokens along the same axis


def query_groups(factors: Mapping[tuple[int, int], float], frames: int) -> list[tuple[list[int], Factors]]:
    """{(query frame, key frame): factor} -> the query frames 0..frames-1, gathered by what they see."""
    groups: dict[Factors, list[int]] = defaultdict(list)
    for query in range(frames):
        seen = tuple(sorted((key, factor) for (row, key), factor in factors.items() if row == query and factor != 1))
        groups[seen].append(query)
    return [(queries, seen) for seen, queries in groups.items()]


def closed_spans(lengths: Sequence[int], frames: int) -> dict[tuple[int, int], float]:
    """The spans of `lengths` frames that open a sequence of `frames` see nothing but themselves, each for itself."""
    factors, start = {}, 0
    for length in lengths:
        own = range(start, start + length)
        factors.update({(query, key): 0.0 for query in own for key in range(frames) if key not in own})
        start += length
    return factors


def token_ranges(frames: Sequence[int], tokens_per_frame: int) -> list[tuple[int, int]]:
    """Sorted latent frames as merged [start, end) token ranges."""
    ranges: list[tuple[int, int]] = []
    for frame in sorted(frames):
        start = frame * tokens_per_frame
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
                     groups: Sequence[tuple[list[int], Factors]], dim: int = 1) -> Tensor:
    """Self-attention in which each group of query frames sees its own keys.

    `query`, `key`, `value` have their tokens along `dim` (1 for (B, S, H*D)); frames come first and are
    `tokens_per_frame` tokens each, and tokens after the last grouped frame see everything. `attend` is called without
    a mask: once for each hard group, twice for a group with factors between 0 and 1.
    """
    total = key.shape[dim]
    grouped = sum(len(queries) for queries, _ in groups) * tokens_per_frame
    if grouped < query.shape[dim] and all(factors for _, factors in groups):
        groups = [*groups, ([], ())]
    output = None
    for queries, factors in groups:
        rows = token_ranges(queries, tokens_per_frame)
        if not factors and grouped < query.shape[dim]:
            rows = [*rows, (grouped, query.shape[dim])]
        result = attend_with_factors(attend, take_tokens(query, rows, dim), key, value, tokens_per_frame, factors,
                                     total, dim)
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


def attend_with_factors(attend: Attend, query: Tensor, key: Tensor, value: Tensor, tokens_per_frame: int,
                        factors: Factors, total: int, dim: int) -> Tensor:
    """One group's attention: hidden keys are cut out, down-weighted ones scale the values and the row sums."""
    hidden = token_ranges([frame for frame, factor in factors if factor == 0], tokens_per_frame)
    visible = without_tokens(hidden, total)
    weight = {frame: factor for frame, factor in factors if factor != 0}
    if not weight:
        return attend(query, take_tokens(key, visible, dim), take_tokens(value, visible, dim))
    scale = torch.ones(total, dtype=value.dtype, device=value.device)
    for frame, factor in weight.items():
        scale.narrow(0, frame * tokens_per_frame, tokens_per_frame).fill_(factor)
    shape = [1] * value.ndim
    shape[dim] = total
    scales = take_tokens(scale.view(shape).expand_as(value), visible, dim).contiguous()
    keys = take_tokens(key, visible, dim)
    return attend(query, keys, take_tokens(value, visible, dim) * scales) / attend(query, keys, scales)
