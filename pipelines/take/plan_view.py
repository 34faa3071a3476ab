"""A plan as the timeline of Plan Take draws it: a few numbers per chunk and the outline of the speech, as JSON knows
them. Times are seconds of the whole take."""
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool1d

from .plan import Chunk, ChunkPlan, Take

PEAKS_A_SECOND, MOST_PEAKS = 20, 2000


def view_of(take: Take, anchor_latents: float | None) -> dict[str, Any]:
    """`anchor_latents`: how far ahead the model's own anchor stands; None where it has none.

    `chunks`: {start, end, from, ahead} each: its new frames, where its repeated ones begin, and how far behind its last
    frame the anchor stands (None without one). `remakes`: which are made again. `peaks`: of the speech, 0 to 100.
    """
    return {"seconds": _round(take.plan.seconds), "fps": _round(take.plan.timeline.fps),
            "chunks": [_chunk(take.plan, chunk, anchor_latents) for chunk in take.plan.chunks],
            "remakes": [chunk.index for chunk in take.plan.remakes],
            "peaks": peaks_of((take.speech or take.audio or {}).get("waveform"), float(take.plan.seconds))}


def _chunk(plan: ChunkPlan, chunk: Chunk, anchor_latents: float | None) -> dict[str, Any]:
    start, end = plan.seconds_of(chunk)
    begins = plan.timeline.seconds_at(plan.timeline.first_frame(chunk.first_latent))
    ahead = anchor_latents if chunk.anchor_latents is None or anchor_latents is None else chunk.anchor_latents
    return {"start": _round(start), "end": _round(end), "from": _round(min(begins, start)),
            "ahead": None if ahead is None else _round(ahead * plan.timeline.temporal_ratio / plan.timeline.fps)}


def peaks_of(waveform: Tensor | None, seconds: float) -> list[int]:
    """The largest sample of each stretch of equal length, 0 to 100; [] without sound."""
    if waveform is None or not waveform.numel():
        return []
    count = min(max(round(seconds * PEAKS_A_SECOND), 1), MOST_PEAKS, waveform.shape[-1])
    loud = adaptive_max_pool1d(torch.as_tensor(waveform).abs().amax((0, 1))[None].float(), count)[0]
    return [round(float(value) * 100) for value in loud.clamp(0, 1)]


def _round(value: Any) -> float:
    return round(float(value), 4)
