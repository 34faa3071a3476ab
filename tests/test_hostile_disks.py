"""What a disk can do to a take: full, out of inodes, read-only, forbidden, taken away; each says what is wrong.

Real file systems, mounted where the tests may (root on Linux); whoever else runs them has the other half of the tests.
"""
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from lodestar.pipelines.safe_files import NotReadable, NotWritten
from lodestar.pipelines.take import folder_lock
from lodestar.pipelines.take.folder_lock import FolderBusy, FolderLock
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.manifest import MANIFEST
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.tests.full_disk import files_limited_to
from lodestar.tests.test_journal import FINGERPRINTS, found, make

pytestmark = pytest.mark.once
LATENTS = torch.zeros(1, 4, 5, 3, 3)


@contextmanager
def mounted(folder, options):
    """A file system of its own in `folder`. What is yielded mounts it again with other options."""
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
                                   capture_output=True).returncode:
        pytest.skip("only root on Linux can mount a file system of its own")
    try:
        yield lambda others: subprocess.run([mount, "-o", f"remount,{others}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def commit(journal, index=0):
    journal.draft(index).write_bytes(b"video")
    journal.commit(index, [LATENTS], frames=8)


# ---------------------------------------------------------------- the lock

@pytest.mark.parametrize("inodes", [2, 3])   # the folder cannot be made; the lock in it cannot
def test_a_disk_without_inodes_is_called_that(tmp_path, inodes):
    with mounted(tmp_path / "disk", f"size=1m,nr_inodes={inodes}") as remount:
        with pytest.raises(NotWritten, match="could not be written .*no free inodes, the disk holds too many files"):
            for number in range(inodes):
                Journal.open(tmp_path / "disk" / str(number), FINGERPRINTS)
        remount("nr_inodes=99")
        make(tmp_path / "disk" / "0")
        assert found(tmp_path / "disk" / "0")[0] == 5


def test_a_read_only_disk_is_called_that(tmp_path):
    with mounted(tmp_path / "disk", "size=1m") as remount:
        make(tmp_path / "disk" / "take", stop=2)
        remount("ro")
        for take in ("take", "other"):
            with pytest.raises(NotWritten, match="Read-only file system.*free space and permissions, then queue again"):
                Journal.open(tmp_path / "disk" / take, FINGERPRINTS)
        remount("rw")
        assert found(tmp_path / "disk" / "take")[0] == 2


def test_a_disk_that_fails_in_mid_take_is_said(tmp_path, monkeypatch):
    """As after an error of the disk. By hand it cannot be made read-only: the system refuses while the lock is held."""
    def refuse(*arguments, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with mounted(tmp_path / "disk", "size=1m") as remount:
        with Journal.open(tmp_path / "disk" / "take", FINGERPRINTS) as journal:
            with pytest.raises(subprocess.CalledProcessError):
                remount("ro")
            commit(journal)
            monkeypatch.setattr(os, "replace", refuse)
            monkeypatch.setattr(os, "rename", refuse)
            with pytest.raises(NotWritten, match="Read-only file system"):
                commit(journal, 1)
            monkeypatch.undo()
            commit(journal, 1)
        assert found(tmp_path / "disk" / "take")[0] == 2


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 99, os.urandom(5000)])
def test_a_lock_file_of_any_content_is_taken(tmp_path, content):
    make(tmp_path, stop=1)
    (tmp_path / "lock").write_bytes(content)
    assert found(tmp_path)[0] == 1


def test_a_lock_that_is_no_file_is_said(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(NotWritten, match=r"lock could not be written \(.*a folder is where the file should be: remove"):
        Journal.open(tmp_path, FINGERPRINTS)


def test_a_lock_that_was_deleted_before_it_was_had_is_no_lock(tmp_path, monkeypatch):
    """The run that ends deletes the file that the next one has just opened."""
    before, take, calls = FolderLock(tmp_path), folder_lock._take, []

    def after_its_end(handle):
        if not calls:
            before.release(delete=True)
        calls.append(handle)
        take(handle)

    monkeypatch.setattr(folder_lock, "_take", after_its_end)
    now = FolderLock(tmp_path)
    assert len(calls) == 2
    with pytest.raises(FolderBusy, match="in use by another run: wait for it or cancel it, then queue again"):
        FolderLock(tmp_path)
    now.release()
    FolderLock(tmp_path).release(delete=True)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the folder

FORBIDDEN = """
import os, runpy, sys
runpy.run_path(sys.argv[1])
import torch
from lodestar.pipelines.take.journal import Journal
def take(folder, then):
    with Journal.open(folder, [dict()] * 2) as journal:
        for index in (0, 1):
            journal.commit(index, [torch.zeros(1, 1, 1, 1, 1)], 0)
            then()
take(sys.argv[2] + "/first", int)    # brings everything that is imported late
os.mkdir(sys.argv[2] + "/take")
os.chown(sys.argv[2] + "/take", 65534, 65534)
os.setuid(65534)
try:
    take(sys.argv[2] + "/take", lambda: os.chmod(sys.argv[2] + "/take", 0))
except OSError as error:
    sys.stdout.write(f"{type(error).__name__} {error}")
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root can become somebody without rights")
def test_a_folder_that_is_locked_away_in_mid_take():
    with tempfile.TemporaryDirectory() as folder:   # pytest's own is closed to others
        os.chmod(folder, 0o755)
        run = subprocess.run([sys.executable, "-c", FORBIDDEN, Path(__file__).with_name("conftest.py"), folder],
                             capture_output=True, text=True)
        assert run.stdout.startswith(f"NotReadable {folder}/take cannot be read ([Errno 13] Permission denied"), run
        assert "Put it back or make it readable, then queue again" in run.stdout and not run.stderr
        assert found(Path(folder) / "take", [{}] * 2)[0] == 1


@pytest.mark.parametrize("gone", ["folder", "manifest", "parent is a file"])
def test_a_folder_that_is_taken_away_in_mid_take(tmp_path, gone):
    folder = tmp_path / "takes" / "take"
    with pytest.raises(NotReadable, match="take.* cannot be read .*deleted, moved or locked away.* Put it back"):
        with Journal.open(folder, FINGERPRINTS) as journal:
            commit(journal)
            if gone == "manifest":
                (folder / MANIFEST).unlink()
            else:
                shutil.rmtree(tmp_path / "takes")
            if gone == "parent is a file":
                (tmp_path / "takes").write_text("")
            journal.check_present()
    assert not folder.exists() or gone == "manifest"


def test_latents_that_are_gone_or_damaged_in_mid_take(tmp_path):
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        commit(journal)
        path = tmp_path / "chunk_0000.safetensors"
        data = path.read_bytes()
        path.unlink()
        with pytest.raises(NotReadable, match=r"chunk_0000.safetensors cannot be read \(.*then queue again"):
            journal.latents(0, 1)
        path.write_bytes(data[:9])
        with pytest.raises(NotReadable, match="chunk_0000.safetensors was damaged while the take was made"):
            journal.latents(0, 1)


def test_a_folder_that_is_gone_when_a_draft_is_written(tmp_path):
    with pytest.raises(NotWritten, match="take was deleted or moved: put it back, then queue again"):
        with Journal.open(tmp_path / "take", FINGERPRINTS) as journal:
            shutil.rmtree(tmp_path / "take")
            with VideoWriter(32, 16, Fraction(25)).segment(journal.draft(0)) as segment:
                segment.write(torch.zeros(1, 16, 32, 3))
    assert not (tmp_path / "take").exists()


# ---------------------------------------------------------------- drafts

@pytest.mark.parametrize("room", [0, 300, 1500])
def test_a_full_disk_leaves_no_drafts(tmp_path, room):
    """Room for nothing, for the latents, for all but the manifest."""
    make(tmp_path, stop=3)
    before = sorted(path.name for path in tmp_path.iterdir())
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        journal.draft(3).write_bytes(b"video")
        with files_limited_to(room), pytest.raises(NotWritten):
            journal.commit(3, [LATENTS], frames=8)
    left = {path.name for path in tmp_path.iterdir()} - set(before)
    assert left <= {"chunk_0003.safetensors", "chunk_0003.mp4"}


def test_drafts_of_a_killed_run_go_when_the_take_is_opened(tmp_path):
    make(tmp_path, stop=3)
    for name in ("chunk_0003.mp4.part", "chunk_0003.safetensors.part", f"{MANIFEST}.part", "final.mp4.part"):
        (tmp_path / name).write_bytes(b"half")
    assert found(tmp_path)[0] == 3 and not list(tmp_path.glob("*.part"))


def test_working_files_that_cannot_be_removed_do_not_cost_the_video(tmp_path, caplog):
    make(tmp_path)
    (tmp_path / "chunk_0000.mp4x").mkdir()   # as Windows answers while a player has a file open
    Journal.open(tmp_path, FINGERPRINTS).discard()
    assert f"the working files in {tmp_path} could not all be removed" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["chunk_0000.mp4x"]
    (tmp_path / "chunk_0000.mp4x").rmdir()
    Journal.open(tmp_path, FINGERPRINTS).discard()
    assert not tmp_path.exists()
