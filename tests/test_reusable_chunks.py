"""Which folder a take has, and what it takes over from those beside it."""
import pytest
import torch
from lodestar.pipelines.safe_files import NotWritten
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.reusable_chunks import copy_reusable_chunks, take_folder

pytestmark = pytest.mark.once


def fingerprints(*prompts, model="m"):
    return [{"model": model, "prompt": prompt} for prompt in prompts]


def make(folder, wanted, stop=None, name="take"):
    """Finish chunks up to `stop`; chunk i has 1 + i latents of value i, and no frames of its own if i is 1."""
    with Journal.open(folder, wanted, name) as journal:
        for index in range(journal.finished, len(wanted) if stop is None else stop):
            if index != 1:
                journal.draft(index).write_bytes(wanted[index]["prompt"].encode())
            journal.commit(index, [torch.full((1, 4, 1 + index, 3, 3), float(index))], 0 if index == 1 else 8)


def test_a_take_has_the_folder_of_what_it_is_whatever_its_name(tmp_path):
    wanted = fingerprints("a", "b")
    folder = take_folder(tmp_path, "first_name", wanted)
    assert folder.name.startswith("first_name-")
    make(folder, wanted)
    assert take_folder(tmp_path, "another", wanted) == folder
    others = [fingerprints("a", "c"), fingerprints("a"), fingerprints("a", "b", model="n"), fingerprints("b", "a")]
    assert len({take_folder(tmp_path, "first_name", other) for other in (wanted, *others)}) == 5


def test_chunks_before_a_change_are_copied_and_the_other_take_keeps_its_own(tmp_path):
    old, new = fingerprints("a", "b", "c", "d"), fingerprints("a", "b", "c", "x")
    make(tmp_path / "old", old)
    make(tmp_path / "other", fingerprints("a", "y"))
    said = copy_reusable_chunks(tmp_path / "new", new, "take")
    assert "prompt changed: chunk 4 is made again" in said and str(tmp_path / "old") in said
    with Journal.open(tmp_path / "new", new) as journal, Journal.open(tmp_path / "old", old) as whole:
        assert (journal.finished, whole.finished, journal.finished_frames) == (3, 4, 16)
        assert torch.equal(journal.latents(0, 6), whole.latents(0, 6))
        assert [path.read_bytes() for path in journal.segments()] == [b"a", b"c"]
    assert copy_reusable_chunks(tmp_path / "new", new, "take") == ""


@pytest.mark.parametrize("other", [fingerprints("a", "b", model="n"), fingerprints("x", "b")])
def test_nothing_is_taken_from_another_take(tmp_path, other):
    make(tmp_path / "old", other)
    assert copy_reusable_chunks(tmp_path / "new", fingerprints("a", "b"), "take") == ""
    assert not (tmp_path / "new").exists()


def test_nothing_is_taken_from_a_take_that_runs_or_is_damaged(tmp_path):
    wanted = fingerprints("a", "b", "c")
    make(tmp_path / "runs", wanted, stop=2)
    make(tmp_path / "damaged", wanted, stop=1)
    (tmp_path / "damaged" / "chunk_0000.mp4").write_bytes(b"z")
    (tmp_path / "notes.txt").write_text("no take", encoding="utf-8")
    with Journal.open(tmp_path / "runs", wanted):
        assert copy_reusable_chunks(tmp_path / "new", wanted, "take") == ""
    assert "resuming at chunk 3 of 3" in copy_reusable_chunks(tmp_path / "new", wanted, "take")


@pytest.mark.parametrize("state", [{}, {"drift": torch.ones(2)}])
def test_a_copy_that_was_broken_off_is_gone_on_with(tmp_path, state):
    """A full disk or the power: a folder with but the first of the chunks would be all that the take ever gets."""
    old, new = fingerprints("a", "b", "c", "d"), fingerprints("a", "b", "c", "x")
    with Journal.open(tmp_path / "old", old) as journal:
        for index in range(3):
            journal.commit(index, [torch.full((1, 4, 2, 3, 3), float(index))], 0, state)
    in_the_way = tmp_path / "new.copy" / "chunk_0002.safetensors"
    in_the_way.mkdir(parents=True)
    with pytest.raises(NotWritten):
        copy_reusable_chunks(tmp_path / "new", new, "take")
    assert not (tmp_path / "new").exists()
    in_the_way.rmdir()
    assert "copies of those" in copy_reusable_chunks(tmp_path / "new", new, "take")
    with Journal.open(tmp_path / "new", new) as journal:
        assert journal.finished == 3 and journal.state().keys() == state.keys()
        assert journal.latents(0, 6)[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert not (tmp_path / "new.copy").exists()
