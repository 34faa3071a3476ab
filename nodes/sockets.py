"""What travels on Lodestar's own wires, and the words that several nodes share."""
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..pipelines.chunk_plan import ChunkPlan

PLAN = io.Custom("LODESTAR_PLAN")
SMALLEST_SIDE, LARGEST_SIDE, SIDE_STEP = 16, 16384, 16   # pixels
LONGEST_CHUNK = 4097   # pixel frames


@dataclass(frozen=True, eq=False)
class Take:
    """A plan and the sound of its video: {"waveform": (1, channels, samples), "sample_rate": Hz}.

    `speech`: what it was made for, where the video is to have another sound.
    """
    plan: ChunkPlan
    audio: dict[str, Any]
    speech: dict[str, Any] | None = None
