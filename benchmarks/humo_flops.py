"""FLOPs and attention calls of HuMo's blocks at real widths, counted on the meta device as in flops.py.

A chunk is 25 latents (97 frames) of 480x832 and one reference in its slot behind them.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator

import flops
import torch
from in_process import BLOCKS, LATENT_SIZE, META
from lodestar.backbones import find
from lodestar.backbones.backbone import ChunkRequest
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from rows import Row, show

LATENTS = 25
WIDTHS = {"17B": "14B", "1.7B": "1.3B"}     # of Wan 2.1, whose blocks they have, with speech attention in each


def humo_model(variant: str):
    """A MODEL: ComfyUI's own HuMo with blocks of the variant's widths."""
    import comfy.model_patcher
    import comfy.supported_models
    width, feed_forward, heads = BLOCKS[WIDTHS[variant]]
    config = comfy.supported_models.WAN21_HuMo({
        "image_model": "wan2.1", "model_type": "humo", "dim": width, "ffn_dim": feed_forward, "num_heads": heads,
        "num_layers": flops.LAYERS, "in_dim": 36 if variant == "17B" else 16, "out_dim": 16, "dtype": torch.bfloat16})
    config.set_inference_dtype(torch.bfloat16, None)
    return comfy.model_patcher.ModelPatcher(config.get_model({}, device=META), META, META)


def count(model, latents: int, *techniques) -> flops.Count:
    """One call with a reference and speech. Anchors are latents of their own."""
    picture, speech = torch.zeros(1, 16, 1, *LATENT_SIZE), torch.zeros(1, latents, 8, 5, 1280)
    inputs = find(model).chunk_inputs(ChunkRequest(latents, (16, *LATENT_SIZE), None, picture, speech))
    noisy = in_process.latents(inputs.samples.shape[2], META)
    conditions = {name: value.to(META) for name, value in inputs.conditions.items()}
    if model.model.diffusion_model.in_dim == 36:
        conditions["c_concat"] = torch.empty(1, 20, *noisy.shape[2:], device=META)
    return flops.count(in_process.with_techniques(model, *techniques), noisy, conditions)


def one_anchor(variant: str) -> tuple[float, float]:
    """A chunk with one more anchor / a chunk of one more latent, and / the chunk itself."""
    model = humo_model(variant)
    anchored = count(model, LATENTS, LookaheadAnchor(latents=flops.noise(1))).flops
    return anchored / count(model, LATENTS + 1).flops, anchored / count(model, LATENTS).flops


def hard_skip(variant: str) -> tuple[flops.Count, flops.Count]:
    """A call in which 7 latents do not see the reference in their middle, and one in which all do."""
    model, inside = humo_model(variant), LookaheadAnchor(placement="in chunk", index=LATENTS // 2)
    return (count(model, LATENTS, inside, ReferenceSkip(radius=flops.SKIPPED // 2)), count(model, LATENTS, inside))


def rows() -> Iterator[Row]:
    for variant in WIDTHS:
        anchor, of_chunk = one_anchor(variant)
        yield Row(f"HuMo {variant}: one more anchor / one more latent, FLOPs",
                  f"{anchor:.5f} ({of_chunk:.3f} of the bare chunk)", "1 +- 0.03", abs(anchor - 1) <= 0.03)
        skip, full = hard_skip(variant)
        yield Row(f"HuMo {variant}: attention calls with a mask under a hard skip", str(skip.masked), "0",
                  skip.masked == 0)
        floor = 1 - flops.SKIPPED / (LATENTS + 1) ** 2
        yield Row.at_most(f"HuMo {variant}: self-attention FLOPs of that call / without (floor {floor:.4f})",
                          skip.self_attention / full.self_attention, round(floor + 5e-5, 4))


if __name__ == "__main__":
    show(rows)
