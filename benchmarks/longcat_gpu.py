"""One denoising step of LongCat-Video-Avatar 1.5 at official size, 480x832 and 25 latents, which needs a GPU.

Weights are random and made on the card, one copy of them; without a GPU it says what was not measured.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import longcat
import longcat_flops
import torch
from in_process import LATENT_SIZE
from lodestar.techniques.conditioning_cache import OFFLOADS, ConditioningCache
from lodestar.techniques.kv_cache import KVCache
from rows import Row, show
from timing import compare_times, gpu_clock, seconds

MATRIX, STEPS = 8192, 3     # of the matmul ceiling; best of so many
GOAL = 0.6                  # of that ceiling, on an H200


@dataclass(frozen=True)
class Step:
    """A step with the KV cache. `first`: with making them; seconds. `peak`, `kept`: bytes on the card, bytes."""
    first: float
    seconds: float
    peak: int
    kept: int


def ceiling(device: torch.device, size: int) -> float:
    """FLOP/s of a bfloat16 matrix product of random values."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken = min(seconds(lambda: [left @ right for _ in range(10)], gpu_clock) for _ in range(STEPS))
    return 10 * 2 * size ** 3 / taken


def cached_step(model, x: torch.Tensor, conditions: dict, place: str) -> tuple[Callable[[], torch.Tensor], Any]:
    """(one step as a sampler makes it within a run, that run: the first step makes what it keeps)."""
    from lodestar.backbones.sampling_run import RUN, Run
    caching, run = in_process.with_techniques(model, ConditioningCache(place)), Run(tuple(x.shape))
    return lambda: in_process.denoise(caching, x, conditions, **{RUN: run}), run


def caches(run) -> list[KVCache]:
    return [cache for key, value in run.kept.items() if key[0] == "kv cache" for cache in value]


def measure(model, x: torch.Tensor, conditions: dict, place: str) -> Step:
    on_card = x.device.type == "cuda"
    in_process.denoise(model, x, conditions)    # warms up
    gc.collect()                                # a model that was measured before may still lie on the card
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step, run = cached_step(model, x, conditions, place)
    with run.ends:
        first = seconds(step, gpu_clock)
        taken = min(seconds(step, gpu_clock) for _ in range(STEPS))
        if not step().isfinite().all():
            raise RuntimeError("the step gave numbers that are not finite: what it took says nothing")
        kept = sum(cache.bytes for cache in caches(run))
    return Step(first, taken, torch.cuda.max_memory_allocated() if on_card else 0, kept)


def describe_step(step: Step, flops: int, most: float) -> str:
    return (f"{step.seconds:.3f} s, {flops / step.seconds / 1e12:.0f} TFLOP/s = {flops / step.seconds / most:.1%} of "
            f"the matmul ceiling; first step {step.first:.3f} s; peak {step.peak / 1e9:.1f} GB")


def rows_on(device: torch.device, config=longcat.OFFICIAL, size: tuple[int, int] = LATENT_SIZE, matrix: int = MATRIX
            ) -> Iterator[Row]:
    flops, most = longcat_flops.count_chunk(config=config, size=size).cached.flops, ceiling(device, matrix)
    yield Row(f"matmul ceiling, bf16, {matrix} x {matrix}, random numbers", f"{most / 1e12:.0f} TFLOP/s")
    x, conditions = longcat.chunk(config, device, size)
    yield from bfloat16_rows(longcat.longcat_model(config, device), x, conditions, flops, most)
    int8 = measure(longcat.longcat_model(config, device, int8=True), x, conditions, "VRAM")
    yield Row("LongCat 1.5, int8 weights: the same step", describe_step(int8, flops, most))


def bfloat16_rows(model, x: torch.Tensor, conditions: dict, flops: int, most: float) -> Iterator[Row]:
    vram, ram = (measure(model, x, conditions, place) for place in OFFLOADS)
    share = flops / vram.seconds / most
    yield Row("LongCat 1.5, bf16: step with the KV cache", describe_step(vram, flops, most), f">= {GOAL:.0%}",
              share >= GOAL)
    yield Row("the same, offloaded to RAM", describe_step(ram, flops, most))
    yield Row.at_most("step with the KV cache in RAM / in VRAM", ram.seconds / vram.seconds, 1.05, 2)
    yield Row.at_most("KV cache, in VRAM or in RAM, GB", vram.kept / 1e9, 6.14, 2)
    step, _ = cached_step(model, x, conditions, "VRAM")
    yield Row("step with the KV cache / LongCat's own without it",
              compare_times(step, lambda: in_process.denoise(model, x, conditions), gpu_clock),
              "0.906, by counted FLOPs")


def rows() -> Iterator[Row]:
    if not torch.cuda.is_available():
        for what in ("one step with the KV cache, bf16: seconds, share of the matmul ceiling, peak memory",
                     "the same offloaded to RAM, and with int8 weights"):
            yield Row(f"LongCat 1.5 at 480x832, 25 latents, {what}",
                      "not measured yet: needs a GPU, `python benchmarks/longcat_gpu.py`")
        return
    in_process.use_gpu()
    yield from rows_on(torch.device("cuda"))


if __name__ == "__main__":
    show(rows)
