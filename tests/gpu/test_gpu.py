"""The same results on a CUDA device, and memory that a longer stream does not need more of. Needs a GPU and ComfyUI."""
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lodestar.techniques.conditioning_cache import OFFLOADS
from lodestar.techniques.visibility import attend_by_groups, query_groups

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
in_process, gpu, longcat, longcat_gpu = (
    importlib.import_module(name) for name in ("in_process", "gpu", "longcat", "longcat_gpu"))
in_process.use_gpu()


def test_no_technique_is_the_same_bits():
    model, noisy = in_process.wan_model("1.3B", 2, gpu.CUDA), in_process.latents(5, gpu.CUDA, (16, 16))
    assert torch.equal(in_process.denoise(in_process.with_techniques(model), noisy), in_process.denoise(model, noisy))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_split_queries_are_a_dense_mask(dtype):
    from comfy.ldm.modules.attention import attention_pytorch
    tokens, frames, heads = 64, 8, 4
    q, k, v = (torch.randn(1, frames * tokens, heads * 128, device=gpu.CUDA, dtype=dtype) for _ in range(3))
    mask = torch.zeros(frames * tokens, frames * tokens, device=gpu.CUDA, dtype=dtype)
    mask[2 * tokens:5 * tokens, 7 * tokens:] = -torch.inf
    groups = query_groups({(frame, 7): 0.0 for frame in (2, 3, 4)}, frames)
    split = attend_by_groups(lambda q, k, v: attention_pytorch(q, k, v, heads), q, k, v, tokens, groups)
    masked = attention_pytorch(q, k, v, heads, mask=mask)
    assert (split - masked).abs().max() < (1e-4 if dtype is torch.float32 else 2e-2)


def test_streamed_decode_is_the_whole_decode():
    from lodestar.backbones.vae import open_stream
    vae, latents = in_process.tiny_vae(), in_process.latents(12, in_process.CPU, (8, 8))
    stream = open_stream(vae)
    with torch.inference_mode():
        frames = torch.cat([group for chunk in latents.split(5, dim=2) for group in stream.push(chunk)]
                           + list(stream.flush()))
        whole = vae.decode(latents)[0].float().cpu()
    assert frames.device.type == "cuda" and (frames.cpu() - whole).abs().max() < 1e-2


def test_a_parked_feature_cache_changes_no_bit(monkeypatch):
    from lodestar.backbones import vae as lodestar_vae
    vae, latents, results = in_process.tiny_vae(), in_process.latents(13, in_process.CPU, (16, 16)), []
    for stays in (True, False):
        monkeypatch.setattr(lodestar_vae, "stays_on_card", lambda size, device, stays=stays: stays)
        stream = lodestar_vae.open_stream(vae)
        pushed = [frames for piece in latents.split(4, dim=2) for frames in stream.push(piece)]
        results.append(torch.cat([*pushed, *stream.flush()]))
    assert torch.equal(*results)


def test_a_longer_stream_needs_no_more_memory():
    vae = in_process.tiny_vae()
    short, long = (gpu.peak_memory(vae, in_process.latents(count, in_process.CPU, (16, 16))) for count in (21, 95))
    assert long <= 1.02 * short


@pytest.mark.parametrize("place", OFFLOADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_longcats_kv_cache_changes_nothing(place, dtype):
    model = longcat.longcat_model(longcat.SMALL, gpu.CUDA, dtype)
    x, conditions = longcat.chunk(longcat.SMALL, gpu.CUDA, (16, 16))
    step, run = longcat_gpu.cached_step(model, x, conditions, place)
    with run.ends:
        difference = step() - in_process.denoise(model, x, conditions)
        assert difference.abs().max() < (1e-3 if dtype is torch.float32 else 0.1)
        cache, = longcat_gpu.caches(run)
        home = "cuda" if place == "VRAM" else "cpu"
        assert {tensor.device.type for pair in cache.blocks for tensor in pair} == {home}


def test_keys_from_ram_are_those_of_vram_at_every_step():
    model = longcat.longcat_model(replace(longcat.SMALL, depth=5), gpu.CUDA)
    (x, conditions), results = longcat.chunk(longcat.SMALL, gpu.CUDA, (16, 16)), []
    for place in OFFLOADS:
        step, run = longcat_gpu.cached_step(model, x, conditions, place)
        with run.ends:
            results.append([step() for _ in range(4)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("place", OFFLOADS)
def test_no_step_waits_for_the_card(place):
    """`Patch` alone, from the wrapper down to the last layer: ComfyUI around it may wait."""
    from lodestar.backbones.attach import Patch
    model = longcat.longcat_model(longcat.SMALL, gpu.CUDA)
    x, conditions = longcat.chunk(longcat.SMALL, gpu.CUDA, (16, 16))
    step, run = longcat_gpu.cached_step(model, x, conditions, place)
    call = Patch.__call__

    def watched(*args, **kwargs):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return call(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with run.ends, pytest.MonkeyPatch.context() as patch:
        step()      # makes what the run keeps
        patch.setattr(Patch, "__call__", watched)
        step()


def test_longcats_measured_step_runs():
    assert all(row.measured for row in longcat_gpu.rows_on(gpu.CUDA, longcat.SMALL, (16, 16), 1024))
