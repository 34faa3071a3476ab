"""By what two sounds are known to be one recording, as far as both go: a digest of each quarter of a second.

So features of a whole recording fit a plan of its opening, and two recordings of equal length are found out.
"""
import hashlib
from collections.abc import Sequence
from typing import Any

MARKS_PER_SECOND = 4


def sound_marks(audio: dict[str, Any]) -> tuple[str, ...]:
    """Of an AUDIO (1, channels, samples), from its start on; what fills no quarter of a second has no mark."""
    waveform, rate = audio["waveform"].detach().float().cpu(), int(audio["sample_rate"])
    samples, head = rate // MARKS_PER_SECOND, f"{rate} Hz, {waveform.shape[1]} channels: ".encode()
    pieces = (waveform[0, :, start:start + samples] for start in range(0, waveform.shape[-1] - samples + 1, samples))
    return tuple(hashlib.sha256(head + piece.contiguous().numpy().tobytes()).hexdigest() for piece in pieces)


def first_difference(marks: Sequence[str], others: Sequence[str]) -> float | None:
    """Seconds from which on two sounds differ, None where they do not as far as both go."""
    return next((index / MARKS_PER_SECOND for index, pair in enumerate(zip(marks, others, strict=False))
                 if pair[0] != pair[1]), None)
