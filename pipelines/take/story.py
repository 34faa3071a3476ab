"""The story script: one prompt per time of the take, written as text in global time, snapped to chunks.

    # a comment
    0:00 she looks into the camera
    0:12.5 she laughs,
        and leans back          <- an indented line goes on with the prompt above
    1:02:03 she waves
"""
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

_LINE = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d+)?)(?:\s+(.*))?")
_LIKE_A_TIME = re.compile(r"\d+[:;.,]\S*\s?.*")


@dataclass(frozen=True)
class StoryLine:
    seconds: Fraction
    prompt: str
    line: int  # 1-based, in the text as the user sees it


def parse_story(text: str) -> tuple[StoryLine, ...]:
    """Read a script. A single line needs no time (0:00); times are `m:ss`, `m:ss.fff` or `h:mm:ss`, strictly rising.

    Blank lines and lines that start with # are ignored. Raises ValueError with the number and the text of the line
    that cannot be read or is out of order.
    """
    blocks: list[tuple[int, list[str]]] = []  # line number; the line and its indented continuations
    for number, raw in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        if not raw.strip() or raw.startswith("#"):
            continue
        if raw[0].isspace() and blocks and not _LINE.fullmatch(raw.strip()):
            blocks[-1][1].append(raw.strip())
        else:
            blocks.append((number, [raw.strip()]))
    story: list[StoryLine] = []
    for number, lines in blocks:
        entry = _read(number, lines, alone=len(blocks) == 1)
        if story and entry.seconds <= story[-1].seconds:
            raise _error(number, lines[0], f"its time is not after that of line {story[-1].line} "
                                           f"({clock(story[-1].seconds)}); put the lines in order of time")
        story.append(entry)
    return tuple(story)


def prompts_for_chunks(story: Sequence[StoryLine], starts_seconds: Sequence[Fraction],
                       end_seconds: Fraction) -> tuple[list[str], list[str]]:
    """One prompt per chunk, and notes that say where each line took hold.

    A line takes hold at the chunk start nearest to its time: the chunk that shows the time if it lies in that chunk's
    first half, else the next one. Where two lines meet at one chunk the later is kept. Chunks before the first line
    get "", which means the prompt of the graph. `starts_seconds`: start of the new frames of every chunk, from 0 up.
    """
    taken: dict[int, StoryLine] = {}
    notes = []
    for entry in story:
        if entry.seconds >= end_seconds:
            notes.append(f"{clock(entry.seconds)} is not used: the take ends at {clock(end_seconds)}")
            continue
        chunk = _nearest(starts_seconds, entry.seconds)
        if chunk in taken:
            notes.append(f"{clock(taken[chunk].seconds)} is dropped: {clock(entry.seconds)} starts with the same "
                         f"chunk {chunk + 1}")
        taken[chunk] = entry
    notes += [f"{clock(entry.seconds)} starts with chunk {chunk + 1} at {clock(starts_seconds[chunk])}"
              for chunk, entry in taken.items() if entry.seconds > 0]
    if taken and min(taken) > 0:
        notes.append(f"the prompt of the graph is used until chunk {min(taken) + 1}")
    prompts, prompt = [], ""
    for chunk in range(len(starts_seconds)):
        prompt = taken[chunk].prompt if chunk in taken else prompt
        prompts.append(prompt)
    return prompts, notes


def clock(seconds: Fraction) -> str:
    """12.5 s -> `0:12.500`, 3723 s -> `1:02:03`: the script's own notation, to the millisecond."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    whole, fraction = divmod(rest, 1000)
    return f"{head}:{whole:02}" + (f".{fraction:03}" if fraction else "")


def _read(number: int, lines: list[str], alone: bool) -> StoryLine:
    first, match = lines[0], _LINE.fullmatch(lines[0])
    if match is None:
        if alone and not _LIKE_A_TIME.fullmatch(first):
            return StoryLine(Fraction(0), " ".join(lines), number)
        raise _error(number, first, "it must begin with a time such as 0:12.5 or 1:02:03, then a space and the prompt")
    hours, minutes, seconds, prompt = match.groups()
    if Fraction(seconds) >= 60 or (hours and int(minutes) >= 60):
        raise _error(number, first, "seconds must be below 60, and so must minutes after hours")
    prompt = " ".join([prompt or "", *lines[1:]]).strip()
    if not prompt:
        raise _error(number, first, "it has a time but no prompt")
    return StoryLine(Fraction(seconds) + 60 * int(minutes) + 3600 * int(hours or 0), prompt, number)


def _nearest(starts: Sequence[Fraction], seconds: Fraction) -> int:
    """The chunk whose start is nearest, the later of two that are equally near. `starts` rise from 0."""
    after = bisect_right(starts, seconds)
    if after == len(starts) or seconds - starts[after - 1] < starts[after] - seconds:
        return after - 1
    return after


def _error(number: int, text: str, problem: str) -> ValueError:
    return ValueError(f"script, line {number} ({text.strip()!r}): {problem}")
