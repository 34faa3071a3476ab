"""One run per folder: a lock of the operating system, which ends with its owner however that ends.

What the file holds does not matter, so there is nothing that could be damaged.
"""
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..safe_files import NotWritten, writing

logger = logging.getLogger("lodestar")
NAME = "lock"


class FolderBusy(OSError):
    """Another run holds the folder."""


class FolderLock:
    """Held from its making until `release`. Raises FolderBusy where another has it for longer than `patience_seconds`,
    or NotWritten where the disk refuses the file."""

    def __init__(self, folder: Path, patience_seconds: float = 0):
        self._path = folder / NAME
        until = time.monotonic() + patience_seconds
        while True:
            with writing(self._path):
                self._file = open(self._path, "ab")
            try:
                _take(self._file.fileno())
            except BlockingIOError:
                self._file.close()
                if time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                raise FolderBusy(f"{folder} is in use by another run: wait for it or cancel it, then queue again"
                                 ) from None
            if self._is_still_there():
                return
            self._file.close()   # its last owner deleted it between our two calls

    def release(self, delete: bool = False) -> None:
        """Let go; `delete` the file as well, while nobody else can have it where the system allows that."""
        if delete and sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        self._file.close()
        if delete and sys.platform == "win32":
            with suppress(PermissionError):   # the next owner has it open
                self._path.unlink(missing_ok=True)

    def _is_still_there(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        return False


def is_held(folder: Path) -> bool:
    """Whether a run has the folder at the moment; no lock is made where there is none."""
    if not (folder / NAME).exists():
        return False
    try:
        FolderLock(folder).release()
    except FolderBusy:
        return True
    except NotWritten:   # a disk that cannot be written: no run is on it
        return False
    return False


def _take(handle: int) -> None:
    """Raises BlockingIOError if another has it. A file system that knows no locks is taken as it is."""
    if sys.platform == "win32":
        import msvcrt
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:   # ENOLCK, EOPNOTSUPP: some network disks
            logger.warning("this disk knows no locks (%s): do not queue the same take in two servers", error)
