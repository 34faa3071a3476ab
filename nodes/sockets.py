"""What travels on Lodestar's own wires, and the words that several nodes share."""
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..pipelines.chunk_plan import ChunkPlan

PLAN = io.Custom("LODESTAR_PLAN")


@dataclass(frozen=True, eq=False)
class Take:
    """A plan and the speech it was made for: {"waveform": (1, channels, samples), "sample_rate": Hz}."""
    plan: ChunkPlan
    audio: dict[str, Any]
