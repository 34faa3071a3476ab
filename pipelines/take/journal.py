"""The journal of a take: finished chunks on disk, so that a crash or a cancel costs one chunk and a change only what
it affects.

A folder per take holds `chunk_0003.safetensors` (the chunk's new latents), `chunk_0003.mp4` (the frames that became
ready with it) and `manifest.jsonl`: a line of what the take is, a line per finished chunk, and one of the final file
once there is one. Every file is written whole, the manifest last, and is checked by size and checksum when the journal
is opened; every line of the manifest is checked together with those before it. What it says is finished can be used.
"""
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from .. import safe_files
from ..safe_files import NotReadable, is_intact, reading, size_and_sum, writing
from .folder_lock import FolderLock

logger = logging.getLogger("lodestar")
FORMAT = 2  # of the manifest; another number is not read
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class FinalFile:
    """The video of a take: where it is or is about to be, and what it was made of."""
    path: str
    content: str    # digest of what determines it
    size: int       # bytes
    checksum: str   # SHA-256


def digest_texts(*parts: str) -> str:
    """SHA-256 of the parts in order, hex; other parts give another digest even where their joined text is the same."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode()
        total.update(f"{len(data)}:".encode())
        total.update(data)
    return total.hexdigest()


class Journal:
    """Use as `with Journal.open(folder, contracts) as journal:`. Holds the folder's lock until closed."""

    folder: Path
    note: str                 # what was found, for the user: "resuming at chunk 3 of 7"
    finished: int             # leading chunks that are finished, intact and still what was asked for
    final: FinalFile | None   # the video of these chunks, where it was recorded
    contracts: list[dict[str, str]]   # per chunk, everything that determines it
    take: str                 # the user's name for it; once all chunks are finished, the one it was made under

    def __init__(self, folder: Path, contracts: Sequence[Mapping[str, str]], lock: FolderLock, take: str = ""):
        self.folder = folder
        self._lock = lock
        self.contracts = [dict(contract) for contract in contracts]
        with reading(folder):
            found = _Manifest.read(folder / MANIFEST)
            self._entries, self.final = found.entries, found.final
            self.finished, problem = self._compare(found.problem)
        self.take = found.take if self.finished == self.chunks else take
        self.note = self._say(problem)

    @classmethod
    def open(cls, folder: Path, contracts: Sequence[Mapping[str, str]], take: str = "") -> "Journal":
        """Open or start the journal in `folder`. `contracts`: per chunk, everything that determines it, by name.

        Names are shown to the user when they change ("prompt changed: chunks from 4 on are made again"); values are
        compared as text. A changed chunk invalidates all later ones, which continue from it. Nothing is deleted here
        but drafts. `take`: the user's name for it. Raises FolderBusy if another run holds the folder, NotWritten if
        the folder cannot be made, NotReadable if it cannot be read.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as unless_opened:
            lock = FolderLock(folder)
            unless_opened.callback(lock.release)
            for draft in folder.glob("*" + safe_files.SUFFIX):
                safe_files.remove(draft)
            journal = cls(folder, contracts, lock, take)
            unless_opened.pop_all()
        return journal

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        """Close it; a take of which no chunk was ever finished leaves nothing behind."""
        try:
            started = bool(self._entries) or (self.folder / MANIFEST).exists()
        except OSError:   # it may not even be readable any more
            started = True
        if started:
            self.close()
        else:
            self.discard()

    def close(self) -> None:
        self._lock.release()

    @property
    def chunks(self) -> int:
        return len(self.contracts)

    @property
    def finished_latents(self) -> int:
        return sum(entry["latents"] for entry in self._entries[:self.finished])

    @property
    def finished_frames(self) -> int:
        return sum(entry["frames"] for entry in self._entries[:self.finished])

    def content(self, made_of: str) -> str:
        """A digest of all chunks (contracts, latents, segments) and of what else the final file is made of."""
        return digest_texts(json.dumps(self._entries[:self.chunks], sort_keys=True), made_of)

    def megabytes(self) -> float:
        """What the folder holds, as far as it can be read."""
        with suppress(OSError):
            return sum(path.stat().st_size for path in self.folder.iterdir()) / 1e6
        return 0.0

    def draft(self, index: int) -> Path:
        """Where the segment of chunk `index` is written before it is committed."""
        return self.folder / f"chunk_{index:04}.mp4{safe_files.SUFFIX}"

    def check_present(self) -> None:
        """Raise NotReadable if the folder, or what it says, is gone: before a chunk is made for nothing."""
        with reading(self.folder):
            (self.folder / MANIFEST if self.finished else self.folder).stat()

    def commit(self, index: int, latents: Tensor, frames: int) -> None:
        """Make chunk `index` finished: its new latents (1, C, t, h, w), and its draft if that holds any `frames`.

        Chunks after it are forgotten: they followed another chunk. Raises NotWritten if the disk refuses.
        """
        if index != self.finished:
            raise ValueError(f"chunk {index} cannot be committed: the next unfinished chunk is {self.finished}")
        self.check_present()
        data = save({"latents": latents.detach().cpu().contiguous()})
        files = {f"chunk_{index:04}.safetensors": [len(data), hashlib.sha256(data).hexdigest()]}
        with writing(self.folder), ExitStack() as unless_written:
            unless_written.callback(safe_files.remove, self.draft(index))
            safe_files.replace(self.folder / f"chunk_{index:04}.safetensors", data)
            if frames:
                files[f"chunk_{index:04}.mp4"] = size_and_sum(self.draft(index))
                self.draft(index).replace(self.folder / f"chunk_{index:04}.mp4")
            entry = {"contract": self.contracts[index], "latents": latents.shape[2], "frames": frames, "files": files}
            self._write([*self._entries[:index], entry], None)
            unless_written.pop_all()
        self.finished = index + 1

    def copy_from(self, other: "Journal") -> None:
        """Copies of the chunks that `other`, opened with the same contracts, has finished. Raises NotWritten."""
        start = 0
        for index, entry in enumerate(other._entries[:other.finished]):
            if entry["frames"]:
                with writing(self.draft(index)):
                    shutil.copyfile(other.folder / f"chunk_{index:04}.mp4", self.draft(index))
                    safe_files.sync(self.draft(index))
            self.commit(index, other.latents(start, start + entry["latents"]), entry["frames"])
            start += entry["latents"]

    def record(self, final: FinalFile) -> None:
        """Remember which file is, or is about to be, the video of this take. Raises NotWritten."""
        with writing(self.folder):
            self._write(self._entries, final)

    def recall(self, content: str) -> Path | None:
        """The take's video, where it was recorded, is intact and was made of `content`: then all chunks are finished,
        whatever the end of an earlier run already removed of them; only the last one's latents are left for sure."""
        entries = self._entries[:self.chunks]
        if self.final is None or self.final.content != content or \
                [entry["contract"] for entry in entries] != self.contracts:
            return None
        name = f"chunk_{self.chunks - 1:04}.safetensors"
        with reading(self.folder):
            whole = is_intact(self.folder / name, *entries[-1]["files"][name]) and is_intact(
                Path(self.final.path), self.final.size, self.final.checksum)
        if not whole:
            return None
        self.finished = self.chunks
        return Path(self.final.path)

    def latents(self, first: int, end: int) -> Tensor:
        """Latents `first` to `end` (exclusive) of the take, (1, C, t, h, w), from as many chunks as it takes.

        Raises NotReadable.
        """
        parts, start = [], 0
        for index, entry in enumerate(self._entries[:self.finished]):
            low, high = max(first - start, 0), min(end - start, entry["latents"])
            if low < high:
                path = self.folder / f"chunk_{index:04}.safetensors"
                try:
                    with reading(path), safe_open(path, framework="pt") as file:
                        parts.append(file.get_slice("latents")[:, :, low:high])
                except SafetensorError as error:
                    raise NotReadable(f"{path} was damaged while the take was made ({error}); queue again, and it is "
                                      "made again from there") from error
            start += entry["latents"]
        return torch.cat(parts, dim=2)

    def segments(self) -> list[Path]:
        """The finished video segments in order. A chunk of one latent may have none."""
        return [self.folder / f"chunk_{index:04}.mp4"
                for index, entry in enumerate(self._entries[:self.finished]) if entry["frames"]]

    def discard(self) -> None:
        """After the final file is written: remove what the journal wrote, and its folder if nothing else is in it.

        In an order in which a run that dies here has either its manifest and what `recall` needs, or is over. What
        cannot be removed stays, and the log says so: the video is safe.
        """
        last = self.folder / f"chunk_{self.chunks - 1:04}.safetensors"
        problems = [problem for path in [*self._working_files(last), self.folder / MANIFEST, last]
                    if (problem := _not_removed(path))]
        try:
            self._lock.release(delete=True)
            if self.folder.exists() and not any(self.folder.iterdir()):
                self.folder.rmdir()
        except OSError as error:
            problems.append(str(error))
            self.close()
        if problems:
            logger.warning("the working files in %s could not all be removed (%s); they can be deleted", self.folder,
                           problems[0])

    def _working_files(self, last: Path) -> Iterator[Path]:
        for pattern in ("chunk_*.safetensors*", "chunk_*.mp4*", "final.mp4*", MANIFEST + safe_files.SUFFIX):
            yield from (path for path in self.folder.glob(pattern) if path != last)

    def _write(self, entries: list[dict], final: FinalFile | None) -> None:
        _Manifest(self.take, entries, final).write(self.folder / MANIFEST)
        self._entries, self.final = entries, final

    def _compare(self, problem: str) -> tuple[int, str]:
        for index, (entry, contract) in enumerate(zip(self._entries, self.contracts, strict=False)):
            if entry["contract"] != contract:
                return index, _changed(entry["contract"], contract)
            if not all(is_intact(self.folder / name, *expected) for name, expected in entry["files"].items()):
                return index, f"chunk {index + 1} is damaged on disk"
        return min(len(self._entries), self.chunks), problem

    def _say(self, problem: str) -> str:
        if self.finished == self.chunks:
            return f"all {self.chunks} chunks are finished: only the final file is to be written"
        if problem:
            anew = {0: f"all {self.chunks} chunks are", self.chunks - 1: f"chunk {self.chunks} is"}
            return f"{problem}: {anew.get(self.finished, f'chunks from {self.finished + 1} on are')} made again"
        if not self.finished:
            return f"starting with chunk 1 of {self.chunks}"
        return f"resuming at chunk {self.finished + 1} of {self.chunks}"


@dataclass
class _Manifest:
    """What a journal says of itself, as far as it is whole: a damaged line ends it, those before it stand."""
    take: str                      # the user's name for it
    entries: list[dict]            # a finished chunk each
    final: FinalFile | None = None
    problem: str = ""              # what is wrong with it, for the user

    def write(self, path: Path) -> None:
        lines: list[dict[str, Any]] = [{"format": FORMAT, "take": self.take},
                                       *({"chunk": entry} for entry in self.entries)]
        if self.final is not None:
            lines.append({"final": asdict(self.final)})
        text, total = "", ""
        for line in lines:
            total = digest_texts(total, json.dumps(line, sort_keys=True))
            text += json.dumps({**line, "sum": total}) + "\n"
        safe_files.replace(path, text.encode())

    @classmethod
    def read(cls, path: Path) -> "_Manifest":
        """Raises OSError where it is there and cannot be read."""
        if not path.exists():
            return cls("", [])
        written = path.read_bytes().splitlines()
        head, *lines = _whole_lines(written) or [{}]
        if "take" not in head:
            other = bool(written) and _parsed(written[0]).get("format", FORMAT) != FORMAT
            return cls("", [], problem="the journal is of another version of the pack" if other else
                       "the journal's manifest is damaged")
        final = next((FinalFile(**line["final"]) for line in lines if "final" in line), None)
        return cls(head["take"], [line["chunk"] for line in lines if "chunk" in line], final,
                   "" if len(lines) + 1 == len(written) else "the journal's manifest is damaged")


def _whole_lines(written: list[bytes]) -> list[dict]:
    """The leading lines that are what was once written, in the order in which they were written."""
    lines: list[dict] = []
    total = ""
    for text in written:
        line = _parsed(text)
        claimed = line.pop("sum", None)
        total = digest_texts(total, json.dumps(line, sort_keys=True))
        if claimed != total:
            break
        lines.append(line)
    return lines


def _parsed(text: bytes) -> dict:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}


def unfinished_beside(folder: Path, take: str, contract: Mapping[str, str]) -> str:
    """A sentence on the youngest other unfinished take beside `folder` that the user called `take`, or "".

    For a take that starts from its first chunk: it names what changed in `contract` (of the first chunk) and where
    the other stays.
    """
    others = []
    for path in folder.parent.glob(f"*/{MANIFEST}"):
        with suppress(OSError):   # another run has just finished it
            found, age = _Manifest.read(path), path.stat().st_mtime
            if path.parent != folder and found.take == take and found.entries:
                others.append((age, path.parent, found.entries))
    if not others:
        return ""
    _, place, entries = max(others, key=lambda other: other[0])
    return (f"{_changed(entries[0]['contract'], contract)}: this is a fresh take. The unfinished one, {len(entries)} "
            f"chunks, stays in {place}; delete that folder if you do not want it back")


def _not_removed(path: Path) -> str:
    """Delete a file; why it could not be, or ""."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return ""


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in [*now, *before] if before.get(name) != now.get(name)]
    return f"{', '.join(dict.fromkeys(names))} changed"
