"""The one file that a take ends in: on disks of both kinds, and raced for its name (test_killed_takes.py kills it)."""
import errno
import itertools
import os
import shutil
import threading

import pytest
from lodestar.pipelines.safe_files import NotWritten, is_begun_copy, place
from lodestar.pipelines.take.final_file import find_published, publish
from lodestar.pipelines.take.journal import Journal
from lodestar.tests.test_journal import FINGERPRINTS, make

pytestmark = pytest.mark.once


def names(folder, first=1):
    return (folder / f"take_{number}.mp4" for number in itertools.count(first))


def end(folder, made_of="take", text=b"the video", names_of=names):
    """Publish `text` as the video of the finished journal in folder/journal, as often as it is called."""
    (folder / "output").mkdir(exist_ok=True)
    with Journal.open(folder / "journal", FINGERPRINTS) as journal:
        return find_published(journal, made_of) or publish(journal, made_of, lambda path: path.write_bytes(text),
                                                      lambda: names_of(folder / "output"))


def shown(folder):
    return {path.name: path.read_bytes() for path in (folder / "output").iterdir()}


def no_links(*arguments, **named):
    raise OSError(errno.EPERM, "this disk knows no links")


@pytest.fixture(params=["links", "no links"])
def disk(request, monkeypatch):
    if request.param == "no links":
        monkeypatch.setattr(os, "link", no_links)


def test_a_finished_take_gives_its_file_again(tmp_path, disk):
    make(tmp_path / "journal")
    path = end(tmp_path)
    assert end(tmp_path, text=b"never written") == path and shown(tmp_path) == {"take_1.mp4": b"the video"}


@pytest.mark.parametrize("change", ["sound", "chunk", "damaged", "deleted"])
def test_what_it_was_made_of_changed(tmp_path, disk, change):
    """Another sound or chunk, or a video that is not what was written: a second file, and the first stays as it is."""
    make(tmp_path / "journal")
    path = end(tmp_path)
    if change == "chunk":
        make(tmp_path / "journal", [*FINGERPRINTS[:4], {**FINGERPRINTS[4], "prompt": "x"}])
        make(tmp_path / "journal")
    if change == "damaged":
        path.write_bytes(b"The video")
    if change == "deleted":
        path.unlink()
    found = end(tmp_path, made_of="another sound" if change == "sound" else "take", text=b"new")
    old = {} if change == "deleted" else {path.name: b"The video" if change == "damaged" else b"the video"}
    assert shown(tmp_path) == {**old, found.name: b"new"} and (found == path) == (change == "deleted")


def test_two_runs_that_want_a_name_at_once_have_one_each(tmp_path, disk):
    """Both have found the same number free before either takes it."""
    barrier, paths = threading.Barrier(2, timeout=30), {}

    def raced(folder):
        barrier.wait()
        return names(folder)

    def run(name):
        (tmp_path / name).mkdir()
        make(tmp_path / name / "journal")
        (tmp_path / name / "output").symlink_to(tmp_path / "output", target_is_directory=True)
        paths[name] = end(tmp_path / name, text=name.encode() * 9999, names_of=raced)

    (tmp_path / "output").mkdir()
    threads = [threading.Thread(target=run, args=[name]) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in paths.values()} == {"take_1.mp4", "take_2.mp4"} == set(shown(tmp_path))
    assert all(path.read_bytes() == name.encode() * 9999 for name, path in paths.items())
    for name, path in paths.items():
        assert end(tmp_path / name) == path


def test_another_file_of_that_name_is_never_touched(tmp_path, disk):
    """Also when this run's journal had recorded that name before it was killed."""
    make(tmp_path / "journal")
    whole = b"the video"

    class Killed(BaseException):
        pass

    def before_the_name(folder):
        yield folder / "take_1.mp4"
        raise Killed

    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "take_1.mp4").write_bytes(b"the vision of another")
    with pytest.raises(Killed):
        end(tmp_path, text=whole, names_of=before_the_name)
    assert end(tmp_path).name == "take_2.mp4"
    assert shown(tmp_path) == {"take_1.mp4": b"the vision of another", "take_2.mp4": whole}


def test_a_copy_that_was_taken_for_an_unfinished_one_is_made_under_the_next_name(tmp_path, monkeypatch):
    """On a disk without links, another run can delete the name between its making and its last byte."""
    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "whole").write_bytes(b"x" * 100)
    copy = shutil.copyfileobj

    def deleted_meanwhile(original, target, size):
        assert is_begun_copy(tmp_path / "name", tmp_path / "whole")
        (tmp_path / "name").unlink()
        copy(original, target, size)

    monkeypatch.setattr("shutil.copyfileobj", deleted_meanwhile)
    assert not place(tmp_path / "whole", tmp_path / "name") and not (tmp_path / "name").exists()


@pytest.mark.parametrize("text, begun", [(b"", True), (b"abc", True), (b"abcdef", False), (b"abx", False),
                                         (b"abcdefg", False), (None, False)])
def test_what_is_a_begun_copy(tmp_path, text, begun):
    (tmp_path / "whole").write_bytes(b"abcdef")
    if text is not None:
        (tmp_path / "part").write_bytes(text)
    assert is_begun_copy(tmp_path / "part", tmp_path / "whole") == begun


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)

    def full(original, target, size):
        target.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    make(tmp_path / "journal")
    with monkeypatch.context() as patch, pytest.raises(NotWritten, match="take_1.mp4 could not be written .*No space"):
        patch.setattr("shutil.copyfileobj", full)
        end(tmp_path)
    assert shown(tmp_path) == {}
    assert end(tmp_path).read_bytes() == b"the video"
