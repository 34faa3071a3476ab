"""Files that are whole or not there, and errors that say which file, why, and what to do.

A file is written under another name, synced and renamed; a finished one gets a name that nobody has by a link, which
the system makes or refuses at once, however many runs want that name in the same instant.
"""
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SUFFIX = ".part"   # of what is not finished yet
BLOCK_BYTES = 1 << 20


class NotWritten(OSError):
    """The disk refused a file (full, quota, permission). What was finished before is untouched."""


class NotReadable(OSError):
    """A file that was there is gone, or may not be read any more."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns any OSError inside into a NotWritten that names `path`, the reason and the remedy."""
    try:
        yield
    except (NotWritten, NotReadable):
        raise
    except OSError as error:
        raise NotWritten(f"{path} could not be written ({error}{_reason(path, error)}); "
                         f"{_remedy(path, error)}, then queue again") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns any OSError inside into a NotReadable that names `path`, the reason and the remedy."""
    try:
        yield
    except (NotWritten, NotReadable):
        raise
    except OSError as error:
        raise NotReadable(f"{path} cannot be read ({error}): it was deleted, moved or locked away, or its disk is "
                          "gone. Put it back or make it readable, then queue again; what is missing is made again"
                          ) from error


def _reason(path: Path, error: OSError) -> str:
    """What the system's own words for a full disk do not say."""
    if error.errno == errno.ENOSPC and hasattr(os, "statvfs"):
        found = os.statvfs(_nearest(path))
        if found.f_files and not found.f_favail:
            return ": no free inodes, the disk holds too many files"
    return ""


def _remedy(path: Path, error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not path.parent.is_dir():
        return f"{path.parent} was deleted or moved: put it back"
    if isinstance(error, IsADirectoryError):
        return "a folder is where the file should be: remove it"
    return "see to the disk's free space and permissions"


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if os.path.exists(parent))


def sync(path: Path) -> None:
    """Wait until the file's bytes are on the disk itself."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Write the file at once: after a crash or on a full disk it is the old one or the new one."""
    draft = path.with_name(path.name + SUFFIX)
    try:
        draft.write_bytes(data)
        sync(draft)
        os.replace(draft, path)
    except OSError:
        remove(draft)
        raise


def remove(path: Path) -> None:
    """Delete a draft, where it is there and can be deleted: what went wrong before says more than this would."""
    with suppress(OSError):
        path.unlink()


def place(source: Path, target: Path) -> bool:
    """Give the finished file `source` the name `target` as well; False, and nothing done, where that name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError:   # another disk, or one that knows no links; whatever else it is, copying says
        return _copy(source, target)
    return True


def _copy(source: Path, target: Path) -> bool:
    with ExitStack() as unless_whole:
        try:
            copy = open(target, "xb")
        except FileExistsError:
            return False
        unless_whole.callback(remove, target)
        with copy, open(source, "rb") as original:
            shutil.copyfileobj(original, copy, BLOCK_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
            written = os.fstat(copy.fileno())
        unless_whole.pop_all()
    with suppress(FileNotFoundError):   # another run may have taken it for its own unfinished copy
        return os.path.samestat(written, os.stat(target))
    return False


def is_begun_copy(part: Path, whole: Path) -> bool:
    """Whether `part` is what a copy of `whole` leaves behind that was cut short: its first bytes, or none yet."""
    if not part.is_file() or part.stat().st_size >= whole.stat().st_size:
        return False
    with open(part, "rb") as begun, open(whole, "rb") as finished:
        return all(block == finished.read(len(block)) for block in iter(lambda: begun.read(BLOCK_BYTES), b""))


def size_and_sum(path: Path) -> list:
    """[bytes, SHA-256 in hex] of a file."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            total.update(block)
        return [file.tell(), total.hexdigest()]


def is_intact(path: Path, size: int, checksum: str) -> bool:
    return path.is_file() and path.stat().st_size == size and size_and_sum(path)[1] == checksum
