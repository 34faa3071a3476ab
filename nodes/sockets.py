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
    """A plan and the speech it was made for: {"waveform": (1, channels, samples), "sample_rate": Hz}."""
    plan: ChunkPlan
    audio: dict[str, Any]


def size_problem(width: int | None, height: int | None) -> str | None:
    """Why a picture cannot have this size, for validate_inputs; None where it can, or where a size is not known yet."""
    for name, size in (("width", width), ("height", height)):
        if isinstance(size, int) and (size % SIDE_STEP or not SMALLEST_SIDE <= size <= LARGEST_SIDE):
            nearest = min(max(round(size / SIDE_STEP), 1) * SIDE_STEP, LARGEST_SIDE)
            return (f"{name} is {size}; it must be a multiple of {SIDE_STEP} from {SMALLEST_SIDE} to {LARGEST_SIDE}, "
                    f"such as {nearest}")
    return None
