"""techniques/audio/windows.py against naive oracles: torch only."""
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lodestar.techniques.audio.segments import moments, plan_segments, runs, select_layers, trim_segments


@given(st.lists(st.integers(0, 9)))
def test_runs_are_the_same_numbers_in_as_few_pieces_as_can_be(numbers):
    found = runs(numbers)
    assert [number for first, end in found for number in range(first, end)] == numbers
    assert all(end != first for (_, end), (first, _) in zip(found, found[1:], strict=False))


def kept_steps(windows) -> list[int]:
    return [step for window in windows for step in range(window.keep_first, window.keep_end)]


@given(st.integers(1, 3000), st.integers(1, 400), st.data())
def test_every_step_is_kept_once_with_its_margin(steps, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    windows = plan_segments(steps, window, overlap)
    assert kept_steps(windows) == list(range(steps))
    assert all(part.end - part.first == min(window, steps) for part in windows)
    assert all(part.keep_first - part.first >= overlap // 2 for part in windows[1:])
    assert all(part.end - part.keep_end >= overlap // 2 for part in windows[:-1])


@given(st.integers(1, 600), st.integers(1, 80), st.data())
def test_no_window_more_than_a_greedy_walk_needs(steps, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    covered, greedy = window, 1
    while covered < steps:
        covered, greedy = covered + window - overlap, greedy + 1
    assert len(plan_segments(steps, window, overlap)) == greedy


@pytest.mark.parametrize("overlap", [-1, 10, 11])
def test_an_overlap_as_long_as_the_window_is_refused(overlap):
    with pytest.raises(ValueError, match="^got .* of overlap for segments of .*choose an overlap shorter"):
        plan_segments(100, 10, overlap)


def test_what_is_kept_is_the_whole():
    whole = [torch.randn(1, 103, 3), torch.randn(1, 103, 5)]
    windows = plan_segments(103, 20, 7)
    spoilt = []
    for window in windows:      # margins are wrong on purpose: none of them may reach the result
        layers = [layer[:, window.first:window.end].double().clone() for layer in whole]
        for layer in layers:
            layer[:, :window.keep_first - window.first] = torch.nan
            layer[:, window.keep_end - window.first:] = torch.nan
        spoilt.append(layers)
    joined = [torch.cat(pieces, 1) for pieces in zip(*trim_segments(windows, iter(spoilt)), strict=True)]
    assert all(torch.equal(ours, layer.double()) for ours, layer in zip(joined, whole, strict=True))


def test_statistics_of_pieces_are_those_of_the_whole():
    whole = torch.randn(4, 1001) * 3 + 100
    mean, variance = moments(whole.split(37, -1))
    assert torch.allclose(mean, whole.double().mean(-1), rtol=1e-7)
    assert torch.allclose(variance, whole.double().var(-1, correction=0), rtol=1e-5)
    assert moments([torch.full((2, 9), 0.3), torch.full((2, 5), 0.3)])[1].abs().max() < 1e-15


@pytest.mark.parametrize("text, wanted", [
    ("all", range(25)), ("last", [24]), (" Last ", [24]), ("0,5,-1", [0, 5, 24]), ("0-24", range(25)),
    ("5,0,5", [0, 5]), ("-3--1", [22, 23, 24]), ("1-3, 8", [1, 2, 3, 8]), ("-25", [0]),
])
def test_layers_are_picked_as_a_list_index_would(text, wanted):
    assert select_layers(text, 25) == tuple(wanted)


@pytest.mark.parametrize("text", ["", "first", "1,,2", "1;2", "0-", "1.5", "25", "-26", "0-25", "3-1"])
def test_layers_that_are_not_there_are_refused(text):
    with pytest.raises(ValueError, match="^got"):
        select_layers(text, 25)


def test_layers_are_spell_checked_without_an_encoder():
    select_layers("0-99")
    with pytest.raises(ValueError, match="^got .every., wanted all, last"):
        select_layers("every")
