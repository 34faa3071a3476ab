"""RoPE frequencies against the naive formula: one cosine and one sine at a time, in python floats."""
import math

import pytest
import torch
from lodestar.techniques.rope import rope_frequencies


def naive_frequencies(times, height, width, axes_dim, theta, scale=(1, 1, 1), shift=(0, 0, 0)):
    rows = []
    for t in times:
        for y in range(height):
            for x in range(width):
                row = []
                for position, dim, s, o in zip((t, y, x), axes_dim, scale, shift, strict=True):
                    for i in range(dim // 2):
                        angle = (position * s + o) / theta ** (2 * i / dim)
                        row.append([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                rows.append(row)
    return torch.tensor(rows, dtype=torch.float32)[None, :, None]


@pytest.mark.parametrize("axes_dim", [(44, 42, 42), (16, 56, 56), (4, 2, 2), (2, 2, 4)])
@pytest.mark.parametrize("times", [(0, 1, 2), (23.5,), (-2, 0, 999.25), (1e4,)])
def test_rows_equal_the_naive_formula(axes_dim, times):
    rows = rope_frequencies(times, 2, 3, axes_dim)
    expected = naive_frequencies(times, 2, 3, axes_dim, 10000.0)
    assert rows.shape == expected.shape and rows.dtype == torch.float32
    assert (rows - expected).abs().max() < 1e-6


def test_scale_and_shift_act_on_every_axis():
    scale, shift = (0.5, 2.0, 1.5), (3.0, -1.0, 0.25)
    rows = rope_frequencies((0, 7), 3, 2, (4, 6, 8), scale=scale, shift=shift)
    assert (rows - naive_frequencies((0, 7), 3, 2, (4, 6, 8), 10000.0, scale, shift)).abs().max() < 1e-6


def test_nothing_is_remembered_between_calls():
    first = rope_frequencies((0, 1, 2), 2, 2, (4, 4, 4))
    ahead = rope_frequencies((5, 6, 7), 2, 2, (4, 4, 4))
    assert not torch.equal(first, ahead)
    assert torch.equal(first, rope_frequencies((0, 1, 2), 2, 2, (4, 4, 4)))


def test_far_positions_stay_apart():
    """In bfloat16 the ids 260 and 261 are the same number; here they must not be."""
    rows = rope_frequencies((260, 261), 1, 1, (16, 2, 2))
    assert (rows[:, 0] - rows[:, 1]).abs().max() > 0.5
