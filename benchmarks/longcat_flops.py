"""FLOPs, attention calls and KV cache of LongCat-Video-Avatar 1.5 at official sizes, counted on the meta device.

A chunk at 480x832 is 1 latent of reference, 4 of context and 20 of noise, 1,560 tokens each, in 48 blocks of 4096.
"""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator
from dataclasses import dataclass, replace

import longcat
from flops import Count, count, count_work
from in_process import LATENT_SIZE, META
from lodestar.techniques.block_sparse import BlockSparseAttention
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import Technique
from rows import Row, show

STEPS = 8
TWO_BLOCKS = replace(longcat.OFFICIAL, depth=2)     # every block costs the same
REFINED = (88, 160)         # latents of 704x1280
SKIP = ReferenceSkip(mode="upstream", radius=3)     # the authors' default: hides the reference from 7 of 20 latents


@dataclass(frozen=True)
class Chunk:
    """Steps: `joint`, where all 25 latents see each other; `own`, as LongCat is, with all in hand; `cached`, the same
    on the noise alone, given the clean frames' keys and values. `build`: making these; `kept`: their bytes."""
    joint: Count
    own: Count
    build: Count
    cached: Count
    kept: int

    @property
    def step_ratio(self) -> float:
        return self.cached.flops / self.joint.flops

    @property
    def chunk_ratio(self) -> float:
        return (self.build.flops + STEPS * self.cached.flops) / (STEPS * self.joint.flops)

    @property
    def masked(self) -> int:
        return sum(part.masked for part in (self.joint, self.own, self.build, self.cached))


def count_chunk(*techniques: Technique, config=longcat.OFFICIAL, size: tuple[int, int] = LATENT_SIZE) -> Chunk:
    model = longcat.longcat_model(config, META)
    x, conditions = longcat.chunk(config, META, size)
    patched, network, caches = in_process.with_techniques(model, *techniques), model.model.diffusion_model, []
    clean = in_process.latents(1 + longcat.CONTEXT, META, size).to(network.dtype)
    build = count_work(lambda override: caches.append(network.make_caches(
        clean, (1, longcat.CONTEXT), transformer_options={"optimized_attention_override": override})))
    return Chunk(count(model, *longcat.joint(config, META, size)), count(patched, x, conditions), build,
                 count(patched, x, {**conditions, "cache": caches[0]}), sum(cache.bytes for cache in caches[0]))


def count_refinement(*techniques: Technique) -> Count:
    """A step of LongCat-Video's 720p refinement: a first chunk of 24 latents at 704x1280, two blocks of it."""
    config = replace(TWO_BLOCKS, audio=None)
    model = in_process.with_techniques(longcat.longcat_model(config, META), *techniques)
    return count(model, in_process.latents(24, META, REFINED))


def rows() -> Iterator[Row]:
    plain = count_chunk()
    yield Row.at_most("LongCat 1.5: step with the KV cache / joint step, FLOPs", plain.step_ratio, 0.802)
    yield Row.at_most(f"LongCat 1.5: chunk of {STEPS} steps with it, filling it included / {STEPS} joint steps",
                      plain.chunk_ratio, 0.815)
    yield Row("LongCat 1.5: the same step / LongCat's own without it, whose clean frames attend only to themselves",
              f"{plain.cached.flops / plain.own.flops:.4f}")
    seeing, skipping = count_chunk(config=TWO_BLOCKS), count_chunk(SKIP, config=TWO_BLOCKS)
    yield Row.at_most("LongCat 1.5: upstream's skip of 7 latents, self-attention FLOPs of that step / without",
                      skipping.cached.self_attention / seeing.cached.self_attention, 0.987)
    masked = plain.masked + skipping.masked
    yield Row("LongCat 1.5: attention calls with a mask in all of that", str(masked), "0", masked == 0)
    yield Row.at_most("LongCat 1.5: KV cache of a chunk, bf16, GB", plain.kept / 1e9, 6.14, 2)
    dense, sparse = count_refinement(), count_refinement(BlockSparseAttention())
    yield Row.at_most("LongCat-Video at 704x1280: block sparse / full self-attention, FLOPs of a step",
                      sparse.self_attention / dense.self_attention, 0.0625)
    yield Row("LongCat-Video at 704x1280: block sparse / full, all FLOPs of a step",
              f"{sparse.flops / dense.flops:.4f}")
    yield Row("LongCat-Video at 704x1280: attention calls with a mask", str(sparse.masked), "0", sparse.masked == 0)


if __name__ == "__main__":
    show(rows)
