"""The one file that a take ends in: whenever the process dies, the next run gives that file and makes no second one.

It is joined in the take's own folder, recorded in the journal (name, checksum, what it was made of), and only then gets
its name, which no other run can take in the same instant. What a run that died left is known by its checksum.
"""
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from ..safe_files import is_begun_copy, is_intact, place, reading, remove, size_and_sum, writing
from .journal import Journal
from .manifest import FinalFile

logger = logging.getLogger("lodestar")
JOINED = "final.mp4"


def publish(journal: Journal, made_of: str, join: Callable[[Path], object],
            names: Callable[[], Iterator[Path]]) -> Path:
    """Write the take's video under the first free one of `names()` and return where it is.

    join(path) writes the whole video to `path`. `made_of` is a digest of what determines it beside the chunks (name,
    sound). Raises NotWritten with everything finished still in the journal.
    """
    joined, earlier, content = journal.folder / JOINED, journal.final, journal.content(made_of)
    with reading(journal.folder):
        whole = earlier is not None and earlier.content == content and is_intact(joined, earlier.size, earlier.checksum)
    if not whole:
        join(joined)
    size, checksum = size_and_sum(joined)
    if whole and earlier is not None and is_begun_copy(Path(earlier.path), joined):
        remove(Path(earlier.path))
    for path in names():
        journal.record(FinalFile(str(path), content, size, checksum))
        with writing(path):
            if place(joined, path):
                remove(joined)
                return path
    raise ValueError("there was no name for the final file")


def publish_part(journal: Journal, join: Callable[[Path], object], names: Callable[[], Iterator[Path]]) -> Path:
    """Write the video of the chunks so far under the first free one of `names()`; the take can still be gone on with,
    so nothing is recorded. Raises NotWritten."""
    joined = journal.folder / JOINED
    join(joined)
    for path in names():
        with writing(path):
            if place(joined, path):
                remove(joined)
                return path
    raise ValueError("there was no name for the file")


def find_published(journal: Journal, made_of: str) -> Path | None:
    """The video that an earlier run of this take gave its name before it ended or died; None where there is none."""
    path = journal.recall(journal.content(made_of))
    if path is not None:
        logger.info("nothing changed since this take was finished: its video is %s", path)
        remove(journal.folder / JOINED)
    return path
