"""Long speech in segments of bounded size: which steps each one encodes, which it keeps, and how they are joined.

No paper: a speech encoder attends over its whole input, so its memory grows with the clip. Overlapping segments, whose
margins are thrown away, bound it; statistics that belong to the whole clip are gathered over segments without rounding.
"""
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Steps [first, end) are encoded, steps [keep_first, keep_end) of them are what it keeps."""
    first: int
    end: int
    keep_first: int
    keep_end: int


def plan_segments(steps: int, segment: int, overlap: int) -> tuple[Segment, ...]:
    """The fewest segments of `segment` steps that share at least `overlap` with their neighbours and cover `steps`.

    They are spread evenly, all of full length, and each overlap is cut in its middle. One segment where it suffices.
    """
    if not 0 <= overlap < segment:
        raise ValueError(f"got {overlap} steps of overlap for segments of {segment}; choose an overlap shorter than a "
                         "segment")
    if steps <= segment:
        return (Segment(0, steps, 0, steps),)
    gaps = -(-(steps - segment) // (segment - overlap))
    starts = [index * (steps - segment) // gaps for index in range(gaps + 1)]
    cuts = [0, *((start + previous + segment) // 2 for previous, start in zip(starts, starts[1:], strict=False)), steps]
    return tuple(Segment(start, start + segment, *cut) for start, cut in
                 zip(starts, zip(cuts, cuts[1:], strict=False), strict=True))


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as [first, end), in their order: 0, 4, 5, 6, 1 -> (0, 1), (4, 7), (1, 2)."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = found[-1][0], number + 1
        else:
            found.append((number, number + 1))
    return found


def trim_segments(segments: Sequence[Segment], encoded: Iterable[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """What each segment keeps of what it encoded, in order: per segment L tensors (1, end - first, C) -> (1, n, C).

    `encoded` is consumed one segment at a time, so only one segment's layers are alive.
    """
    for segment, layers in zip(segments, encoded, strict=True):
        yield [layer[:, segment.keep_first - segment.first:segment.keep_end - segment.first] for layer in layers]


def moments(pieces: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the last axis of (..., T_i) pieces, as if they were one tensor; CPU float64."""
    count, mean, spread = 0, torch.zeros(()), torch.zeros(())
    for piece in pieces:
        variance, center = (value.cpu().double() for value in torch.var_mean(piece, -1, correction=0))
        total, step = count + piece.shape[-1], center - mean
        mean = mean + step * (piece.shape[-1] / total)
        spread = spread + variance * piece.shape[-1] + step ** 2 * (count * piece.shape[-1] / total)
        count = total
    return mean, spread / count


def select_layers(text: str, count: int = 0) -> tuple[int, ...]:
    """"all", "last", "0,5,-1", "0-24" -> layer indices, ascending and once each, of an encoder that has `count`.

    Negative numbers count from the end, as in Python. Without `count` only the spelling is checked.
    """
    spans = []
    for part in {"all": "0--1", "last": "-1"}.get(text.strip().lower(), text).split(","):
        match = re.fullmatch(r"\s*(-?\d+)\s*(?:-\s*(-?\d+)\s*)?", part)
        if match is None:
            raise ValueError(f"got {text!r}, wanted all, last, or numbers and ranges such as 0,5,-1 or 0-24")
        spans.append((int(match[1]), int(match[2] or match[1])))
    chosen: set[int] = set()
    for span in spans if count else ():
        first, last = (number + count if number < 0 else number for number in span)
        if not 0 <= first <= last < count:
            raise ValueError(f"got {text!r}, but this encoder has layers 0 to {count - 1} (0 is what enters "
                             f"the first block, {count - 1} the final output)")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))
