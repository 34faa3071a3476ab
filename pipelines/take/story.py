"""The story of a take: what happens in it and when, as one text in seconds of the whole take, one line per event.

    # a comment
    0:00 she looks into the camera
    0:12.5 she laughs,
        and leans back          <- an indented line goes on with the prompt above
    0:20 [keyframe smile.png]   <- a picture of ComfyUI's input folder, which the take moves towards until 0:20
    0:40 [anchor 0.5 s]         <- from here on the anchor stands half a second ahead; [anchor] alone: as its node says
    0:41 [driving wave.mp4]     <- from here on the person moves as in that video, for models that are driven
    0:43 [again]                <- the chunk that shows 0:43 is made again with other noise; [again 2]: with yet another
    1:02:03 she waves

Prompts and anchors take hold at the chunk nearest to their time. The timeline of Plan Take edits this text and nothing
else.
"""
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from .driving import AT_END, PARTS

_LINE = re.compile(r"(?:(\d+):)?(\d+):(\d{1,2}(?:\.\d+)?)(?:\s+(.*))?")
_LIKE_A_TIME = re.compile(r"\d+[:;.,]\S*\s?.*")
_EVENT = re.compile(r"\[\s*([A-Za-z][\w-]*)\s*([^\]]*?)\s*\](.*)")
_DISTANCE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:s|seconds?)?")
KEYFRAME, ANCHOR, AGAIN, DRIVING = EVENTS = ("keyframe", "anchor", "again", "driving")


@dataclass(frozen=True)
class StoryLine:
    """What happens at a time; of a prompt its words."""
    seconds: Fraction
    prompt: str
    line: int  # 1-based, in the text as the user sees it


@dataclass(frozen=True)
class Keyframe:
    """A picture that the take moves towards until its time."""
    seconds: Fraction
    picture: str    # a file's name
    line: int

    @property
    def where(self) -> str:
        return f"script, line {self.line} ({clock(self.seconds)} keyframe {self.picture})"


@dataclass(frozen=True)
class AnchorDistance:
    """How far ahead of a chunk the anchor stands from a time on, in seconds; None: as its node says."""
    seconds: Fraction
    distance: Fraction | None
    line: int


@dataclass(frozen=True)
class Again:
    """The chunk that shows a time is made once more, with its `number`-th other noise."""
    seconds: Fraction
    number: int
    line: int


@dataclass(frozen=True)
class DrivingLine:
    """Videos that drive the take from a time on: files' names by part, and what comes behind their end."""
    seconds: Fraction
    parts: tuple[tuple[str, str], ...]
    at_end: str
    line: int

    @property
    def where(self) -> str:
        return f"script, line {self.line} ({clock(self.seconds)} driving {self.parts[0][1]})"


@dataclass(frozen=True)
class Story:
    """A script, each kind of event in order of time."""
    prompts: tuple[StoryLine, ...] = ()
    keyframes: tuple[Keyframe, ...] = ()
    anchors: tuple[AnchorDistance, ...] = ()
    agains: tuple[Again, ...] = ()
    drivings: tuple[DrivingLine, ...] = ()


@dataclass(frozen=True)
class ChunkStory:
    """A story on the chunks of a take, each of them the same number: prompts ("" means the graph's), anchor distances
    in seconds (None: the node's), and which other noise a chunk has (0: its own). `notes`: what was snapped."""
    prompts: tuple[str, ...]
    distances: tuple[Fraction | None, ...]
    agains: tuple[int, ...]
    notes: tuple[str, ...]


def parse_story(text: str) -> Story:
    """Read a script. A single line needs no time (0:00); times are `m:ss`, `m:ss.fff` or `h:mm:ss` and never fall; two
    events of one kind have two times.

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
    events: list[Any] = []
    for number, lines in blocks:
        entry = _read(number, lines, alone=len(blocks) == 1)
        like = [other for other in events if type(other) is type(entry)]
        before = max([*like[-1:], *events[-1:]], key=lambda other: other.seconds, default=None)
        if before is not None and (entry.seconds < before.seconds or like and entry.seconds <= like[-1].seconds):
            raise _error(number, lines[0], f"its time is not after that of line {before.line} "
                                           f"({clock(before.seconds)}); put the lines in order of time")
        events.append(entry)

    def all_of(kind: type) -> tuple[Any, ...]:
        return tuple(event for event in events if type(event) is kind)

    return Story(all_of(StoryLine), all_of(Keyframe), all_of(AnchorDistance), all_of(Again),
                 all_of(DrivingLine))


def lay_on_chunks(story: Story, starts_seconds: Sequence[Fraction], end_seconds: Fraction) -> ChunkStory:
    """Which chunk each event of `story` concerns. `starts_seconds`: start of the new frames of every chunk, from 0 up.
    """
    prompts, notes = prompts_for_chunks(story.prompts, starts_seconds, end_seconds)
    distances: list[Fraction | None] = []
    anchors = {_nearest(starts_seconds, entry.seconds): entry
               for entry in _within(story.anchors, end_seconds, ANCHOR, notes)}
    notes += [f"{clock(entry.seconds)} anchor: from chunk {chunk + 1} at {clock(starts_seconds[chunk])}"
              for chunk, entry in anchors.items() if entry.seconds > 0]
    distance = None
    for chunk in range(len(starts_seconds)):
        distance = anchors[chunk].distance if chunk in anchors else distance
        distances.append(distance)
    agains = [0] * len(starts_seconds)
    for entry in _within(story.agains, end_seconds, AGAIN, notes):
        chunk = bisect_right(starts_seconds, entry.seconds) - 1
        agains[chunk] = entry.number
        notes.append(f"{clock(entry.seconds)} again: chunk {chunk + 1} has other noise")
    list(_within(story.keyframes, end_seconds, KEYFRAME, notes))
    list(_within(story.drivings, end_seconds, DRIVING, notes))
    return ChunkStory(tuple(prompts), tuple(distances), tuple(agains), tuple(notes))


def _within(entries: Iterable[Any], end_seconds: Fraction, kind: str, notes: list[str]) -> list[Any]:
    """The events that the take has not ended before; the others are noted."""
    notes += [f"{clock(entry.seconds)} {kind} is not used: the take ends at {clock(end_seconds)}"
              for entry in entries if entry.seconds >= end_seconds]
    return [entry for entry in entries if entry.seconds < end_seconds]


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


def _read(number: int, lines: list[str], alone: bool) -> StoryLine | Keyframe | AnchorDistance | Again | DrivingLine:
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
    time = Fraction(seconds) + 60 * int(minutes) + 3600 * int(hours or 0)
    event = _EVENT.fullmatch(prompt)
    if event is None:
        return StoryLine(time, prompt, number)
    return _read_event(number, first, time, *event.groups()) or StoryLine(time, prompt, number)


def _read_event(number: int, line: str, time: Fraction, kind: str, value: str, behind: str
                ) -> Keyframe | AnchorDistance | Again | DrivingLine | None:
    """None for a prompt that begins with a word in brackets."""
    if kind not in EVENTS:
        if not behind and (meant := get_close_matches(kind.lower(), EVENTS, 1, 0.75)):
            raise _error(number, line, f"[{kind}] is no event; write [{meant[0]}]")
        return None
    if behind.strip():
        raise _error(number, line, f"[{kind}] has a line of its own; put the prompt on another one with the same time")
    if kind == KEYFRAME:
        if not value:
            raise _error(number, line, "it names no picture; write one of ComfyUI's input folder, such as "
                                       "[keyframe smile.png]")
        return Keyframe(time, value, number)
    if kind == ANCHOR:
        distance = _DISTANCE.fullmatch(value)
        if value and distance is None:
            raise _error(number, line, "the distance is in seconds, such as [anchor 0.5 s]; [anchor] alone is the "
                                       "node's own")
        return AnchorDistance(time, Fraction(distance[1]) if distance else None, number)
    if kind == DRIVING:
        return DrivingLine(time, *_read_driving(number, line, value), number)
    if value and not (value.isdecimal() and int(value)):
        raise _error(number, line, "write [again], or [again 2] and so on for yet another noise")
    return Again(time, int(value or 1), number)


def _read_driving(number: int, line: str, value: str) -> tuple[tuple[tuple[str, str], ...], str]:
    """The parts of `poses.mp4, face face.mp4, loop`, and what comes behind their end."""
    pose, *others = (word.strip() for word in value.split(","))
    parts, at_end = {PARTS[0]: pose}, AT_END[0]
    for word in others:
        part, _, name = word.partition(" ")
        if word in AT_END:
            at_end = word
        elif part in PARTS[1:] and name.strip() and part not in parts:
            parts[part] = name.strip()
        else:
            raise _error(number, line, f"{word!r} is no part of a driving line; behind the poses' video it may have "
                                       "face, background and mask with a file each, and hold, loop or back and forth")
    if not pose:
        raise _error(number, line, "it names no video; write one of ComfyUI's input folder, such as [driving wave.mp4]")
    return tuple(parts.items()), at_end


def _nearest(starts: Sequence[Fraction], seconds: Fraction) -> int:
    """The chunk whose start is nearest, the later of two that are equally near. `starts` rise from 0."""
    after = bisect_right(starts, seconds)
    if after == len(starts) or seconds - starts[after - 1] < starts[after] - seconds:
        return after - 1
    return after


def _error(number: int, text: str, problem: str) -> ValueError:
    return ValueError(f"script, line {number} ({text.strip()[:100]!r}): {problem}")
