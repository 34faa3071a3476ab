"""The same results on a CUDA device, and memory that a longer stream does not need more of. Needs a GPU and ComfyUI."""
import importlib
import sys
from pathlib import Path

import pytest
import torch
from lodestar.techniques.clean_cache import PLACES
from lodestar.techniques.visibility import attend_by_groups, query_groups

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
in_process, gpu, longcat, longcat_gpu = (
    importlib.import_module(name) for name in ("in_process", "gpu", "longcat", "longcat_gpu"))
in_process.use_gpu()


def test_no_technique_is_the_same_bits():
    model, noisy = in_process.wan_model("1.3B", 2, gpu.CUDA), in_process.latents(5, gpu.CUDA, (16, 16))
    assert torch.equal(in_process.denoise(in_process.patched(model), noisy), in_process.denoise(model, noisy))


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
    assert frames.device.type == "cpu" and (frames - whole).abs().max() < 1e-2


def test_a_longer_stream_needs_no_more_memory():
    vae = in_process.tiny_vae()
    short, long = (gpu.peak_memory(vae, in_process.latents(count, in_process.CPU, (16, 16))) for count in (21, 95))
    assert long <= 1.02 * short


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_longcats_kept_keys_and_values_change_nothing(place, dtype):
    model = longcat.longcat_model(longcat.SMALL, gpu.CUDA, dtype)
    x, conditions = longcat.chunk(longcat.SMALL, gpu.CUDA, (16, 16))
    step, kept = longcat_gpu.cached_step(model, x, conditions, place)
    difference = step() - in_process.denoise(model, x, conditions)
    assert difference.abs().max() < (1e-3 if dtype is torch.float32 else 0.1)
    (_, _, cache), = kept
    assert {tensor.device.type for pair in cache.blocks for tensor in pair} == {"cuda" if place == "VRAM" else "cpu"}


def test_longcats_measured_step_runs():
    assert all(row.measured for row in longcat_gpu.rows_on(gpu.CUDA, longcat.SMALL, (16, 16), 1024))
