"""What a block of a stream costs on an AvatarForcing student of 1.3B at 480x832, counted on the meta device."""

from collections.abc import Iterator
from dataclasses import dataclass

import flops
from in_process import META
from rows import Row, show
from streams import DEPTH, Bench, student_model

EARLY, LATE, RAMP = 10, 200, 6
LAYERS = 4      # the third with audio


@dataclass(frozen=True)
class Block:
    """One block's worth of a stream: what it costs until the next one leaves. `kept`: bytes of the KV cache."""
    flops: int
    calls: int
    masked: int
    kept: int


def attend(_, q, k, v, *args, **kwargs):
    from comfy.ldm.modules.attention import attention_pytorch
    return attention_pytorch(q, k, v, *args, **kwargs)


def bench_of(latents: int, layers: int = LAYERS) -> Bench:
    return Bench(student_model(layers, META), latents, options={"optimized_attention_override": attend})


def count_block(bench: Bench, block: int) -> Block:
    """The window that this block leaves, and what remembers it, behind six blocks that were rolled; those before them
    only move its numbers, which in a real stream nothing but a number depends on."""
    for _ in bench.to_block(RAMP):
        pass
    if block > 2 * RAMP:
        bench.jump(block - RAMP)
    for _ in bench.to_block(block - 1):
        pass
    made = []
    bench.caller.around = lambda call, writes: made.append(writes) or call()
    counted = flops.count_work(lambda override: bench.window(options={"optimized_attention_override": override}))
    return Block(counted.flops, len(made), counted.masked, bench.stream.memory.bytes)


def rows() -> Iterator[Row]:
    for latents in (4, 1):
        bench = bench_of(latents)
        early = count_block(bench, EARLY)
        late = count_block(bench, LATE)
        what = f"AvatarForcing 1.3B, blocks of {latents} latents"
        yield Row.at_most(f"{what}: FLOPs per frame, block {LATE} / block {EARLY}", late.flops / early.flops, 1.0,
                          note=f" ({late.flops / LAYERS * DEPTH / (4 * latents) / 1e12:.2f} TFLOP of blocks per frame)")
        yield Row.at_most(f"{what}: calls of the model per block, one of them to remember it", late.calls, 2, 0)
        yield Row.at_most(f"{what}: attention calls with a mask", late.masked, 0, 0)
        kept = [one.kept / LAYERS * DEPTH / 1e6 for one in (early, late)]
        yield Row.at_most(f"{what}: KV cache of the picture and 2 latents, bf16, MB, after block {LATE}", kept[1],
                          kept[0], 0)


if __name__ == "__main__":
    show(rows)
