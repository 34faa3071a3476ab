"""The journal of a take: finished chunks on disk, so that a crash or a cancel costs one chunk and a change only what
it affects.

A folder per take holds `chunk_0003.safetensors` (the chunk's new latents), `chunk_0003.mp4` (the frames that became
ready with it) and `manifest.json`. Every file is written under another name, synced and renamed, the manifest last, and
is checked by size and checksum when the journal is opened: what the manifest says is finished can be used.
"""
import glob
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

FORMAT = 1  # of the manifest; another number is not read


class NotWritten(OSError):
    """The disk refused a file (full, quota, permission). What was finished before is untouched."""


class JournalBusy(OSError):
    """Another run holds the take's folder."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns any OSError inside into a NotWritten that names `path` and the reason."""
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        raise NotWritten(f"{path} could not be written ({error}); see to the disk's free space and permissions, then "
                         "queue again") from error


def sync(path: Path) -> None:
    """Wait until the file's bytes are on the disk itself."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def digest(*parts: str | bytes | Tensor) -> str:
    """SHA-256 of the parts in order, hex: the way to put a tensor, a file or a text into a contract."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            values = part.detach().cpu().contiguous()
            head, data = f"{values.dtype}{tuple(values.shape)}", values.view(-1).view(torch.uint8).numpy().data
        else:
            head, data = type(part).__name__, part.encode() if isinstance(part, str) else part
        total.update(f"{head}:{len(data)}:".encode())
        total.update(data)
    return total.hexdigest()


class Journal:
    """Use as `with Journal.open(folder, contracts) as journal:`. Holds the folder's lock until closed."""

    folder: Path
    note: str      # what was found, for the user: "resuming at chunk 3 of 7"
    finished: int  # leading chunks that are finished, intact and still what was asked for

    def __init__(self, folder: Path, contracts: Sequence[Mapping[str, str]], lock: sqlite3.Connection):
        self.folder = folder
        self._lock = lock
        self._contracts = [dict(contract) for contract in contracts]
        self._entries, problem = _read_manifest(folder / "manifest.json")
        self.finished, problem = self._compare(problem)
        self.note = self._say(problem)

    @classmethod
    def open(cls, folder: Path, contracts: Sequence[Mapping[str, str]]) -> "Journal":
        """Open or start the journal in `folder`. `contracts`: per chunk, everything that determines it, by name.

        Names are shown to the user when they change ("prompt changed: chunks from 4 on are made anew"); values are
        compared as text. A changed chunk invalidates all later ones, which continue from it. Nothing is deleted here.
        Raises JournalBusy if another run holds the folder, NotWritten if the folder cannot be made.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as unless_opened:
            lock = unless_opened.enter_context(closing(_take_lock(folder)))
            journal = cls(folder, contracts, lock)
            unless_opened.pop_all()
        return journal

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        """Close it; a take of which no chunk was ever finished leaves nothing behind."""
        if (self.folder / "manifest.json").exists():
            self.close()
        else:
            self.discard()

    def close(self) -> None:
        self._lock.close()

    @property
    def chunks(self) -> int:
        return len(self._contracts)

    @property
    def finished_latents(self) -> int:
        return sum(entry["latents"] for entry in self._entries[:self.finished])

    @property
    def finished_frames(self) -> int:
        return sum(entry["frames"] for entry in self._entries[:self.finished])

    def draft(self, index: int) -> Path:
        """Where the segment of chunk `index` is written before it is committed."""
        return self.folder / f"chunk_{index:04}.mp4.part"

    def commit(self, index: int, latents: Tensor, frames: int) -> None:
        """Make chunk `index` finished: its new latents (1, C, t, h, w), and its draft if that holds any `frames`.

        Chunks after it are forgotten: they followed another chunk. Raises NotWritten if the disk refuses.
        """
        if index != self.finished:
            raise ValueError(f"chunk {index} cannot be committed: the next unfinished chunk is {self.finished}")
        data = save({"latents": latents.detach().cpu().contiguous()})
        files = {f"chunk_{index:04}.safetensors": [len(data), hashlib.sha256(data).hexdigest()]}
        with writing(self.folder):
            _replace(self.folder / f"chunk_{index:04}.safetensors", data)
            if frames:
                files[f"chunk_{index:04}.mp4"] = _size_and_sum(self.draft(index))
                os.replace(self.draft(index), self.folder / f"chunk_{index:04}.mp4")
            entry = {"contract": self._contracts[index], "latents": latents.shape[2], "frames": frames, "files": files}
            entries = [*self._entries[:index], entry]
            _replace(self.folder / "manifest.json",
                     json.dumps({"format": FORMAT, "chunks": entries}, indent=1).encode())
        self._entries, self.finished = entries, index + 1

    def latents(self, first: int, end: int) -> Tensor:
        """Latents `first` to `end` (exclusive) of the take, (1, C, t, h, w), from as many chunks as it takes."""
        parts, start = [], 0
        for index, entry in enumerate(self._entries[:self.finished]):
            low, high = max(first - start, 0), min(end - start, entry["latents"])
            if low < high:
                with safe_open(self.folder / f"chunk_{index:04}.safetensors", framework="pt") as file:
                    parts.append(file.get_slice("latents")[:, :, low:high])
            start += entry["latents"]
        return torch.cat(parts, dim=2)

    def segments(self) -> list[Path]:
        """The finished video segments in order. A chunk of one latent may have none."""
        return [self.folder / f"chunk_{index:04}.mp4"
                for index, entry in enumerate(self._entries[:self.finished]) if entry["frames"]]

    def discard(self) -> None:
        """After the final file is written: remove what the journal wrote, and its folder if nothing else is in it."""
        for pattern in ("manifest.json*", "chunk_*.safetensors*", "chunk_*.mp4*"):
            for path in self.folder.glob(pattern):
                path.unlink()
        self.close()
        (self.folder / "lock").unlink(missing_ok=True)
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _compare(self, problem: str) -> tuple[int, str]:
        for index, (entry, contract) in enumerate(zip(self._entries, self._contracts, strict=False)):
            if entry["contract"] != contract:
                return index, _changed(entry["contract"], contract)
            if not all(_intact(self.folder / name, *expected) for name, expected in entry["files"].items()):
                return index, f"chunk {index + 1} is damaged on disk"
        return min(len(self._entries), self.chunks), problem

    def _say(self, problem: str) -> str:
        if problem:
            anew = {0: f"all {self.chunks} chunks are", self.chunks - 1: f"chunk {self.chunks} is"}
            return f"{problem}: {anew.get(self.finished, f'chunks from {self.finished + 1} on are')} made anew"
        if not self.finished:
            return f"starting with chunk 1 of {self.chunks}"
        if self.finished == self.chunks:
            return f"all {self.chunks} chunks are finished: only the final file is to be written"
        return f"resuming at chunk {self.finished + 1} of {self.chunks}"


def unfinished_beside(folder: Path, name: str, contract: Mapping[str, str]) -> str:
    """A sentence on the youngest other unfinished take called `name-...` beside `folder`, or "" where there is none.

    For a take that starts afresh: it names what changed in `contract` (of the first chunk) and where the other stays.
    """
    others = [path for path in folder.parent.glob(f"{glob.escape(name)}-*/manifest.json") if path.parent != folder]
    if not others:
        return ""
    youngest = max(others, key=lambda path: path.stat().st_mtime)
    entries, _ = _read_manifest(youngest)
    if not entries:
        return ""
    return (f"{_changed(entries[0]['contract'], contract)}: this is a fresh take. The unfinished one, {len(entries)} "
            f"chunks, stays in {youngest.parent}; delete that folder if you do not want it back")


def _take_lock(folder: Path) -> sqlite3.Connection:
    """SQLite's file lock: the one lock in the standard library that works on every system and dies with its owner."""
    lock = sqlite3.connect(folder / "lock", timeout=0, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        raise JournalBusy(f"{folder} is in use by another run ({error}): wait for it, cancel it, or give this take "
                          "another name") from error
    return lock


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = [name for name in [*now, *before] if before.get(name) != now.get(name)]
    return f"{', '.join(dict.fromkeys(names))} changed"


def _read_manifest(path: Path) -> tuple[list[dict], str]:
    if not path.exists():
        return [], ""
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        return [], "the journal's manifest is damaged"
    if manifest.get("format") != FORMAT:
        return [], "the journal is of another version of the pack"
    return manifest["chunks"], ""


def _intact(path: Path, size: int, checksum: str) -> bool:
    return path.exists() and path.stat().st_size == size and _size_and_sum(path)[1] == checksum


def _size_and_sum(path: Path) -> list:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
        return [file.tell(), total.hexdigest()]


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(data)
    sync(draft)
    os.replace(draft, path)
