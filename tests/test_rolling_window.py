"""The rolling window against the fixtures, and whole streams against a dictionary of blocks and a list of visits."""
import itertools
from pathlib import Path

import golden
import pytest
import torch
from lodestar.techniques.flow_schedules import student_levels
from lodestar.techniques.layout import Layout, Span
from lodestar.techniques.rolling_window import Rolling, list_calls, noise_seed, roll, spread_levels
from lodestar.techniques.style_anchor import StyleAnchor
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.temporal_anchor import TemporalAnchor, count_recents

FOLDER = Path(__file__).resolve().parent / "golden" / "rolling"
CASES = golden.cases_of(golden.Fixtures(FOLDER), golden.Host())


@pytest.mark.parametrize("name", CASES)
def test_a_fixture_holds(name):
    with torch.no_grad():
        result = CASES[name]()
    assert result.passed, result.row(40)


def seen_by(blocks: torch.Tensor) -> torch.Tensor:
    """A prediction that depends on every frame in sight, its place and its level: (frames,) -> (frames,)."""
    place = torch.arange(len(blocks), dtype=torch.float64)
    mixing = torch.cos(place[:, None] - 1.7 * place[None]) / len(blocks)
    return torch.tanh(mixing @ blocks) + 0.1 * blocks


def noise(block: int, level: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(noise_seed(7, block, level))
    return torch.randn(1, 1, size, 1, 1, generator=generator, dtype=torch.float64)


def naive(sigmas, size, passes, recents, blocks, renoise):
    """Every visit from the definition: block k is in windows k .. k+L-1, at level (w-k) N + p."""
    levels = len(sigmas) - 1
    state, emitted = {}, []
    visits = sorted((window, each, block) for block in range(blocks) for each in range(passes)
                    for window in range(block, block + levels // passes))
    for (window, each), group in itertools.groupby(visits, key=lambda visit: visit[:2]):
        inside = [block for *_, block in group]
        level = {block: (window - block) * passes + each for block in inside}
        for block in inside:
            if level[block] == 0:
                state[block] = noise(block, 0, size).flatten()
        past = torch.cat(emitted)[-recents:] if emitted and recents else torch.zeros(0, dtype=torch.float64)
        sight = torch.cat([past, *(state[block] * (1 + sigmas[level[block]]) for block in inside)])
        predicted = seen_by(sight)[len(past):].split(size)
        for block, clean in zip(inside, predicted, strict=True):
            now, later = sigmas[level[block]], sigmas[level[block] + 1]
            if later == 0:
                state[block] = clean
            elif renoise == "keep":
                state[block] = state[block] + (later - now) * (state[block] - clean) / now
            else:
                state[block] = (1 - later) * clean + later * noise(block, level[block] + 1, size).flatten()
            if later == 0:
                emitted.append(clean)
    return torch.stack(emitted)


@pytest.mark.parametrize(("size", "length", "passes", "recents"), [
    (size, length, passes, recents) for size in (1, 2, 4) for length in (1, 2, 4) for passes in (1, 2)
    for recents in (0, 1, 3)])
def test_a_stream_equals_its_list_of_visits(size, length, passes, recents):
    sigmas = (*(1 - 0.9 * level / (length * passes) for level in range(length * passes)), 0.0)
    for blocks, renoise in itertools.product((1, 2, 5, 9), ("fresh", "keep")):
        rolling, written = Rolling(sigmas, size, passes, renoise), []

        def predict(call, x, rolling=rolling, written=written):
            levels = torch.tensor(spread_levels(rolling.sigmas, call, size), dtype=torch.float64)
            past = torch.cat(written).flatten()[-len(call.recents):] if call.recents else levels[:0]
            return seen_by(torch.cat([past, x.flatten() * (1 + levels)]))[len(past):].view_as(x)

        found = roll(rolling, blocks, recents, predict, lambda block, level: noise(block, level, size),
                     lambda call, clean, written=written: written.append(clean.flatten()))
        wanted = naive(sigmas, size, passes, recents, blocks, renoise)
        assert torch.allclose(torch.stack([block.flatten() for block in found]), wanted, atol=1e-12)


def test_a_longer_take_begins_with_the_same_blocks_until_its_end_is_in_sight():
    """The noise belongs to block and level, so only what looks into the end differs."""
    rolling = Rolling((1.0, 0.7, 0.4, 0.0), 2)

    def predict(call, x):
        return seen_by(x.flatten()).view_as(x)

    def stream(blocks):
        return list(roll(rolling, blocks, 0, predict, lambda block, level: noise(block, level, 2)))

    for short, long in zip(stream(6)[:4], stream(9)[:4], strict=True):
        assert torch.equal(short, long)


@pytest.mark.parametrize("recents", [0, 1, 3])
def test_the_calls_of_some_windows_are_those_of_the_whole(recents):
    """Where a take goes on, what it sees is what it would have seen."""
    rolling = Rolling((1.0, 0.7, 0.4, 0.0), 2)
    whole = list(list_calls(rolling, 7, recents))
    for blocks in (range(0, 2), range(2, 5), range(5, 7)):
        windows = rolling.windows_of(blocks)
        assert rolling.emitted_in(windows) == blocks
        assert list(list_calls(rolling, 7, recents, windows)) == [call for call in whole if call.window in windows]


@pytest.mark.parametrize(("sigmas", "size", "passes", "renoise", "wanted"), [
    ((1.0, 0.5, 0.2, 0.1, 0.05, 0.0), 4, 4, "fresh", "5 levels and a 0, which 4 passes do not divide"),
    ((1.0, 0.5), 4, 1, "fresh", "falling levels that end in 0"), ((0.5, 1.0, 0.0), 4, 1, "fresh", "falling levels"),
    ((0.0,), 4, 1, "fresh", "falling levels"), ((1.0, 0.0), 0, 1, "fresh", "blocks of 0 latents"),
    ((1.0, 0.0), 1, 1, "sometimes", "sometimes")])
def test_what_is_no_window_is_refused(sigmas, size, passes, renoise, wanted):
    with pytest.raises(ValueError, match=wanted):
        Rolling(sigmas, size, passes, renoise)


def test_student_levels_are_the_closed_form():
    for asked, levels in ((("AvatarForcing", 4, 1, 5.0), [1, 0.95238, 0.76923, 0.55556, 0]),
                          (("Causal-Forcing 4", 2, 2, 5.0), [1, 0.9375, 0.83333, 0.625, 0]),
                          (("even", 2, 3, 1.0), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])):
        assert student_levels(*asked).tolist() == pytest.approx(levels, abs=1e-5)
    for student, blocks in (("AvatarForcing", 3), ("Causal-Forcing 2", 4), ("nobody", 4)):
        with pytest.raises(ValueError, match=student):
            student_levels(student, blocks, 1, 5.0)


def test_the_anchors_say_where_and_how_many():
    picture, position = torch.zeros(1, 16, 1, 2, 2), ChunkPosition(first_latent=9)
    placed = StyleAnchor(latents=picture).layout(Layout.of_chunk(4), position)
    assert placed["anchor"].times == (-1.0,) and placed["anchor"].clean
    assert StyleAnchor(reindex=False, latents=picture).layout(Layout.of_chunk(4), position)["anchor"].times == (-9,)
    own = Layout.of_chunk(4).append(Span("reference", (30, 31)))
    assert StyleAnchor(3.5).layout(own, position)["reference"].times == (3.5, 4.5)
    with pytest.raises(ValueError, match="anchor: .*no other came"):
        StyleAnchor().layout(Layout.of_chunk(4), ChunkPosition())
    assert count_recents((StyleAnchor(latents=picture), TemporalAnchor(5))) == 5 and count_recents(()) == 0
    with pytest.raises(ValueError, match="-1"):
        TemporalAnchor(-1)
