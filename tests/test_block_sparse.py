"""Block sparse attention against dense attention with a mask of the same blocks, written token by token."""
import itertools

import golden
import pytest
import torch
from lodestar.networks.longcat.config import LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.techniques import sparse_blocks
from lodestar.techniques.block_sparse import BlockSparseAttention
from lodestar.techniques.kv_cache import standing
from lodestar.techniques.sparse_blocks import SparseBlocks

GRID = (8, 12)      # tokens
TOKENS = GRID[0] * GRID[1]


def block_of_tokens(frames: int) -> torch.Tensor:
    """Which block each token, frame by frame and row by row, belongs to."""
    places = itertools.product(range(frames), range(GRID[0]), range(GRID[1]))
    return torch.tensor([(time // 4 * (GRID[0] // 4) + row // 4) * (GRID[1] // 4) + column // 4
                         for time, row, column in places])


def by_mask(query, key, value, share: float):
    """(B, N, H, D): the definition, over all tokens. `share`: of the key blocks that are attended to."""
    rows, columns = (block_of_tokens(part.shape[1] // TOKENS) for part in (query, key))
    mixed = torch.zeros_like(query)
    for batch, head in itertools.product(range(len(query)), range(query.shape[2])):
        q, k, v = (part[batch, :, head] for part in (query, key, value))
        logits = q @ k.T * q.shape[-1] ** -0.5
        for block in rows.unique():
            score = [float(q[rows == block].mean(0) @ k[columns == other].mean(0)) for other in columns.unique()]
            best = sorted(range(len(score)), key=lambda other, score=score: -score[other])
            hidden = ~torch.isin(columns, torch.tensor(best[:max(int(share * len(score)), 1)]))
            own = logits[rows == block].masked_fill(hidden, float("-inf")).softmax(-1)
            mixed[batch, rows == block, head] = own @ v
    return mixed.flatten(2)


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attend(query, key, value):
    return golden.plain_attention(query, key, value, 1)


@pytest.mark.parametrize("frames", [(4, 4), (8, 8), (4, 12)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.875, 0.9375])
@pytest.mark.parametrize("gathered", [1 << 27, 1, 70_000])
def test_it_is_the_masked_attention(monkeypatch, frames, sparsity, gathered):
    """Whatever is gathered at a time; the keys may be more frames than the queries, as with a KV cache."""
    monkeypatch.setattr(sparse_blocks, "GATHERED", gathered)
    query, key, value = (draw(2, count * TOKENS, 3, 8, seed=seed) for seed, count in
                         ((1, frames[0]), (2, frames[1]), (3, frames[1])))
    found = SparseBlocks(sparsity).attend(attend, query, key, value, GRID)
    torch.testing.assert_close(found, by_mask(query, key, value, 1 - sparsity), atol=1e-5, rtol=0)


def test_only_what_is_chosen_is_multiplied():
    seen = []

    def counting(query, key, value):
        seen.append((query.shape[0] * query.shape[1], key.shape[1]))
        return attend(query, key, value)

    parts = [draw(1, 16 * TOKENS, 2, 8, seed=seed) for seed in (1, 2, 3)]
    SparseBlocks(0.75).attend(counting, *parts, GRID)
    blocks = 16 * TOKENS // 64
    assert sum(rows * keys for rows, keys in seen) == 2 * (16 * TOKENS) * (blocks // 4 * 64)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity: got .*, wanted 0"):
        SparseBlocks(sparsity)


# ---------------------------------------------------------------- in the network

@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    config = LongCatConfig(hidden=48, depth=2, heads=2, ffn=64, caption=24, adaln=20)
    return LongCat(config, torch.nn, golden.plain_attention).eval().requires_grad_(False)


def continuation(context: int = 4, noise: int = 8) -> dict:
    timestep = torch.full((1, context + noise), 700.0)
    timestep[:, :context] = 0
    return {"x": draw(1, 16, context + noise, 2 * GRID[0], 2 * GRID[1], seed=7), "timestep": timestep,
            "text": draw(1, 7, 24, seed=8), "clean": (context,) * bool(context)}


@pytest.mark.parametrize("context", [0, 4])
def test_leaving_nothing_out_is_the_plain_network(network, context):
    call = continuation(context)
    torch.testing.assert_close(network(**call, sparse=SparseBlocks(0.0)), network(**call), atol=1e-5, rtol=0)
    assert not torch.allclose(network(**call, sparse=SparseBlocks(0.75)), network(**call), atol=1e-3)


def test_every_self_attention_is_sparse_and_the_text_s_is_not(network, monkeypatch):
    """The clean frames among themselves, the noise over all; against the same network with the masked attention."""
    call, sparse, groups = continuation(), SparseBlocks(0.75), []

    def masked(self, _, query, key, value, grid):
        groups.append((query.shape[1] // TOKENS, key.shape[1] // TOKENS))
        return by_mask(query, key, value, 0.25)

    found = network(**call, sparse=sparse)
    monkeypatch.setattr(SparseBlocks, "attend", masked)
    torch.testing.assert_close(found, network(**call, sparse=sparse), atol=1e-5, rtol=0)
    assert groups == [(4, 4), (8, 12)] * 2


def test_a_kv_cache_changes_nothing(network):
    call, sparse = continuation(), SparseBlocks(0.75)
    whole = network(**call, sparse=sparse)[:, :, 4:]
    caches = network.make_caches(call["x"][:, :, :4], (4,), sparse=sparse)
    call |= {"x": call["x"][:, :, 4:], "timestep": call["timestep"][:, 4:], "clean": (), "times": range(4, 12)}
    torch.testing.assert_close(network(**call, cache=standing(caches, range(4)), sparse=sparse), whole, atol=1e-5,
                               rtol=0)


@pytest.mark.parametrize(("change", "says"), [
    ({"x": torch.zeros(1, 16, 12, 18, 24)}, "wanted .* a size in multiples of 64x64"),
    ({"clean": (1, 3)}, r"got 1 \+ 3 \+ 8 latents of 192x128 pixels, wanted conditioning frames and noise"),
    ({"visibility": {(5, 0): 0.0}}, "cannot with Reference Skip"),
])
def test_what_does_not_fall_into_blocks_is_refused(network, change, says):
    with pytest.raises(ValueError, match=f"block sparse attention: .*{says}"):
        network(**{**continuation(), **change}, sparse=SparseBlocks())


def test_a_take_is_refused_before_it_begins():
    technique = BlockSparseAttention()
    technique.check_chunk(24, 4, 88, 160)
    for chunk in ((24, 3, 88, 160), (21, 4, 88, 160), (24, 4, 60, 104)):
        with pytest.raises(ValueError, match="block sparse attention: got"):
            technique.check_chunk(*chunk)
