"""What ComfyUI is asked for a LongCat chunk at the official size, against what is counted on meta tensors."""
import importlib
import sys

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sampler_helpers
import pytest
import torch
from lib import environment
from lodestar.backbones import attach
from lodestar.backbones.longcat.model import LongCatModelConfig
from lodestar.networks.longcat import versions
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.network import LongCat
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.kv_cache import KVCache
from lodestar.techniques.technique import ChunkPosition

sys.path.append(str(environment.PACK / "benchmarks"))
live_bytes = importlib.import_module("live_bytes")
AVATAR_15, LATENTS, KNOWN = AudioConfig(6400), 24, 5
BF16, META = torch.bfloat16, torch.device("meta")
SIZES = {"480x832": ((60, 104), 6.134e9), "768x1280": ((96, 160), 15.10e9)}      # latent height and width, KV cache
ROOM = 1.15, 1.6    # what is asked for activations, by what one call holds at most


@pytest.fixture
def patcher(monkeypatch):
    """The official Avatar 1.5 without its weights, on a card that ComfyUI takes for an NVIDIA one."""
    monkeypatch.setattr(comfy.model_management, "pytorch_attention_flash_attention", lambda: True)
    config = LongCatModelConfig(LongCatConfig(audio=AVATAR_15), versions.AVATAR_15)
    config.set_inference_dtype(BF16, None)
    return comfy.model_patcher.ModelPatcher(config.get_model({}, device=META), torch.device("cpu"), torch.device("cpu"))


def asked(patcher, size, place, monkeypatch):
    """(the most, the least) that core asks for a chunk with a reference: it makes room for two branches, or one."""
    found = []
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, memory_required, **how: found.append(
        (memory_required, how["minimum_memory_required"])))
    reference = torch.empty(1, 16, 1, *size, device=META)
    techniques = (ConditioningCache(place),) if place else ()
    model = attach.install_techniques(patcher, techniques, ChunkPosition(reference=reference))
    conds = {"positive": [{"reference_latents": [reference]}], "negative": [{}]}
    comfy.sampler_helpers.prepare_model_patcher(model, conds, model.model_options)
    _, returned, _ = comfy.sampler_helpers.prepare_sampling(model, (1, 16, LATENTS, *size), conds, model.model_options)
    assert returned is conds    # and nothing of the estimate goes on to the model
    return found[0]


def activations(size, branches, cached):
    """The most bytes alive at once in a call at that size, fused attention and norms as on a card; one block."""
    def fused(x, *_, **__):
        return torch.empty_like(x)

    network = LongCat(LongCatConfig(depth=1, audio=AVATAR_15), comfy.ops.manual_cast, fused, BF16, META)
    tokens, frames = size[0] * size[1] // 4, LATENTS - KNOWN + 1 if cached else LATENTS + 1
    pair = (torch.empty(1, KNOWN * tokens, 32, 128, dtype=BF16, device=META),) * 2
    cache = KVCache.of_frames((pair,), range(KNOWN), (size[0] // 2, size[1] // 2), META)
    x, text = (torch.empty(branches, *shape, dtype=BF16, device=META) for shape in ((16, frames, *size), (512, 4096)))
    audio = torch.empty(branches, 1, 93, 5, 5, 1280, dtype=BF16, device=META)
    with torch.no_grad():
        return live_bytes.peak_bytes(lambda: network(
            x, torch.empty(branches, frames, device=META), text, clean=() if cached else (1, KNOWN - 1),
            times=range(frames), audio=audio, cache=[(cache, 0)] if cached else ()), on_meta=True)


@pytest.mark.parametrize("name", SIZES)
def test_comfyui_is_asked_for_the_cache_once_and_for_what_a_call_holds(patcher, monkeypatch, name):
    size, cache = SIZES[name]
    for branches, in_vram, in_ram in zip((2, 1), asked(patcher, size, "VRAM", monkeypatch),
                                         asked(patcher, size, "RAM", monkeypatch), strict=True):
        assert in_vram - in_ram == pytest.approx(cache, rel=1e-3)
        for cached in (True, False):
            assert ROOM[0] < in_ram / activations(size, branches, cached) < ROOM[1]


def test_without_a_cache_nothing_is_asked_for_one(patcher, monkeypatch):
    size, _ = SIZES["480x832"]
    assert asked(patcher, size, None, monkeypatch) == asked(patcher, size, "RAM", monkeypatch)
