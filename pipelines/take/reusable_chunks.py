"""The folder of a take, found by what the take is and not by its name, and chunks that another take has in common.

Takes that differ in anything never share a folder. A changed script, a longer speech or another last picture starts a
folder of its own with copies of the chunks before the change, and the take they come from keeps its own.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..safe_files import writing
from .journal import Journal
from .manifest import MANIFEST, digest_texts
from .take_folders import COPY

Fingerprints = Sequence[Mapping[str, str]]


def take_folder(takes: Path, name: str, fingerprints: Fingerprints) -> Path:
    """Below `takes`, of the take with these fingerprints: the one it has, whatever it was called then, or `name` and a
    digest."""
    mark = digest_texts(*(text for chunk in fingerprints for pair in sorted(chunk.items()) for text in pair))[:16]
    return next(takes.glob(f"*-{mark}"), takes / f"{name}-{mark}")


def copy_reusable_chunks(folder: Path, fingerprints: Fingerprints, take: str) -> str:
    """Give a take that has no chunk yet those of the take beside it that has most of them; says so, or "" for none.

    `take`: the user's name for it. Raises NotWritten if the disk refuses. They are copied beside `folder` and come
    there all at once: a run that dies in between is gone on with.
    """
    draft = folder.with_name(folder.name + COPY)
    others = [other for other in folder.parent.glob("*") if other not in (folder, draft) and other.is_dir()]
    if folder.exists() or not others:
        return ""
    best = max(others, key=lambda other: _in_common(other, fingerprints))
    if not _in_common(best, fingerprints):
        return ""
    with Journal.open(best, fingerprints) as kept, Journal.open(draft, fingerprints, take) as journal:
        journal.copy_from(kept)
    with writing(folder):
        draft.replace(folder)
    return f"{kept.note}; the chunks before are copies of those in {best}"


def _in_common(folder: Path, fingerprints: Fingerprints) -> int:
    """How many leading chunks of the take in `folder` are these; 0 where another run holds it or it is none."""
    if not (folder / MANIFEST).exists():
        return 0
    try:
        with Journal.open(folder, fingerprints) as kept:
            return kept.finished
    except OSError:
        return 0
