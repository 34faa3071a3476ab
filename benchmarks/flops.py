"""FLOPs and attention calls of ComfyUI's Wan blocks at real widths, counted on the meta device: no number is timed.

480x832 is 1,560 tokens a latent; a chunk is 20 noisy latents behind 4 of context and 1 of reference. `FlopCounterMode`
counts nothing for fused attention on CPU tensors (torch 2.11), so everything is on meta, through PyTorch's attention.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
from in_process import BLOCKS, LATENT_SIZE, META
from lodestar.backbones import find
from lodestar.backbones.backbone import ChunkRequest
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.layout import Layout
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.timeline import Timeline
from lodestar.techniques.visibility import attend_by_groups, query_groups
from rows import Row, show
from torch.utils.flop_counter import FlopCounterMode

LAYERS = 2                 # every block costs the same
NOISE, CONTEXT = 20, 4
TEXT_TOKENS, SPEECH_TOKENS = 512, (16, 32)    # of every call, of every latent in HuMo and LongCat
TOKENS = LATENT_SIZE[0] * LATENT_SIZE[1] // 4
SKIPPED = 7                # noise latents that do not see the reference: LongCat's own radius of 3


@dataclass
class Count:
    """One call of the model. `calls`: self-attention calls, `masked`: attention calls of any kind with a mask."""
    flops: int = 0
    self_attention: int = 0
    calls: int = 0
    masked: int = 0


def count(model, noisy: torch.Tensor, conditions: dict | None = None) -> Count:
    """One call of the model, as in_process.denoise makes it."""
    return count_work(
        lambda override: in_process.denoise(model, noisy, conditions, optimized_attention_override=override))


def count_work(work: Callable[[Callable], object]) -> Count:
    """What `work` does; it installs the attention override that it is given."""
    from comfy.ldm.modules.attention import attention_pytorch
    counted = Count()

    def override(_, q, k, v, *args, **kwargs):
        """Where another pack would put its attention: below ours, so it sees every call that ours makes."""
        with FlopCounterMode(display=False) as flops:
            output = attention_pytorch(q, k, v, *args, **kwargs)
        if k.shape[2 if kwargs.get("skip_reshape") else 1] not in (TEXT_TOKENS, *SPEECH_TOKENS):
            counted.self_attention += flops.get_total_flops()
            counted.calls += 1
        counted.masked += kwargs.get("mask") is not None
        return output

    with FlopCounterMode(display=False) as flops:
        work(override)
    counted.flops = flops.get_total_flops()
    return counted


def noise(frames: int) -> torch.Tensor:
    return in_process.latents(frames, META)


def reference_in_chunk() -> LookaheadAnchor:
    return LookaheadAnchor(placement="in chunk", index=CONTEXT + NOISE // 2, latents=noise(1))


def hard_skip(blocks: str) -> tuple[Count, Count]:
    """A whole call of the model with the skip, and without it."""
    model, context = in_process.wan_model(blocks, LAYERS, META), noise(CONTEXT)
    techniques = (LatentStitch(), reference_in_chunk())
    skipping = in_process.with_techniques(model, *techniques, ReferenceSkip(radius=SKIPPED // 2), context=context)
    return count(skipping, noise(NOISE)), count(
        in_process.with_techniques(model, *techniques, context=context), noise(NOISE))


def noise_attention(blocks: str) -> float:
    """Attention FLOPs of the noise latents alone (31,200 queries on 39,000 keys): hard skip / full."""
    from comfy.ldm.modules.attention import attention_pytorch
    width, _, heads = BLOCKS[blocks]
    position = ChunkPosition(context=noise(CONTEXT))
    layout = reference_in_chunk().layout(LatentStitch().layout(Layout.of_chunk(NOISE), position), position)
    groups = query_groups(ReferenceSkip(radius=SKIPPED // 2).visibility(layout), NOISE)
    query = torch.empty(1, NOISE * TOKENS, width, device=META)
    key = value = torch.empty(1, (NOISE + CONTEXT + 1) * TOKENS, width, device=META)

    def attend(q, k, v):
        return attention_pytorch(q, k, v, heads)

    with FlopCounterMode(display=False) as split:
        attend_by_groups(attend, query, key, value, TOKENS, groups)
    with FlopCounterMode(display=False) as full:
        attend(query, key, value)
    return split.get_total_flops() / full.get_total_flops()


def one_anchor(blocks: str) -> tuple[float, float]:
    """A chunk of 21 latents with an anchor / 22 latents unpatched, and / 21 latents unpatched."""
    model = in_process.wan_model(blocks, LAYERS, META)
    anchored = count(in_process.with_techniques(model, LookaheadAnchor(latents=noise(1))), noise(21)).flops
    return anchored / count(model, noise(22)).flops, anchored / count(model, noise(21)).flops


def take_flops(blocks: str, chunks: int) -> int:
    """A take of so many whole chunks of 81 frames, each repeating 13 of the one before, under an anchor."""
    model = in_process.wan_model(blocks, LAYERS, META)
    backbone, clock = find(model), Timeline(Fraction(16))
    frames = clock.frames_for_latents(21 + (chunks - 1) * 17)
    total = 0
    for chunk in plan_take(clock, frames, 81, 13, 832, 480).chunks:
        handed = noise(backbone.context_latents(chunk.context_latents)) if chunk.index else None
        inputs = backbone.chunk_inputs(ChunkRequest(chunk.latents, (16, *LATENT_SIZE), handed))
        techniques = (LatentStitch(), LookaheadAnchor(latents=noise(1)))
        patched = in_process.with_techniques(model, *techniques, context=inputs.context)
        total += count(patched, inputs.samples.to(META)).flops
    return total


def rows() -> Iterator[Row]:
    latents = NOISE + CONTEXT + 1
    for blocks in BLOCKS:
        skip, full = hard_skip(blocks)
        anchor, of_chunk = one_anchor(blocks)
        yield Row.at_most(f"{blocks}: hard skip, attention FLOPs of the noise latents / full", noise_attention(blocks),
                          0.987)
        floor = 1 - SKIPPED / latents ** 2
        yield Row.at_most(f"{blocks}: the same in the model, where clean latents are queries too (floor {floor:.4f})",
                          skip.self_attention / full.self_attention, round(floor, 4))
        yield Row(f"{blocks}: attention calls with a mask in that call", str(skip.masked), "0", skip.masked == 0)
        yield Row.at_most(f"{blocks}: self-attention calls per block in it", skip.calls / LAYERS, 3, 0)
        yield Row(f"{blocks}: one anchor / one more latent, FLOPs", f"{anchor:.5f} ({of_chunk:.3f} of the bare chunk)",
                  "1 +- 0.03", abs(anchor - 1) <= 0.03)
        yield Row.at_most(f"{blocks}: FLOPs of 20 chunks / 10 x FLOPs of 2 chunks",
                          take_flops(blocks, 20) / (10 * take_flops(blocks, 2)), 1.001)


if __name__ == "__main__":
    show(rows)
