"""The KV cache against computing all again: evicted, selected, moved, it is what the full sequence gives."""
import golden
import pytest
import torch
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.techniques.kv_cache import KVCache, places_of, standing
from lodestar.techniques.rope import rope_frequencies, rope_frequencies_at, rotate, split_head

SMALL = LongCatConfig(hidden=64, depth=3, heads=2, ffn=128, caption=24, adaln=20,
                      audio=AudioConfig(12, intermediate=16, output=24, tokens=3))
ROWS, COLUMNS, TOKENS, NOISE = 4, 6, 6, 3
AXES = split_head(SMALL.head_dim)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = LongCat(SMALL, torch.nn, golden.plain_attention).eval().requires_grad_(False)
    for weight in made.parameters():    # as drawn, the gates are small: so every block counts
        weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(weight.numel()))
    return made


def latents(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 16, frames, ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def noise_of() -> dict:
    return {"x": latents(NOISE, 99), "timestep": torch.tensor([700.0]),
            "text": torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(5))}


def on_cache(network, cache, times) -> torch.Tensor:
    return network(**noise_of(), cache=cache, times=times)


def on_everything(network, spans, times) -> torch.Tensor:
    """Without a cache: (latents, their times) of each closed span in front of the noise."""
    given = noise_of()
    x = torch.cat([*(span for span, _ in spans), given.pop("x")], 2)
    timestep = torch.full((1, x.shape[2]), 700.0)
    timestep[:, :-NOISE] = 0
    whole = network(**{**given, "timestep": timestep}, x=x, clean=[span.shape[2] for span, _ in spans],
                    times=[*(time for _, own in spans for time in own), *times])
    return whole[:, :, -NOISE:]


def made(network, frames: int, seed: int) -> KVCache:
    cache, = network.make_caches(latents(frames, seed), (frames,))
    return cache


# ---------------------------------------------------------------- places

def test_loose_tokens_turn_as_those_of_whole_frames():
    times, scale, shift = (4.5, 7, -2), (1.0, 0.5, 2.0), (0.25, 0.0, -1.0)
    whole = rope_frequencies(times, 2, 3, AXES, scale=scale, shift=shift)
    places = places_of(times, (2, 3))
    assert places.tolist() == [[time - 4.5, row, column] for time in times for row in range(2) for column in range(3)]
    assert places.dtype == torch.float32
    moved = places.double()
    moved[:, 0] += 4.5
    assert torch.equal(rope_frequencies_at(moved, AXES, scale=scale, shift=shift), whole)


@pytest.mark.parametrize("time", [0, -1, 3.7, 10, 100_000])
def test_keys_read_for_a_time_are_keys_computed_there(network, time):
    x = latents(3, 1)
    cache, = network.make_caches(x, (3,))
    frequencies = cache.frequencies(time, AXES)
    assert frequencies.dtype == torch.float32
    for block in range(SMALL.depth):
        expected = rotate(cache.blocks[block][0], rope_frequencies((time, time + 1, time + 2), 2, 3, AXES))
        assert torch.equal(cache.keys(block, frequencies), expected)
        assert torch.equal(cache.only(block).keys(0, frequencies), expected)


def test_each_cache_stands_at_the_time_of_its_first_frame(network):
    caches = network.make_caches(latents(5), (1, 1, 3))
    assert standing(caches, (10, 30, 0, 1, 2, 3, 4)) == tuple(zip(caches, (10, 30, 0), strict=True))
    assert [cache.frames for cache in caches] == [1, 1, 3]
    assert sum(cache.bytes for cache in caches) == SMALL.depth * 2 * 5 * TOKENS * SMALL.hidden * 4


# ---------------------------------------------------------------- in the network

@pytest.mark.parametrize("style, recent", [(10, 0), (-1, 0), (2.5, -7), (40, 12)])
def test_a_cache_that_is_moved_is_the_network_with_frames_moved(network, style, recent):
    """The same two caches wherever the window stands: a style anchor and the last clean frames."""
    caches, times = network.make_caches(latents(3, 1), (1, 2)), [recent + 2 + frame for frame in range(NOISE)]
    expected = on_everything(network, [(latents(3, 1)[:, :, :1], [style]),
                                       (latents(3, 1)[:, :, 1:], [recent, recent + 1])], times)
    found = on_cache(network, tuple(zip(caches, (style, recent), strict=True)), times)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    elsewhere = on_cache(network, tuple(zip(caches, (style + 5, recent), strict=True)), times)
    assert (elsewhere - expected).abs().max() > 1e-3 * expected.abs().max()


@pytest.mark.parametrize("most", [1, 2, 4, 5, 9])
def test_a_cache_with_eviction_is_the_network_on_the_newest_frames(network, most):
    """Five closed frames come one after the other; the newest ones stand from 0 on, wherever they were."""
    frames = [latents(1, seed) for seed in range(5)]
    cache = network.make_caches(frames[0], (1,))[0]
    for frame in frames[1:]:
        cache = cache.append(network.make_caches(frame, (1,))[0], most)
    left = frames[-most:]
    assert cache.frames == len(left) and torch.equal(cache.places, places_of(range(len(left)), (2, 3)))
    times = [len(left) + frame for frame in range(NOISE)]
    expected = on_everything(network, [(frame, [time]) for time, frame in enumerate(left)], times)
    assert (on_cache(network, [(cache, 0)], times) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("most", range(1, 7))
def test_pieces_of_several_frames_are_cut_where_they_must_be(network, most):
    pieces = [made(network, size, size) for size in (2, 1, 3)]
    cache = pieces[0].append(pieces[1], most).append(pieces[2], most)
    assert torch.equal(cache.places, places_of(range(most), (2, 3))) and cache.frame_tokens == (TOKENS,) * most
    for block in range(SMALL.depth):
        for part in range(2):
            everything = torch.cat([piece.blocks[block][part] for piece in pieces], 1)
            assert torch.equal(cache.blocks[block][part], everything[:, -most * TOKENS:])


def test_selected_tokens_are_the_only_ones_seen(network):
    """Against the network with the keys of the others hidden by hand in its attention."""
    keep = torch.rand(3 * TOKENS, generator=torch.Generator().manual_seed(3)) < 0.5
    cache, times = made(network, 3, 1), [3 + frame for frame in range(NOISE)]
    chosen = cache.select(keep)
    assert chosen.frame_tokens == tuple(int(part.sum()) for part in keep.view(3, TOKENS))
    assert torch.equal(chosen.places, cache.places[keep]) and chosen.bytes < cache.bytes
    seen = torch.cat([keep, torch.ones(NOISE * TOKENS, dtype=torch.bool)])

    def attention(query, key, value, heads, **options):
        if key.shape[1] == len(seen):
            key, value = key[:, seen], value[:, seen]
        return golden.plain_attention(query, key, value, heads, **options)

    hiding = LongCat(SMALL, torch.nn, attention).eval().requires_grad_(False)
    hiding.load_state_dict(network.state_dict())
    expected = on_cache(hiding, [(cache, 0)], times)
    found = on_cache(network, [(chosen, 0)], times)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (found - on_cache(network, [(cache, 0)], times)).abs().max() > 1e-3 * expected.abs().max()


def test_cached_frames_and_frames_in_hand_may_stand_side_by_side(network):
    x, times = latents(3, 1), [2 + frame for frame in range(NOISE)]
    cache, given = network.make_caches(x[:, :, :1], (1,)), noise_of()
    given["x"] = torch.cat([x[:, :, 1:], given["x"]], 2)
    given["timestep"] = torch.tensor([[0.0, 0.0, *[700.0] * NOISE]])
    found = network(**given, cache=[(cache[0], 9)], clean=(2,), times=[0, 1, *times])[:, :, 2:]
    expected = on_everything(network, [(x[:, :, :1], [9]), (x[:, :, 1:], [0, 1])], times)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


# ---------------------------------------------------------------- frames without tokens

def kept_frames(cache, *frames):
    return cache.select(torch.tensor([frame in frames for frame in range(cache.frames)]).repeat_interleave(TOKENS))


@pytest.mark.parametrize("kept", [(0, 1, 2), (0, 1), (1, 2), (0, 2), (2,), (0,), ()])
def test_a_frame_that_kept_no_token_keeps_its_time(network, kept):
    """Selecting first and evicting or appending then is the same as the other way round."""
    cache, later = made(network, 3, 1), made(network, 2, 2)
    few = kept_frames(cache, *kept)
    assert few.times == (0, 1, 2) and torch.equal(few.newest(3).places, few.places)
    for frames in range(4):
        left = kept_frames(cache.newest(frames), *(frame - 3 + frames for frame in kept))
        assert torch.equal(few.newest(frames).places, left.places) and few.newest(frames).times == left.times
    for most in range(1, 7):
        both = cache.append(later, most)
        lost = 5 - both.frames
        expected = kept_frames(both, *(frame - lost for frame in (*kept, 3, 4)))
        found = few.append(later, most)
        assert torch.equal(found.places, expected.places) and found.frame_tokens == expected.frame_tokens
        assert all(torch.equal(ours, theirs) for pairs in zip(found.blocks, expected.blocks, strict=True)
                   for ours, theirs in zip(*pairs, strict=True))


def test_a_cache_without_frames_is_begun_by_what_comes(network):
    cache, = network.make_caches(latents(2), (2,), times=(7, 8))
    empty = cache.newest(0)
    assert torch.equal(empty.append(cache, 4).places, cache.places) and cache.append(empty, 4).times == (0, 1)
    assert standing((cache, empty), (3, 4)) == ((cache, 3),)


# ---------------------------------------------------------------- refusals

def test_what_does_not_fit_is_refused(network):
    cache = made(network, 2, 1)
    with pytest.raises(ValueError, match="frames: got 0, wanted a cache of at least 1"):
        cache.append(cache, 0)
    with pytest.raises(ValueError, match=r"of \[1\] blocks, this model has 3"):
        on_cache(network, [(cache.only(0), 0)], range(NOISE))
    part = cache.select(torch.arange(2 * TOKENS) < TOKENS + 1)
    with pytest.raises(ValueError, match=r"frames of \[1\] tokens, wanted whole ones of 6"):
        network(**noise_of(), cache=[(part, 0)], visibility={(2, 0): 0.5})
