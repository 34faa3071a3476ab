"""Split-query attention against a dense additive mask written the naive way."""
import math

import pytest
import torch
from lodestar.techniques.visibility import attend_by_groups, query_groups, token_ranges, without_tokens

HEADS = 3


def attend(q, k, v):
    def split(x):
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2)

    out = torch.nn.functional.scaled_dot_product_attention(split(q), split(k), split(v))
    return out.transpose(1, 2).flatten(2)


def masked_oracle(q, k, v, visibility, tokens_per_frame, first=0):
    def split(x):
        return x.unflatten(2, (HEADS, -1)).transpose(1, 2).double()

    bias = torch.zeros(q.shape[1], k.shape[1], dtype=torch.float64)
    for (query, key), weight in visibility.items():
        rows, columns = (slice(first + frame * tokens_per_frame, first + (frame + 1) * tokens_per_frame)
                         for frame in (query, key))
        bias[rows, columns] = math.log(weight) if weight > 0 else -math.inf
    logits = split(q) @ split(k).transpose(-1, -2) / math.sqrt(q.shape[2] / HEADS) + bias
    return (logits.softmax(-1) @ split(v)).transpose(1, 2).flatten(2).float()


def tensors(frames, tokens, tail=0):
    generator = torch.Generator().manual_seed(frames * 100 + tokens)
    return [torch.randn(2, frames * tokens + tail, HEADS * 8, generator=generator) for _ in range(3)]


CASES = {
    "hard band, reference last": {(2, 7): 0.0, (3, 7): 0.0, (4, 7): 0.0},
    "hard band, reference first": {(5, 0): 0.0, (6, 0): 0.0},
    "reference in the middle": {(0, 3): 0.0, (7, 3): 0.0},
    "soft": {(2, 7): 0.25, (3, 7): 0.0, (4, 7): 0.25},
    "two references": {(2, 6): 0.0, (2, 7): 0.5, (3, 7): 0.0, (4, 6): 0.9},
    "every query": {(query, 7): 0.0 for query in range(8)},
    "nothing": {},
}


@pytest.mark.parametrize(("tail", "first"), [(0, 0), (5, 0), (0, 5), (3, 4)])
@pytest.mark.parametrize("name", CASES)
def test_groups_equal_a_dense_mask(name, tail, first):
    q, k, v = tensors(8, 6, tail + first)
    result = attend_by_groups(attend, q, k, v, 6, query_groups(CASES[name], 8), first=first)
    assert (result - masked_oracle(q, k, v, CASES[name], 6, first)).abs().max() < 1e-5


def test_soft_meets_hard_and_nothing_at_its_ends():
    q, k, v = tensors(6, 4)
    pairs = [(2, 5), (3, 5)]

    def run(weight):
        return attend_by_groups(attend, q, k, v, 4, query_groups(dict.fromkeys(pairs, weight), 6))

    assert torch.allclose(run(1e-12), run(0.0), atol=1e-5)
    assert torch.equal(run(1.0), attend(q, k, v))


def test_heads_first_tensors_are_split_along_their_tokens():
    q, k, v = tensors(5, 4)
    visibility = {(1, 4): 0.0, (2, 4): 0.5}

    def heads_first(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    split = [x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in (q, k, v)]
    result = attend_by_groups(heads_first, *split, 4, query_groups(visibility, 5), dim=2)
    assert (result - masked_oracle(q, k, v, visibility, 4)).abs().max() < 1e-5


def test_a_hard_band_costs_two_calls_and_no_copy_of_the_keys():
    q, k, v = tensors(8, 6)
    calls = []

    def counted(q, k, v):
        calls.append((q.shape[1], k.shape[1], k.data_ptr()))
        return attend(q, k, v)

    attend_by_groups(counted, q, k, v, 6, query_groups(CASES["hard band, reference last"], 8))
    assert sorted(calls)[0][:2] == (18, 42) and sorted(calls)[1][:2] == (30, 48) and len(calls) == 2
    assert {call[2] for call in calls} == {k.data_ptr()}


def test_ranges():
    assert token_ranges([4, 0, 1], 10) == [(0, 20), (40, 50)]
    assert without_tokens([(0, 20), (40, 50)], 60) == [(20, 40), (50, 60)]
    assert without_tokens([], 7) == [(0, 7)]


def test_frames_may_stand_anywhere_in_the_sequence():
    """Each from a token of its own, as against the same tokens in order."""
    query, key, value = (torch.randn(1, 11, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    starts, order = [7, 2, 9], [7, 8, 2, 3, 9, 10, 0, 1, 4, 5, 6]
    groups = query_groups({(0, 1): 0.0, (2, 1): 0.5}, 3)

    def attend(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    made = attend_by_groups(attend, query, key, value, 2, groups, first=starts)
    sorted_by_frame = attend_by_groups(attend, query[:, order], key[:, order], value[:, order], 2, groups)
    assert torch.allclose(made[:, order], sorted_by_frame, atol=1e-6)
    assert not torch.allclose(made, attend(query, key, value), atol=1e-3)
