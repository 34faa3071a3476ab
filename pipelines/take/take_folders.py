"""The folders of takes as a person meets them: what lies there, how far each is, how big, and how to be rid of one.

Knows the journal's files and not what is in them, so that it needs neither torch nor ComfyUI.
"""
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import safe_files
from ..safe_files import is_intact
from .folder_lock import FolderLock, is_held
from .manifest import MANIFEST, Entry, FinalFile, Manifest

TAKES = "lodestar_takes"    # below ComfyUI's output folder
CLIP = "clip.mp4"           # what a take goes on from, at its size and rate, made again by each run
STOP, KEEP = REQUESTS = ("stop", "keep")     # empty files that anyone may put into the folder while the take is made
NO_MANIFEST = "it has no manifest"
STOPS = ".stops"            # ends the name of a file beside the folders: how often takes of a name were stopped
COPY = ".copy"              # ends the name of a folder whose chunks are still being copied from another take
PATTERNS = ("chunk_*.safetensors*", "chunk_*.mp4*", "state_*.safetensors*", "final.mp4*", CLIP + "*",
            MANIFEST + safe_files.SUFFIX, *REQUESTS)


def working_files(folder: Path) -> Iterator[Path]:
    """What a journal writes into its folder, but for its manifest and its lock."""
    for pattern in PATTERNS:
        yield from folder.glob(pattern)


@dataclass(frozen=True)
class TakeFolder:
    """A take's folder as it was when it was looked at; nothing in it was changed by that."""
    path: Path
    take: str                 # the user's name for it, its filename_prefix
    about: dict[str, Any]     # chunks, frames, fps, width, height, graph, as far as they are known
    entries: list[Entry]      # finished chunks that the manifest names
    final: FinalFile | None
    problem: str              # what is wrong with the manifest, or ""
    size: int                 # bytes of all files in it
    changed: float            # seconds since the epoch, of its newest file
    running: bool             # a run holds it now

    @classmethod
    def read(cls, path: Path) -> "TakeFolder":
        """Raises OSError where it cannot be read."""
        files = [file.stat() for file in path.iterdir() if file.is_file()]
        found = Manifest.read(path / MANIFEST)
        problem = found.problem or ("" if (path / MANIFEST).exists() else NO_MANIFEST)
        return cls(path, found.take, found.about, found.entries, found.final, problem,
                   sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0.0),
                   is_held(path))

    @property
    def chunks(self) -> int | None:
        """Of the whole take; None for one of an older version of the pack."""
        chunks = self.about.get("chunks")
        return chunks if isinstance(chunks, int) else None

    @property
    def frames(self) -> int:
        """That are finished."""
        return sum(entry.frames for entry in self.entries)

    @property
    def state(self) -> str:
        """running, half a copy, empty (it ended before its first chunk), damaged, finished, or unfinished."""
        if self.running:
            return "running"
        if self.path.name.endswith(COPY):
            return "half a copy"
        if self.problem and not self.entries:
            return "empty" if self.problem == NO_MANIFEST else "damaged"
        whole = self.final is not None or len(self.entries) == self.chunks
        return "finished" if whole else "unfinished"

    def damaged_files(self) -> list[str]:
        """Names of the files that are not what the manifest says; reads all of them."""
        return [name for entry in self.entries for name, expected in entry.files.items()
                if not is_intact(self.path / name, *expected)]


def find_takes(takes: Path) -> list[TakeFolder]:
    """Of every folder in `takes`, the newest first. One that a run has just removed is left out."""
    found = []
    for path in takes.iterdir() if takes.is_dir() else ():
        if path.is_dir():
            with suppress(FileNotFoundError):
                found.append(TakeFolder.read(path))
    return sorted(found, key=lambda one: one.changed, reverse=True)


def find_stray_stops(takes: Path) -> list[Path]:
    """The files beside the takes that count the stops of a name of which no take lies there any more."""
    names = {path.name.rpartition("-")[0] for path in takes.iterdir() if path.is_dir()} if takes.is_dir() else set()
    return sorted(path for path in takes.glob("*" + STOPS) if path.is_file() and path.stem not in names)


def remove_take(folder: Path) -> list[str]:
    """Remove what a journal wrote into `folder`, the manifest last, and the folder unless somebody else's files are in
    it: their names are given. Raises FolderBusy where a run holds it, and OSError where a file cannot be removed."""
    lock = FolderLock(folder)
    try:
        for path in [*working_files(folder), folder / MANIFEST]:
            path.unlink(missing_ok=True)
    except OSError:
        lock.release()
        raise
    lock.release(delete=True)
    left = sorted(path.name for path in folder.iterdir())
    if not left:
        folder.rmdir()
    return left
