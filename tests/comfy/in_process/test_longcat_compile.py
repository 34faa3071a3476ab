"""LongCat under core's TorchCompileModel: with a LoRA on plain and on packed weights, and with what is its own."""
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from lodestar.backbones import attach
from lodestar.backbones.longcat.lora import with_lora
from lodestar.techniques.block_sparse import BlockSparseAttention
from lodestar.techniques.negative_text import NegativeText
from lodestar.techniques.sparse_blocks import SparseBlocks
from safetensors.torch import load_file

pytestmark = pytest.mark.once

SIZE = (8, 16)      # of latents: two blocks to every 4


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    """PyTorch gives up a function that it has compiled too often, in this process."""
    torch._dynamo.reset()


def compiled(model):
    clone = model.clone()
    set_torch_compile_wrapper(model=clone, backend="eager", options={"guard_filter_fn": lambda guards: [
        "transformer_options" not in guard.name for guard in guards]})      # as core's node does
    return clone


@pytest.mark.parametrize("name", ["AVATAR15", "INT8"])
def test_a_lora_acts_under_it(tiny_models, longcat, name):
    """Put on before the compiler and behind it."""
    model = longcat.load(tiny_models, getattr(longcat, name))
    weights = load_file(tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors")

    def sample(patched):
        return longcat.sample(patched, longcat.prompt(model), steps=1)

    expected = sample(with_lora(model, weights, 1.0, "lora"))
    assert not torch.allclose(expected, sample(model), atol=1e-3)
    for patched in (compiled(with_lora(model, weights, 1.0, "lora")), with_lora(compiled(model), weights, 1.0, "lora")):
        torch.testing.assert_close(sample(patched), expected, atol=1e-4, rtol=0)


def test_sparse_attention_and_a_negative_prompt_act_under_it(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.BASE)
    noise = torch.randn(1, 16, 8, *SIZE, generator=torch.Generator().manual_seed(1))

    def sample(patched):
        return longcat.sample(patched, longcat.prompt(model), steps=1, seed_noise=noise)

    results = []
    for technique in (BlockSparseAttention(SparseBlocks(0.5)), NegativeText(longcat.text(seed=4))):
        results.append(sample(attach.with_technique(model, technique)))
        torch.testing.assert_close(sample(attach.with_technique(compiled(model), technique)), results[-1], atol=1e-4,
                                   rtol=0)
    results.append(sample(model))
    assert all(not torch.allclose(one, other, atol=1e-4) for index, one in enumerate(results)
               for other in results[:index])
