"""A noise level for each latent frame of a HunyuanVideo call: its blocks modulate some frames by another timestep.

The network was trained so for its picture ("token replace"), whose first frame is known and has timestep 0. ComfyUI
has that for the first frame alone: in 0.33 its single blocks modulate text in place of the frame, in 0.7 it takes no
batch of two. Here each block gets its levels itself, through the door that it has for other nodes.
"""
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import groupby

import torch
from comfy.ldm.flux.layers import apply_mod, timestep_embedding
from torch import Tensor

from ..sampling_run import once
from .call import HunyuanCall

Segments = list[tuple[int, int, int]]     # tokens [start, end) and which level they have


def level_vector(call: HunyuanCall, timestep: Tensor) -> Tensor:
    """(B, C): what modulates frames that have `timestep` (1,), as the network makes it of the step's own."""
    module, dtype = call.module, call.x.dtype
    vector = module.time_in(timestep_embedding(timestep, 256, time_factor=1.0).to(dtype))
    if module.time_r_in is not None and not call.disable_time_r:      # a clean frame's next timestep is its own
        after = module.time_r_in(timestep_embedding(timestep, 256, time_factor=1.0).to(dtype))
        vector = vector + after if module.params.meanflow_sum else (vector + after) / 2
    if module.vector_in is not None:
        assert call.y is not None
        vector = module.vector_in(call.y[:, :module.params.vec_in_dim]) + vector
    if module.params.guidance_embed and call.guidance is not None:
        vector = vector + module.guidance_in(timestep_embedding(call.guidance, 256).to(dtype))
    return vector.expand(call.x.shape[0], -1)


def with_levels(call: HunyuanCall, levels: Sequence[int], vectors: Sequence[Tensor]) -> HunyuanCall:
    """Frame i gets `levels[i]`: 0 is the step's own timestep, 1 the first of `vectors` (B, C), and so on. What another
    node put in a block's place is called with them."""
    video, text = segments_of(levels, call.frame_tokens), call.text_tokens
    length = video[-1][1]
    both = [(0, text, 0), *shift_segments(video, text)] if call.text_first else [*video, (length, length + text, 0)]
    numbers = once(call.transformer_options, "levels by number", reads_numbers)
    kinds: dict[str, tuple[Sequence, dict]] = {
        "double_block": (call.module.double_blocks, {"modulation_dims_img": entries(video, numbers),
                                                     "modulation_dims_txt": entries([(0, text, 0)], numbers)}),
        "single_block": (call.module.single_blocks, {"modulation_dims": entries(both, numbers)})}
    replacements = call.transformer_options.get("patches_replace", {})
    blocks = dict(replacements.get("dit", {}))
    for kind, (layers, dimensions) in kinds.items():
        for place in ((kind, index) for index in range(len(layers))):
            blocks[place] = partial(modulate, tuple(vectors), dimensions, blocks.get(place))
    options = {**call.transformer_options, "patches_replace": {**replacements, "dit": blocks}}
    return call.change(transformer_options=options, guiding_frame_index=None)


def modulate(vectors: tuple[Tensor, ...], dimensions: dict, earlier: Callable | None, values: dict, originals: dict
             ) -> dict:
    """A block's replacement: the block, or another node's replacement of it, with levels."""
    values = {**values, **dimensions, "vec": torch.stack([values["vec"], *vectors], 1)}
    return originals["original_block"](values) if earlier is None else earlier(values, originals)


def segments_of(levels: Sequence[int], tokens_per_frame: int) -> Segments:
    found: Segments = []
    start = 0
    for level, frames in groupby(levels):
        end = start + len(list(frames)) * tokens_per_frame
        found.append((start, end, level))
        start = end
    return found


def shift_segments(segments: Segments, by: int) -> Segments:
    return [(start + by, end + by, level) for start, end, level in segments]


def entries(segments: Segments, numbers: bool) -> list[tuple]:
    """Segments as this ComfyUI's blocks read them: levels as `numbers`, or as slices."""
    return [(start, end, level if numbers else slice(level, level + 1)) for start, end, level in segments]


@cache
def reads_numbers() -> bool:
    """Whether ComfyUI takes a level's vectors by its number in a batch, too; before, it wants a slice."""
    try:
        apply_mod(torch.ones(2, 3, 1), torch.ones(2, 1, 1), None, [(0, None, 0)])
    except RuntimeError:
        return False
    return True
