"""A stream of an AvatarForcing 1.3B student at 480x832 on a GPU: ms per frame of DiT, cache write and decoding, the
first picture, and whether it stays so. Weights are random; the whole takes under 8 minutes.

A block is 4 latents, as the authors' code has it, or 1, as the paper's figures suggest. Without a GPU it says what was
not measured; `--tiny` runs all of it on the CPU with small shapes.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from in_process import BLOCKS, LATENT_SIZE
from lodestar.techniques.temporal_anchor import TemporalAnchor
from rows import Row, show
from streams import AUDIO_WIDTH, DEPTH, TEXT, Bench, student_model
from timing import gpu_clock

FLOORS, PAPER, GOAL, LIGHT_GOAL, FIRST = {1: 14.7, 4: 24.0}, 34.1, 25.0, 16.0, 1.0
RATIO, FPS = 4, 25              # pixel frames per latent, and per second
NOT_MEASURED = "not measured yet: needs a GPU, `python benchmarks/stream_gpu.py`"


@dataclass(frozen=True)
class Shapes:
    widths: tuple[int, int, int] = BLOCKS["1.3B"]
    layers: int = DEPTH
    size: tuple[int, int] = LATENT_SIZE
    text: tuple[int, int] = TEXT
    audio: int = AUDIO_WIDTH
    dtype: torch.dtype = torch.bfloat16
    vae: int = 96
    blocks: int = 24            # that are timed
    steady_seconds: float = 60.0


TINY = Shapes((128, 256, 1), 4, (8, 8), (16, 4096), 64, torch.float32, 8, 6, 2.0)


@dataclass
class Spent:
    """Seconds of each call, by what it writes ("" for a window)."""
    taken: dict[str, list[float]] = field(default_factory=dict)

    def time_call(self, call, writes: str) -> torch.Tensor:
        started = gpu_clock()
        made = call()
        self.taken.setdefault(writes, []).append(gpu_clock() - started)
        return made

    def per_frame(self, writes: str, frames: int, newest: int) -> float:
        """Milliseconds: the median of the newest calls."""
        return 1000 * sorted(self.taken[writes][-newest:])[newest // 2] / frames


def decode_per_frame(vae, shapes: Shapes, latents: int) -> float:
    """Milliseconds that the VAE takes for a frame, as a stream of blocks in pairs of latents."""
    from lodestar.backbones.vae import open_stream
    stream, size = open_stream(vae), max(2, latents)
    blocks = [torch.randn(1, 16, size, *shapes.size) for _ in range(8)]
    taken = []
    with torch.inference_mode():
        for block in blocks:
            started = gpu_clock()
            frames = sum(len(group) for group in stream.push(block))
            taken.append((gpu_clock() - started) / max(frames, 1))
    return 1000 * sorted(taken[2:])[len(taken[2:]) // 2]


def full_vae(width: int):
    import comfy.ldm.wan.vae
    import comfy.sd
    model = comfy.ldm.wan.vae.WanVAE(dim=width, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
                                     temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd=model.state_dict())


def light_vae():
    """ComfyUI's tiny autoencoder of Wan 2.1's latents."""
    import comfy.sd
    from comfy.taesd.taehv import TAEHV
    return comfy.sd.VAE(sd=TAEHV(16).state_dict())


def bench_on(model, shapes: Shapes, latents: int, anchor: TemporalAnchor | None = None) -> tuple[Bench, Spent]:
    spent = Spent()
    bench = Bench(model, latents, size=shapes.size, text=shapes.text, anchor=anchor, around=spent.time_call)
    return bench, spent


def roll_for(bench: Bench, seconds: float) -> list[float]:
    """Seconds of each block that leaves in so many seconds."""
    taken, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds or len(taken) < 20:
        started = gpu_clock()
        bench.window()
        taken.append(gpu_clock() - started)
    return taken


def peak_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def block_rows(model, shapes: Shapes, latents: int, decode: float, light: float) -> Iterator[Row]:
    """What one reading of a block costs."""
    frames, what = RATIO * latents, f"1.3B, blocks of {latents} latent{'s' * (latents > 1)}, bf16"
    begun = gpu_clock()
    bench, spent = bench_on(model, shapes, latents)
    for _ in bench.to_block(0):
        pass
    first = gpu_clock() - begun + decode * frames / 1000
    for _ in bench.to_block(shapes.blocks):
        pass
    window, write = (spent.per_frame(writes, frames, shapes.blocks // 2) for writes in ("", "recents"))
    yield Row(f"{what}: ms per frame, window + cache write + Wan VAE", f"{window:.1f} + {write:.1f} + {decode:.1f} = "
              f"{window + write + decode:.1f} (floor {FLOORS[latents]}, paper {PAPER})", f"<= {GOAL:g}",
              window + write + decode <= GOAL)
    yield Row.at_most(f"{what}: the same with the light decoder ({light:.1f} ms)", window + write + light, LIGHT_GOAL,
                      1)
    yield Row.at_most(f"{what}: seconds to the first picture, a ramp of 4 windows", first, FIRST, 2)


def memory_rows(model, shapes: Shapes) -> Iterator[Row]:
    """Where the cache is kept, and what it costs to bring it over."""
    for anchor in (TemporalAnchor(2, "RAM"), TemporalAnchor(2, "VRAM", "fp8")):
        bench, spent = bench_on(model, shapes, 4, anchor)
        for _ in bench.to_block(shapes.blocks // 2):
            pass
        taken = [spent.per_frame(writes, 4 * RATIO, 4) for writes in ("", "recents")]
        yield Row(f"the same, blocks of 4, cache in {anchor.offload}, {anchor.precision}: window + write, MB kept",
                  f"{taken[0]:.1f} + {taken[1]:.1f} ms; {bench.stream.memory.bytes / 1e6:.0f} MB")


def steady_rows(model, shapes: Shapes, device: torch.device) -> Iterator[Row]:
    """A stream that goes on: time and memory of its last blocks against those after the ramp."""
    bench, _ = bench_on(model, shapes, 4)
    bench.caller.around = lambda call, writes: call()
    for _ in bench.to_block(10):
        pass
    before = peak_bytes(device)
    taken = roll_for(bench, shapes.steady_seconds)
    bench.jump(bench.done + 10 * 60 * FPS // (4 * RATIO))     # as if ten minutes had gone by
    taken += roll_for(bench, shapes.steady_seconds / 4)
    early, late = (sorted(part)[len(part) // 2] for part in (taken[:10], taken[-10:]))
    yield Row.at_most("the same, ten minutes on: a block's time / after the ramp", late / early, 1.03, 3)
    if before:
        yield Row.at_most("the same: peak VRAM / after the ramp", peak_bytes(device) / before, 1.01, 3,
                          f" ({peak_bytes(device) / 1e9:.2f} GB)")


def compile_rows(model, shapes: Shapes) -> Iterator[Row]:
    """torch.compile over the network: graphs that break in the pack's override, and what is then gained."""
    from torch._dynamo.utils import counters
    network = model.model.diffusion_model
    plain = [block.forward for block in network.blocks]
    counters.clear()
    try:
        for block in network.blocks:
            block.forward = torch.compile(block.forward, dynamic=False)
        bench, spent = bench_on(model, shapes, 4)
        for _ in bench.to_block(8):
            pass
    finally:
        for block, forward in zip(network.blocks, plain, strict=True):
            block.forward = forward
    breaks = sum(counters["graph_break"].values())
    yield Row("torch.compile of the blocks: graph breaks; window + write, ms per frame",
              f"{breaks}; {spent.per_frame('', 4 * RATIO, 4):.1f} + {spent.per_frame('recents', 4 * RATIO, 4):.1f}",
              "0", breaks == 0)


def rows_on(device: torch.device, shapes: Shapes) -> Iterator[Row]:
    vae = full_vae(shapes.vae)
    decode, light = (decode_per_frame(one, shapes, 4) for one in (vae, light_vae()))
    model = student_model(shapes.layers, device, shapes.dtype, shapes.widths, shapes.audio)
    for latents in (4, 1):
        yield from block_rows(model, shapes, latents, decode, light)
    yield from memory_rows(model, shapes)
    yield from steady_rows(model, shapes, device)
    if device.type == "cuda":
        yield from compile_rows(model, shapes)


def rows() -> Iterator[Row]:
    if "--tiny" in sys.argv:
        yield from rows_on(torch.device("cpu"), TINY)
        return
    if not torch.cuda.is_available():
        for what in ("ms per frame of both block sizes, with the first picture",
                     "cache in RAM and in fp8; ten minutes on; graph breaks under torch.compile"):
            yield Row(f"AvatarForcing 1.3B at 480x832, {what}", NOT_MEASURED)
        return
    in_process.use_gpu()
    yield from rows_on(torch.device("cuda"), Shapes())


if __name__ == "__main__":
    show(rows)
