"""Core's MultiGPU CFG Split on LongCat, as far as a CPU goes: a second model on the CPU under its other name, cpu:0."""
import threading

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from lodestar.backbones import attach
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor

multigpu = pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no MultiGPU CFG Split")


@pytest.fixture
def model(tiny_models, longcat):
    anchored = attach.with_technique(longcat.load(tiny_models, longcat.AVATAR15),
                                     LookaheadAnchor(3, latents=longcat.noise(1, seed=9)))
    return attach.with_technique(anchored, ConditioningCache())


def sample(model, longcat):
    return longcat.sample(model, longcat.prompt(model, seed=3), longcat.prompt(model, seed=4), cfg=3.0, steps=2)


def test_with_one_device_the_node_changes_nothing(model, longcat):
    assert torch.equal(sample(multigpu.create_multigpu_deepclones(model, 2), longcat), sample(model, longcat))


def test_conditions_split_over_two_devices_are_those_of_one(model, longcat):
    """Anchor and KV cache act on both; the second model is a copy of its own, made by the loader."""
    seen = []

    def watch(executor, *args, **kwargs):
        seen.append((threading.current_thread() is threading.main_thread(), id(executor.class_obj)))
        return executor(*args, **kwargs)

    split = model.clone()
    split.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "watch", watch)
    other = split.deepclone_multigpu(new_load_device=torch.device("cpu", 0))
    other.is_multigpu_base_clone = True
    split.set_additional_models("multigpu", [other])
    split.match_multigpu_clones()
    multigpu.GPUOptionsGroup().register(split)
    torch.testing.assert_close(sample(split, longcat), sample(model, longcat), atol=1e-4, rtol=0)
    networks = {network for _, network in seen}
    assert len(seen) == 4 and len(networks) == 2 and {main for main, _ in seen} >= {False}
    assert id(model.model.diffusion_model) in networks
