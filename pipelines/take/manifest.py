"""What a take's journal says of itself: `manifest.jsonl`, each line checked together with those before it."""
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import safe_files

FORMAT = 3                  # of what is written
READABLE = (2, FORMAT)      # format 2 had one piece a chunk and no state; other numbers are not read
MANIFEST = "manifest.jsonl"

FileSum = list[Any]   # [bytes, SHA-256]


@dataclass(frozen=True)
class FinalFile:
    """The video of a take: where it is or is about to be, and what it was made of."""
    path: str
    content: str    # digest of what determines it
    size: int       # bytes
    checksum: str   # SHA-256


@dataclass(frozen=True)
class Entry:
    """A finished chunk."""
    fingerprint: dict[str, str]     # everything that determines it, by name
    pieces: list[int]               # how many new latents it has, as they were pushed to the decoder
    frames: int                     # that became ready with it
    files: dict[str, FileSum]
    state: FileSum | None = None    # of the file beside it, where the next chunk needs more than latents and frames

    @property
    def latents(self) -> int:
        return sum(self.pieces)


@dataclass
class Manifest:
    """As far as it is whole: a damaged line ends it, those before it stand."""
    take: str                      # the user's name for it
    entries: list[Entry]
    final: FinalFile | None = None
    problem: str = field(default="")   # what is wrong with it, for the user
    about: dict[str, Any] = field(default_factory=dict)   # what else people want to know of the take; decides nothing

    def write(self, path: Path) -> None:
        about = {"about": self.about} if self.about else {}
        lines: list[dict[str, Any]] = [{"format": FORMAT, "take": self.take, **about},
                                       *({"chunk": asdict(entry)} for entry in self.entries)]
        if self.final is not None:
            lines.append({"final": asdict(self.final)})
        text, total = "", ""
        for line in lines:
            total = digest_texts(total, json.dumps(line, sort_keys=True))
            text += json.dumps({**line, "sum": total}) + "\n"
        safe_files.replace(path, text.encode())

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises OSError where it is there and cannot be read."""
        if not path.exists():
            return cls("", [])
        written = path.read_bytes().splitlines()
        claimed = _parse_line(written[0]).get("format", FORMAT) if written else FORMAT
        if claimed not in READABLE:
            return cls("", [], problem="the journal is of another version of the pack")
        head, *lines = _whole_lines(written) or [{}]
        if "take" not in head:
            return cls("", [], problem="the journal's manifest is damaged")
        entry = Entry if claimed == FORMAT else _entry_of_format_2
        final = next((FinalFile(**line["final"]) for line in lines if "final" in line), None)
        return cls(head["take"], [entry(**line["chunk"]) for line in lines if "chunk" in line], final,
                   "" if len(lines) + 1 == len(written) else "the journal's manifest is damaged",
                   head.get("about", {}))


def _entry_of_format_2(contract: dict[str, str], latents: int, frames: int, files: dict[str, FileSum]) -> Entry:
    return Entry(contract, [latents], frames, files)


def digest_texts(*parts: str) -> str:
    """SHA-256 of the parts in order, hex; other parts give another digest even where their joined text is the same."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(f"{len(data)}:".encode())
        total.update(data)
    return total.hexdigest()


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Between two fingerprints, in words."""
    names = [name for name in [*now, *before] if before.get(name) != now.get(name)]
    return f"{', '.join(dict.fromkeys(names))} changed"


def unfinished_beside(folder: Path, take: str, fingerprint: Mapping[str, str]) -> str:
    """A sentence on the youngest other unfinished take beside `folder` that the user called `take`, or "".

    For a take that starts from its first chunk: it names what changed in `fingerprint` (of that chunk) and where the
    other stays.
    """
    others = []
    for path in folder.parent.glob(f"*/{MANIFEST}"):
        with suppress(OSError):   # another run has just finished it
            found, age = Manifest.read(path), path.stat().st_mtime
            if path.parent != folder and found.take == take and found.entries:
                others.append((age, path.parent, found.entries))
    if not others:
        return ""
    _, place, entries = max(others, key=lambda other: other[0])
    return (f"{changes(entries[0].fingerprint, fingerprint)}: this is a fresh take. The unfinished one, {len(entries)} "
            f"chunks, stays in {place}; delete that folder if you do not want it back")


def _whole_lines(written: list[bytes]) -> list[dict]:
    """The leading lines that are what was once written, in the order in which they were written."""
    lines: list[dict] = []
    total = ""
    for text in written:
        line = _parse_line(text)
        claimed = line.pop("sum", None)
        total = digest_texts(total, json.dumps(line, sort_keys=True))
        if claimed != total:
            break
        lines.append(line)
    return lines


def _parse_line(text: bytes) -> dict:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}
