"""What travels on Lodestar's own wires, and the words that several nodes share."""
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..pipelines.chunk_plan import ChunkPlan

PLAN = io.Custom("LODESTAR_PLAN")
SMALLEST_SIDE, LARGEST_SIDE, SIDE_STEP = 16, 16384, 16   # pixels


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


def hearing_inputs() -> list:
    """What the nodes that listen for LongCat share, in the order of their widgets."""
    return [
        io.AudioEncoder.Input("audio_encoder", tooltip="From Load Audio Encoder: chinese-wav2vec2-base for Avatar 1.0, "
                                                       "whisper-large-v3 for 1.5."),
        io.Combo.Input("version", options=["auto", "1.0", "1.5"], default="auto",
                       tooltip="Which LongCat Avatar this is for. auto: what the encoder says, wav2vec2 1.0 and "
                               "whisper 1.5."),
        io.Boolean.Input("noise_floor", default=True,
                         tooltip="Only for 1.0: a faint noise under the speech, as in training. Off, features do not "
                                 "depend on a seed, and pauses are heard as dead silence."),
        io.Int.Input("noise_floor_seed", default=0, min=0, max=0xffffffff,
                     tooltip="Which noise. The same seed gives the same features."),
    ]
