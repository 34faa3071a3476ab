"""Block Sparse Attention on LongCat-Video in ComfyUI: beside KV cache and LoRA; refusals."""
import pytest
import torch
from draws import random
from lodestar.backbones import attach
from lodestar.backbones.longcat.lora import with_lora
from lodestar.nodes.block_sparse_attention import LodestarBlockSparseAttention
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.sparse_blocks import SparseBlocks
from safetensors.torch import load_file

SIZE = (16, 24)     # of latents: 2 x 3 blocks to every 4 latents


@pytest.fixture(scope="module")
def video(tiny_models, longcat):
    return longcat.load(tiny_models, longcat.BASE)


def sparse(model, sparsity=0.75):
    return LodestarBlockSparseAttention.execute(model=model, sparsity=sparsity).args[0]


def sample(model, longcat, given=4, frames=12, size=SIZE, steps=2):
    latent, mask = random(1, 16, frames, *size, seed=8), torch.ones(1, 1, frames, *size)
    mask[:, :, :given] = 0
    return longcat.sample(model, longcat.prompt(model), steps=steps, latent=latent, mask=mask if given else None,
                          seed_noise=random(1, 16, frames, *size, seed=9))


def test_a_run_is_the_network_with_it(video, longcat):
    """Euler by hand on the headless network, noise alone; sparsity 0 is the model itself."""
    network, noise = longcat.headless(video), random(1, 16, 8, *SIZE, seed=9)
    found = longcat.sample(sparse(video), longcat.prompt(video), seed_noise=noise)
    expected = longcat.euler(video, lambda x, sigma: longcat.velocity(network, x, sigma,
                                                                       sparse=SparseBlocks(0.75)), start=noise)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    plain = longcat.sample(video, longcat.prompt(video), seed_noise=noise)
    assert not torch.allclose(found, plain, atol=1e-2)
    torch.testing.assert_close(longcat.sample(sparse(video, 0.0), longcat.prompt(video), seed_noise=noise), plain,
                               atol=1e-4, rtol=0)


def test_the_kv_cache_changes_nothing(video, longcat):
    cached = attach.with_technique(video, ConditioningCache())
    plain = sample(sparse(video), longcat)
    torch.testing.assert_close(sample(sparse(cached), longcat), plain, atol=1e-4, rtol=0)
    assert not torch.allclose(sample(video, longcat), plain, atol=1e-2)


def test_a_lora_acts_before_it_and_behind_it(tiny_models, video, longcat):
    weights = load_file(tiny_models / "models" / "loras" / f"{longcat.BASE}_lora.safetensors")
    one = sample(sparse(with_lora(video, weights, 1.0, "lora")), longcat)
    torch.testing.assert_close(sample(with_lora(sparse(video), weights, 1.0, "lora"), longcat), one, atol=1e-5, rtol=0)
    assert not torch.allclose(sample(sparse(video), longcat), one, atol=1e-3)


@pytest.mark.parametrize(("size", "given", "technique", "says"), [
    ((16, 20), 4, None, "got 4 [+] 8 latents of 160x128 pixels"),
    (SIZE, 1, None, "got 1 [+] 11 latents"),
    (SIZE, 4, LookaheadAnchor(3, latents=random(1, 16, 1, *SIZE)), "without a reference or anchor"),
])
def test_what_falls_into_no_block_is_refused(video, longcat, size, given, technique, says):
    model = sparse(video) if technique is None else attach.with_technique(sparse(video), technique)
    with pytest.raises(ValueError, match=f"block sparse attention: .*{says}"):
        sample(model, longcat, given, size=size)


def test_other_models_are_refused(tiny_models, longcat, wan):
    for model in (longcat.load(tiny_models, longcat.AVATAR15), wan.load(tiny_models, "wan21_t2v")):
        with pytest.raises(ValueError, match="model: got .*, wanted LongCat-Video"):
            sparse(model)
