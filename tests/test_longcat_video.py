"""A video of the person in LongCat's network: its KV cache against the whole sequence under a naive mask."""
import golden
import pytest
import torch
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.longcat.video import keep_video
from lodestar.techniques.kv_cache import KVCache, standing
from lodestar.techniques.reference_tokens import Tokens, all_tokens
from lodestar.techniques.rope import split_head
from torch.nn.functional import scaled_dot_product_attention

FRAMES, GRID, AHEAD = 3, (2, 3), 7.0
SMALL = LongCatConfig(hidden=64, depth=3, heads=2, ffn=256, caption=24, adaln=20,
                      audio=AudioConfig(12, intermediate=16, output=24, tokens=3))


def draw(*shape, seed: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(attention=golden.plain_attention) -> LongCat:
    torch.manual_seed(0)
    return LongCat(SMALL, torch.nn, attention).eval().requires_grad_(False)


def selection() -> Tokens:
    keep = torch.zeros(FRAMES, *GRID, dtype=torch.bool)
    keep[0, 1, :2] = keep[2, :, 1:] = True       # and none of the second frame
    return Tokens(keep)


def keys_of(small, tokens: Tokens, audio=None, seed: int = 1) -> KVCache:
    blocks = []
    keep_video(small, draw(1, 16, FRAMES, 4, 6, seed=seed), tokens, lambda *pair: blocks.append(pair), audio)
    return KVCache(blocks, tokens.places.float(), (0.0, 1.0, 2.0), tokens.frame_tokens)


def call(frames: int = 5) -> dict:
    return {"timestep": torch.full((1, frames), 700.0), "text": draw(1, 7, 24, seed=2), "times": tuple(range(frames)),
            "audio": draw(1, 1, 4 * frames - 3, 5, 3, 4, seed=3)}


@pytest.mark.parametrize("context", [False, True], ids=["noise", "behind a picture and context"])
@pytest.mark.parametrize("tokens", [Tokens(all_tokens(FRAMES, GRID)), selection()], ids=["whole", "selected"])
def test_keys_are_those_of_a_masked_sequence(tokens, context):
    small, x, given = network(), draw(1, 16, 5, 4, 6, seed=4), call()
    clean, clean_times = draw(1, 16, 3, 4, 6, seed=5), (9.5, 12.0, 13.0)
    cache = keys_of(small, tokens)
    beside = ((cache, cache.frequencies(AHEAD, split_head(SMALL.head_dim))),)
    caches = standing(small.make_caches(clean, (1, 2), clean_times), clean_times) if context else ()
    kept = small(x, **given, beside=beside, cache=caches)

    order = [(FRAMES, tokens.keep.flatten())]       # the video, the picture, the context, the noise
    order += [(1, torch.ones(6)), (2, torch.ones(12))] if context else []
    group = torch.cat([torch.full((length * 6,), number) for number, (length, _) in enumerate(order)]
                      + [torch.full((30,), 9)])
    there = torch.cat([keep.bool() for _, keep in order] + [torch.ones(30, dtype=torch.bool)])
    mask = torch.tensor([[bool(there[key]) and bool(group[query] in (9, group[key])) for key in range(len(group))]
                         for query in range(len(group))])

    def masked(query, key, value, heads, transformer_options=None):
        if query.shape[1] != len(group):
            return golden.plain_attention(query, key, value, heads)
        query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)

    whole = network(masked)
    front = [draw(1, 16, FRAMES, 4, 6, seed=1), *([clean] if context else [])]
    ahead = sum(part.shape[2] for part in front)
    times = tuple(AHEAD + frame for frame in range(FRAMES)) + (clean_times if context else ()) + given["times"]
    given["timestep"] = torch.cat([torch.zeros(1, ahead), given["timestep"]], 1)
    # no table, one group: the mask alone divides the clean frames, and so are those that were left out
    whole.lay_out = lambda place, caches, device, options: (LongCat.lay_out(whole, place, caches, device, options)[0],
                                                            [(list(range(len(times))), ())], ())
    made = whole(torch.cat([*front, x], 2), **{**given, "times": times}, clean=(ahead,))[:, :, ahead:]
    assert (kept - made).abs().max() < 1e-6 * made.abs().max()
    assert (kept - small(x, **call(), cache=caches)).abs().max() > 1e-3


def test_its_audio_is_each_frames_own():
    """Of a frame that has tokens all others change by it, of one that has none nothing does."""
    small, tokens = network(), selection()
    audio = draw(1, 1, 4 * FRAMES - 3, 5, 3, 4, seed=6)
    cache, silent = keys_of(small, tokens, audio), keys_of(small, tokens)
    assert torch.equal(cache.blocks[0][0], silent.blocks[0][0])        # before the first audio attention
    assert not torch.equal(cache.blocks[1][0], silent.blocks[1][0])
    changed = []
    for frame in range(FRAMES):
        other = audio.clone()
        other[:, :, max(0, 4 * frame - 3):4 * frame + 1] += 1
        keys = keys_of(small, tokens, other).blocks[1][0]
        changed.append([not torch.equal(*parts) for parts in zip(
            keys.split(tokens.frame_tokens, 1), cache.blocks[1][0].split(tokens.frame_tokens, 1), strict=True)])
    assert changed == [[True, False, False], [False, False, False], [False, False, True]]


def test_the_sound_of_all_tokens_is_the_networks_own():
    """Of whole frames it is the audio attention that the same frames have as noise at level 0."""
    small, tokens, audio = network(), Tokens(all_tokens(FRAMES, GRID)), draw(1, 1, 9, 5, 3, 4, seed=6)
    seen = []
    for block in small.blocks:
        own = block.attn.keys_and_values
        block.attn.keys_and_values = lambda x, own=own: seen.append(own(x)) or seen[-1]
    small(draw(1, 16, FRAMES, 4, 6, seed=1), torch.zeros(1, FRAMES), audio=audio)
    whole = list(seen)
    cache = keys_of(small, tokens, audio)
    assert all((key - own).abs().max() < 1e-5 for (key, _), (_, own, _) in zip(cache.blocks, whole, strict=True))
