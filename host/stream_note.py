"""What a stream costs, in words, before any of it is made."""
from dataclasses import replace
from fractions import Fraction

from .. import backbones
from ..backbones import attach
from ..pipelines.take.plan import ChunkPlan
from ..techniques.rolling_window import Rolling
from ..techniques.technique import ChunkPosition, Technique
from ..techniques.temporal_anchor import TemporalAnchor, find_temporal_anchor

BLOCKS = 4      # of a window, as Student Schedule makes it unless asked otherwise


def describe_stream(model, plan: ChunkPlan, rolling: Rolling | None = None) -> str:
    """How far a stream looks ahead in seconds of sound, how often its model is called for a block, and what its KV
    cache takes; without its `rolling` for a window of Student Schedule's blocks. Empty for a take of chunks."""
    if not plan.block_latents:
        return ""
    backbone, techniques = backbones.find(model), attach.techniques_of(model)
    size, clock = plan.block_latents, plan.timeline
    length, passes = (rolling.length, rolling.passes) if rolling else (BLOCKS, 1)
    each = Fraction(size * clock.temporal_ratio) / clock.fps
    recents = find_temporal_anchor(techniques).latents
    writes = backbone.memory == "written" and recents > 0
    calls = f"{passes} call{'s' * (passes > 1)} of the model for each block"
    if rolling is None:
        calls = "1 call of the model for each block and pass"
    notes = [f"stream: blocks of {float(each):.2f} s; with {length} of them in the window it looks "
             f"{float((length - 1) * each):.2f} s ahead in the sound; {calls}{', and 1 that remembers it' * writes}"]
    kept = cache_bytes(model, plan, techniques)
    if kept:
        anchor = find_temporal_anchor(techniques)
        notes.append(f"KV cache: {kept / 1e6:.0f} MB in {anchor.offload}"
                     + (" for each condition that guidance uses" if writes else ""))
    return "; ".join(notes)


def cache_bytes(model, plan: ChunkPlan, techniques: tuple[Technique, ...]) -> int:
    """What the keys and values that a stream keeps take, wherever they are."""
    backbone = backbones.find(model)
    shape = (1, backbone.latent_channels(model.model), 1, plan.height // backbone.spatial_ratio,
             plan.width // backbone.spatial_ratio)
    on_card = tuple(replace(technique, offload="VRAM") if isinstance(technique, TemporalAnchor) else technique
                    for technique in techniques)
    return backbone.cache_bytes(model.model, shape, on_card, ChunkPosition(call_latents=1))
