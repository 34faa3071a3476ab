"""A clock that was set back, or forward: nothing of a take is decided by a time."""
import os
import time

import pytest
import torch
from lodestar.pipelines.take.folder_lock import FolderBusy, FolderLock
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.reusable_chunks import copy_reusable_chunks, take_folder

pytestmark = pytest.mark.once

FINGERPRINTS = [{"seed": str(index)} for index in range(4)]
YEAR = 365 * 86400.0


def make(folder, fingerprints=FINGERPRINTS, stop=4):
    with Journal.open(folder, fingerprints) as journal:
        for index in range(journal.finished, stop):
            journal.draft(index).write_bytes(b"video")
            journal.commit(index, [torch.full((1, 4, 2, 3, 3), index)], frames=8, state={"next": torch.ones(index + 1)})


@pytest.fixture(params=[-YEAR, YEAR, -1e9], ids=["a year back", "a year on", "before the files"])
def set_clock(request, monkeypatch, tmp_path):
    """Set the clock of this process, and the times of the files under a folder the other way."""
    now, sleep_clock = time.time(), time.monotonic

    def change(folder):
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (max(now - request.param, 0),) * 2)
        monkeypatch.setattr(time, "time", lambda: now + request.param)
        assert time.monotonic is sleep_clock
    return change


def test_a_take_is_gone_on_with(tmp_path, set_clock):
    make(tmp_path / "a", stop=2)
    set_clock(tmp_path)
    with Journal.open(tmp_path / "a", FINGERPRINTS) as journal:
        assert journal.finished == 2 and torch.equal(journal.state()["next"], torch.ones(2))
    make(tmp_path / "a")
    with Journal.open(tmp_path / "a", FINGERPRINTS) as journal:
        assert journal.finished == 4 and torch.equal(journal.latents(6, 8), torch.full((1, 4, 2, 3, 3), 3))


def test_chunks_of_another_take_are_used_again(tmp_path, set_clock):
    with Journal.open(tmp_path / "old", FINGERPRINTS) as journal:     # without a state
        for index in range(3):
            journal.draft(index).write_bytes(b"video")
            journal.commit(index, [torch.zeros(1, 4, 2, 3, 3)], frames=8)
    set_clock(tmp_path)
    changed = [*FINGERPRINTS[:2], {"seed": "x"}]
    folder = take_folder(tmp_path, "new", changed)
    assert "copies of those in" in copy_reusable_chunks(folder, changed, "new")
    with Journal.open(folder, changed) as journal:
        assert journal.finished == 2


def test_a_lock_is_held_and_waited_for_by_the_steady_clock(tmp_path, set_clock):
    (tmp_path / "a").mkdir()
    lock = FolderLock(tmp_path / "a")
    set_clock(tmp_path)
    since = time.monotonic()
    with pytest.raises(FolderBusy):
        FolderLock(tmp_path / "a", patience_seconds=0.2)
    assert 0.2 <= time.monotonic() - since < 10
    lock.release()
    FolderLock(tmp_path / "a").release(delete=True)
