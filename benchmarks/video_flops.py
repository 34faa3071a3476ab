"""What a video of the person costs as keys and values, with and without selection of its tokens, on the meta device.

As TAVR is measured: 81 frames at 480x896 and 20 of the person, 21 and 6 latents, 1,680 tokens each. Its selection drops
16.9 % of all tokens, which is a box of about a quarter of each of the person's frames.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator
from dataclasses import dataclass, replace

import longcat
import torch
from flops import LAYERS, Count, count, count_work
from in_process import LATENT_SIZE, META
from lodestar.backbones.reference_pass import bytes_beside
from lodestar.backbones.sampling_run import RUN, Run
from lodestar.techniques.reference_tokens import Tokens, all_tokens, tokens_in_boxes
from lodestar.techniques.video_reference import VideoReference
from rows import Row, show

SIZE, NOISE, VIDEO = (60, 112), 21, 6
GRID = SIZE[0] // 2, SIZE[1] // 2
FACE = (0.34, 0.18, 0.62, 0.64)     # left, top, right, bottom of the person's box, which is then grown
CALLS = 24 * 2                      # of a chunk as the paper samples it: steps, branches
WAN_BLOCKS = {"1.3B": (30, 1536), "14B": (40, 5120)}


@dataclass(frozen=True)
class Cost:
    """`build`: of the pass that makes the keys. `step`: a call that sees them. `joint`: one in which the video rides
    along as further frames."""
    build: int
    step: Count
    joint: Count

    @property
    def chunk_ratio(self) -> float:
        """Of all calls of a chunk, the pass included, to as many joint ones."""
        return (self.build + CALLS * self.step.flops) / (CALLS * self.joint.flops)


def tokens(select: bool) -> Tokens:
    keep = tokens_in_boxes([FACE] * VIDEO, GRID, 0.15) if select else all_tokens(VIDEO, GRID)
    return Tokens(keep)


def models():
    """Two blocks of Wan 2.1 14B, and of LongCat, which leaves dropped tokens out of the pass as well."""
    return {"Wan 14B": in_process.wan_model("14B", LAYERS, META),
            "LongCat": longcat.longcat_model(replace(longcat.OFFICIAL, depth=LAYERS, audio=None), META)}


def count_video(model, select: bool) -> Cost:
    """One chunk's first and second call in one sampling run."""
    noisy = in_process.latents(NOISE, META, SIZE)
    technique = VideoReference(in_process.latents(VIDEO, META, SIZE), tokens(select))
    patched, run = in_process.with_techniques(model, technique), {RUN: Run(tuple(noisy.shape))}

    def call(override) -> torch.Tensor:
        return in_process.denoise(patched, noisy, optimized_attention_override=override, **run)

    first, second = count_work(call), count_work(call)
    return Cost(first.flops - second.flops, second, count(model, in_process.latents(NOISE + VIDEO, META, SIZE)))


def rows() -> Iterator[Row]:
    whole = (NOISE + VIDEO) * GRID[0] * GRID[1]
    kept = tokens(True).count + NOISE * GRID[0] * GRID[1]
    yield Row(f"video reference of {VIDEO} latents at 480x896: tokens of a call, selected / all",
              f"{kept / whole:.4f} ({kept:,} of {whole:,}; TAVR 0.831)")
    for name, model in models().items():
        every, chosen = (count_video(model, select) for select in (False, True))
        what = f"{name}: video reference of {VIDEO} latents"
        yield Row(f"{what}, both steps in every call, FLOPs, selected / all",
                  f"{(chosen.build + chosen.step.flops) / (every.build + every.step.flops):.4f}"
                  + (" (TAVR 0.807)" if name == "LongCat" else ""))
        yield Row.at_most(f"{what}: a step that sees its keys / a joint step, FLOPs",
                          every.step.flops / every.joint.flops, 0.85)
        yield Row.at_most(f"{what}, selected: a step that sees its keys / a joint step of all, FLOPs",
                          chosen.step.flops / chosen.joint.flops, 0.75)
        yield Row(f"{what}, selected: {CALLS} calls with the pass / as many joint ones, FLOPs",
                  f"{chosen.chunk_ratio:.4f}")
        masked = every.step.masked + chosen.step.masked
        yield Row.at_most(f"{what}: attention calls with a mask", masked, 0, 0)
    for name, (blocks, width) in WAN_BLOCKS.items():
        sizes = [kept_bytes(latents, blocks, width) / 1e9 for latents in (12, 48)]
        yield Row(f"Wan {name}: KV cache of 48 frames of a person at 480x832, bf16, GB, none dropped",
                  f"{sizes[0]:.2f} (as one piece, 12 latents), {sizes[1]:.2f} (each frame by itself)")


def kept_bytes(latents: int, blocks: int, width: int) -> int:
    grid = LATENT_SIZE[0] // 2, LATENT_SIZE[1] // 2
    technique = VideoReference(in_process.latents(latents, META), Tokens(all_tokens(latents, grid)))
    return bytes_beside((technique,), grid[0] * grid[1], blocks, width, torch.bfloat16)


if __name__ == "__main__":
    show(rows)
