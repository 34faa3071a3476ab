"""LongCat's benchmarks run and measure what they say; what needs a GPU takes the same path here, tiny, on CPU."""
import importlib
import sys
from pathlib import Path

import pytest
import torch
from lodestar.techniques.conditioning_cache import OFFLOADS

pytestmark = pytest.mark.once

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
in_process, live_bytes, longcat, longcat_gpu, longcat_speed = (
    importlib.import_module(name) for name in ("in_process", "live_bytes", "longcat", "longcat_gpu", "longcat_speed"))
SIZE = (4, 4)


@pytest.mark.parametrize("int8", [False, True])
def test_weights_are_made_once_where_they_stay(int8):
    made = []
    peak = live_bytes.peak_bytes(lambda: made.append(longcat.longcat_model(longcat.SMALL, in_process.CPU, int8=int8)))
    weights = list(made[0].model.diffusion_model.parameters())
    assert all(weight.isfinite().all() for weight in weights)
    assert peak <= 1.01 * sum(weight.nbytes for weight in weights)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("place", OFFLOADS)
def test_the_measured_step_is_the_models_own(place, int8):
    model = longcat.longcat_model(longcat.TINY, in_process.CPU, torch.float32, int8)
    x, conditions = longcat.chunk(longcat.TINY, in_process.CPU, SIZE)
    step, run = longcat_gpu.cached_step(model, x, conditions, place)
    expected = in_process.denoise(model, x, conditions)
    for _ in range(2):
        torch.testing.assert_close(step(), expected, atol=1e-5, rtol=0)
    assert [cache.frames for cache in longcat_gpu.caches(run)] == [1, longcat.CONTEXT]
    assert not torch.allclose(expected, x, atol=1e-2), "the network adds next to nothing"


def test_what_a_gpu_measures_runs():
    rows = list(longcat_gpu.rows_on(in_process.CPU, longcat.TINY, SIZE, 64))
    assert len(rows) == 7 and all(row.measured for row in rows)


def test_the_timed_pairs_are_the_same_work(monkeypatch):
    """Both say so themselves, with assert_close."""
    monkeypatch.setattr(longcat_speed, "SMALL", longcat.TINY)
    monkeypatch.setattr(longcat_speed, "SIZE", SIZE)
    assert longcat_speed.native()[1]
    counted = longcat_speed.compare_cached()[2]
    assert counted.cached.flops < counted.own.flops < counted.joint.flops
