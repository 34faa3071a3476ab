"""The journal of a take: finished chunks on disk, so that a crash or a cancel costs one chunk and a change only what
it affects.

A folder per take holds `chunk_0003.safetensors` (the chunk's new latents), `chunk_0003.mp4` (the frames that became
ready with it), of the newest chunk `state_0003.safetensors` (where the next needs more than latents and frames) and
`manifest.jsonl`: a line of what the take is, a line per finished chunk, and one of the final file once there is one.
Every file is written whole, the manifest last, and is checked by size and checksum when the journal is opened. What it
says is finished can be used.
"""
import copy
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from .. import safe_files
from ..safe_files import NotReadable, is_intact, reading, size_and_sum, writing
from .folder_lock import FolderLock
from .manifest import MANIFEST, Entry, FileSum, FinalFile, Manifest, changes, digest_texts
from .take_folders import working_files

logger = logging.getLogger("lodestar")


class Journal:
    """Use as `with Journal.open(folder, fingerprints) as journal:`. Holds the folder's lock until closed."""

    folder: Path
    note: str                 # what was found, for the user: "resuming at chunk 3 of 7"
    finished: int             # leading chunks that are finished, intact and still what was asked for
    final: FinalFile | None   # the video of these chunks, where it was recorded
    fingerprints: list[dict[str, str]]   # per chunk, everything that determines it, by name
    take: str                 # the user's name for it; once all chunks are finished, the one it was made under

    def __init__(self, folder: Path, fingerprints: Sequence[Mapping[str, str]], lock: FolderLock, take: str = "",
                 about: Mapping[str, Any] | None = None):
        self.folder = folder
        self._lock = lock
        self._about = dict(about or {})
        self.fingerprints = [dict(fingerprint) for fingerprint in fingerprints]
        with reading(folder):
            found = Manifest.read(folder / MANIFEST)
            self._entries, self.final = found.entries, found.final
            self.finished, problem = self._resumable(*self._compare(found.problem))
        self.take = found.take if self.finished == self.chunks else take
        self.note = self._say(problem)

    @classmethod
    def open(cls, folder: Path, fingerprints: Sequence[Mapping[str, str]], take: str = "",
             about: Mapping[str, Any] | None = None, patience_seconds: float = 0) -> "Journal":
        """Open or start the journal in `folder`. `fingerprints`: per chunk, everything that determines it, by name.

        Names are shown to the user when they change ("prompt changed: chunks from 4 on are made again"); values are
        compared as text. A changed chunk invalidates all later ones, which continue from it. Nothing is deleted here
        but drafts. `take`: the user's name for it; `about`: what else the manifest says of it to people, as JSON.
        Raises FolderBusy if another run holds the folder for longer than `patience_seconds` (one that looks for
        reusable chunks holds it for a moment), NotWritten if the folder cannot be made, NotReadable if it cannot be
        read.
        """
        folder = Path(folder)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as unless_opened:
            lock = FolderLock(folder, patience_seconds)
            unless_opened.callback(lock.release)
            for draft in folder.glob("*" + safe_files.SUFFIX):
                safe_files.remove(draft)
            journal = cls(folder, fingerprints, lock, take, about)
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
        return len(self.fingerprints)

    @property
    def finished_latents(self) -> int:
        return sum(self.pieces)

    @property
    def pieces(self) -> list[int]:
        """How many latents each piece of the finished chunks has, as they were pushed to the decoder."""
        return [latents for entry in self._entries[:self.finished] for latents in entry.pieces]

    @property
    def finished_frames(self) -> int:
        return sum(entry.frames for entry in self._entries[:self.finished])

    def until(self, chunks: int) -> "Journal":
        """The same as it was when so many chunks were finished, to read."""
        earlier = copy.copy(self)
        earlier.finished = chunks
        return earlier

    def frames_of(self, index: int) -> int:
        """How many frames became ready with a finished chunk."""
        return self._entries[index].frames

    def has_request(self, request: str) -> bool:
        """Whether a file of that name, STOP or KEEP, was put into the folder."""
        return (self.folder / request).exists()

    def withdraw(self, request: str) -> None:
        safe_files.remove(self.folder / request)

    def content(self, made_of: str) -> str:
        """A digest of all chunks (fingerprints, latents, segments) and of what else the final file is made of."""
        chunks = [[entry.fingerprint, entry.files] for entry in self._entries[:self.chunks]]
        return digest_texts(json.dumps(chunks, sort_keys=True), made_of)

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

    def commit(self, index: int, pieces: Sequence[Tensor], frames: int, state: Mapping[str, Tensor] | None = None
               ) -> None:
        """Make chunk `index` finished: its new latents (1, C, t, h, w) in pieces, and its draft if that holds `frames`.

        `state`: what the next chunk needs beside latents and frames. Chunks after this one are forgotten: they followed
        another chunk. Raises NotWritten if the disk refuses.
        """
        data = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in (state or {}).items()})
        entry = Entry(self.fingerprints[index], [piece.shape[2] for piece in pieces], frames, {},
                      [len(data), hashlib.sha256(data).hexdigest()] if state else None)
        is_new = state and (not index or entry.state != self._entries[index - 1].state)
        self._finish(index, torch.cat(list(pieces), 2), entry, data if is_new else None)

    def copy_from(self, other: "Journal") -> None:
        """Copies of the chunks that `other`, opened with the same fingerprints, has finished and this has not. Raises
        NotWritten."""
        start = self.finished_latents
        for index, entry in list(enumerate(other._entries[:other.finished]))[self.finished:]:
            if entry.frames:
                with writing(self.draft(index)):
                    shutil.copyfile(other.folder / f"chunk_{index:04}.mp4", self.draft(index))
                    safe_files.sync(self.draft(index))
            is_newest = index + 1 == other.finished < other.chunks
            with reading(other.folder):
                state = other._state_path(index).read_bytes() if is_newest and entry.state else None
            self._finish(index, other.latents(start, start + entry.latents), entry, state)
            start += entry.latents

    def _finish(self, index: int, latents: Tensor, entry: Entry, state: bytes | None) -> None:
        """Write the files of chunk `index`, the manifest last: a run that dies in between leaves what was there."""
        if index != self.finished:
            raise ValueError(f"chunk {index} cannot be committed: the next unfinished chunk is {self.finished}")
        self.check_present()
        data = save({"latents": latents.detach().cpu().contiguous()})
        files: dict[str, FileSum] = {
            f"chunk_{index:04}.safetensors": [len(data), hashlib.sha256(data).hexdigest()]}
        with writing(self.folder), ExitStack() as unless_written:
            unless_written.callback(safe_files.remove, self.draft(index))
            safe_files.replace(self.folder / f"chunk_{index:04}.safetensors", data)
            if entry.frames:
                files[f"chunk_{index:04}.mp4"] = size_and_sum(self.draft(index))
                self.draft(index).replace(self.folder / f"chunk_{index:04}.mp4")
            if state is not None:
                safe_files.replace(self._state_path(index, entry), state)
            self._write([*self._entries[:index], replace(entry, files=files)], None)
            unless_written.pop_all()
        self.finished = index + 1
        if state is not None:
            for old in self.folder.glob("state_*.safetensors"):
                if old != self._state_path(index):
                    safe_files.remove(old)

    def state(self) -> dict[str, Tensor]:
        """What the last finished chunk left for the next beside latents and frames; {} if nothing. Raises NotReadable.
        """
        if not self.finished or self._entries[self.finished - 1].state is None:
            return {}
        path = self._state_path(self.finished - 1)
        try:
            with reading(path):
                return load(path.read_bytes())
        except SafetensorError as error:
            raise _damage_error(path, error) from error

    def _state_path(self, index: int, entry: Entry | None = None) -> Path:
        """A state that stays the same is written once, with the first chunk that left it. `entry`: the chunk's, where
        it is not yet among the others."""
        state = (entry or self._entries[index]).state
        while index and self._entries[index - 1].state == state:
            index -= 1
        return self.folder / f"state_{index:04}.safetensors"

    def record(self, final: FinalFile) -> None:
        """Remember which file is, or is about to be, the video of this take. Raises NotWritten."""
        with writing(self.folder):
            self._write(self._entries, final)

    def recall(self, content: str) -> Path | None:
        """The take's video, where it was recorded, is intact and was made of `content`: then all chunks are finished,
        whatever the end of an earlier run already removed of them; only the last one's latents are left for sure."""
        entries = self._entries[:self.chunks]
        if self.final is None or self.final.content != content or \
                [entry.fingerprint for entry in entries] != self.fingerprints:
            return None
        name = f"chunk_{self.chunks - 1:04}.safetensors"
        with reading(self.folder):
            whole = is_intact(self.folder / name, *entries[-1].files[name]) and is_intact(
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
            low, high = max(first - start, 0), min(end - start, entry.latents)
            if low < high:
                path = self.folder / f"chunk_{index:04}.safetensors"
                try:
                    with reading(path), safe_open(path, framework="pt") as file:
                        parts.append(file.get_slice("latents")[:, :, low:high])
                except SafetensorError as error:
                    raise _damage_error(path, error) from error
            start += entry.latents
        return torch.cat(parts, dim=2)

    def segments(self) -> list[Path]:
        """The finished video segments in order. A chunk of one latent may have none."""
        return [self.folder / f"chunk_{index:04}.mp4"
                for index, entry in enumerate(self._entries[:self.finished]) if entry.frames]

    def discard(self) -> None:
        """After the final file is written: remove what the journal wrote, and its folder if nothing else is in it.

        In an order in which a run that dies here has either its manifest and what `recall` needs, or is over. What
        cannot be removed stays, and the log says so: the video is safe.
        """
        last = self.folder / f"chunk_{self.chunks - 1:04}.safetensors"
        others = [path for path in working_files(self.folder) if path != last]
        problems = [problem for path in [*others, self.folder / MANIFEST, last] if (problem := _not_removed(path))]
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

    def _write(self, entries: list[Entry], final: FinalFile | None) -> None:
        Manifest(self.take, entries, final, about=self._about).write(self.folder / MANIFEST)
        self._entries, self.final = entries, final

    def _compare(self, problem: str) -> tuple[int, str]:
        """How many leading chunks are whole and what was asked for, and why the next is not."""
        for index, (entry, fingerprint) in enumerate(zip(self._entries, self.fingerprints, strict=False)):
            if entry.fingerprint != fingerprint:
                return index, changes(entry.fingerprint, fingerprint)
            if not all(is_intact(self.folder / name, *expected) for name, expected in entry.files.items()):
                return index, f"chunk {index + 1} is damaged on disk"
        return min(len(self._entries), self.chunks), problem

    def _resumable(self, whole: int, problem: str) -> tuple[int, str]:
        """Of `whole` chunks those behind which the next can be made: the newest state alone is on disk."""
        if whole == self.chunks:
            return whole, problem
        finished = next(count for count in range(whole, -1, -1) if not count or self._has_state(count - 1))
        if finished == whole:
            return whole, problem
        gone = f"what chunk {whole} left for the next one is not on disk"
        return finished, f"{problem}, and {gone}" if problem else gone

    def _has_state(self, index: int) -> bool:
        expected = self._entries[index].state
        return expected is None or is_intact(self._state_path(index), *expected)

    def _say(self, problem: str) -> str:
        if self.finished == self.chunks:
            return f"all {self.chunks} chunks are finished: only the final file is to be written"
        if problem:
            chunks = {0: f"all {self.chunks} chunks are", self.chunks - 1: f"chunk {self.chunks} is"}
            return f"{problem}: {chunks.get(self.finished, f'chunks from {self.finished + 1} on are')} made again"
        if not self.finished:
            return f"starting with chunk 1 of {self.chunks}"
        return f"resuming at chunk {self.finished + 1} of {self.chunks}"


def _not_removed(path: Path) -> str:
    """Delete a file; why it could not be, or ""."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return ""


def _damage_error(path: Path, error: SafetensorError) -> NotReadable:
    return NotReadable(f"{path} was damaged while the take was made ({error}); queue again, and it is made again from "
                       "there")
