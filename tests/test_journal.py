"""The journal: what it keeps over a crash, what it finds damaged or changed, and that two runs cannot share it."""
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from lodestar.pipelines.safe_files import NotWritten, writing
from lodestar.pipelines.take.folder_lock import FolderBusy
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.manifest import FORMAT, MANIFEST, FinalFile, digest_texts, unfinished_beside
from lodestar.tests.full_disk import files_limited_to

pytestmark = pytest.mark.once

FINGERPRINTS = [{"model": "m", "prompt": f"p{index}", "seed": str(index)} for index in range(5)]


def make(folder, fingerprints=FINGERPRINTS, stop=5, kind=torch.float32):
    """Finish chunks up to `stop`; chunk i has 2 + i latents of value i."""
    with Journal.open(folder, fingerprints) as journal:
        for index in range(journal.finished, stop):
            journal.draft(index).write_bytes(b"video of " + fingerprints[index]["prompt"].encode())
            journal.commit(index, [torch.full((1, 4, 2 + index, 3, 3), index, dtype=kind)], frames=8)


def found(folder, fingerprints=FINGERPRINTS):
    with Journal.open(folder, fingerprints) as journal:
        return journal.finished, journal.note


def test_a_new_journal_starts(tmp_path):
    assert found(tmp_path / "a" / "b") == (0, "starting with chunk 1 of 5")


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_it_resumes_after_the_last_finished_chunk(tmp_path, stop):
    make(tmp_path, stop=stop)
    assert found(tmp_path) == (stop, f"resuming at chunk {stop + 1} of 5")


def test_all_finished(tmp_path):
    make(tmp_path)
    assert found(tmp_path) == (5, "all 5 chunks are finished: only the final file is to be written")


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_latents_come_back_as_they_were_over_chunk_borders(tmp_path, kind):
    make(tmp_path, stop=3, kind=kind)
    whole = torch.cat([torch.full((1, 4, 2 + index, 3, 3), index, dtype=kind) for index in range(3)], dim=2)
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        assert journal.finished_latents == whole.shape[2] == 9 and journal.finished_frames == 24
        for first in range(9):
            for end in range(first + 1, 10):
                part = journal.latents(first, end)
                assert part.dtype == kind and torch.equal(part, whole[:, :, first:end])


@pytest.mark.parametrize("chunk, name, note", [
    (0, "model", "model changed: all 5 chunks are made again"),
    (2, "prompt", "prompt changed: chunks from 3 on are made again"),
    (4, "seed", "seed changed: chunk 5 is made again"),
])
def test_a_change_is_named_and_invalidates_what_follows(tmp_path, chunk, name, note):
    make(tmp_path)
    changed = [{**own, name: "other"} if index == chunk else own for index, own in enumerate(FINGERPRINTS)]
    assert found(tmp_path, changed) == (chunk, note)
    assert found(tmp_path) == (5, "all 5 chunks are finished: only the final file is to be written")  # nothing was lost


def test_several_and_new_components_are_all_named(tmp_path):
    make(tmp_path)
    changed = [{**own, "prompt": "x", "anchor": "y"} for own in FINGERPRINTS]
    assert found(tmp_path, changed)[1] == "prompt, anchor changed: all 5 chunks are made again"


def test_what_followed_a_remade_chunk_is_forgotten_even_if_the_change_is_taken_back(tmp_path):
    """A chunk made twice need not be the same bits on a GPU: what was made from the first one does not follow it."""
    make(tmp_path)
    make(tmp_path, [*FINGERPRINTS[:2], {**FINGERPRINTS[2], "prompt": "x"}, *FINGERPRINTS[3:]], stop=3)
    assert found(tmp_path) == (2, "prompt changed: chunks from 3 on are made again")
    make(tmp_path, stop=3)
    assert found(tmp_path)[0] == 3


def test_a_longer_and_a_shorter_take_keep_what_is_the_same(tmp_path):
    make(tmp_path)
    assert found(tmp_path, [*FINGERPRINTS, {"prompt": "p6"}]) == (5, "resuming at chunk 6 of 6")
    assert found(tmp_path, FINGERPRINTS[:3])[0] == 3


@pytest.mark.parametrize("name", ["chunk_0001.safetensors", "chunk_0001.mp4"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "gone"])
def test_a_damaged_file_counts_as_unfinished(tmp_path, name, damage):
    make(tmp_path, stop=4)
    path, data = tmp_path / name, (tmp_path / name).read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    assert found(tmp_path) == (1, "chunk 2 is damaged on disk: chunks from 2 on are made again")


@pytest.mark.parametrize("text, note", [
    ("{", "the journal's manifest is damaged: all 5 chunks are made again"),
    (json.dumps({"format": 0, "chunks": []}), "the journal is of another version of the pack: all 5 chunks are made "
                                              "again")])
def test_an_unreadable_manifest_is_said(tmp_path, text, note):
    make(tmp_path)
    (tmp_path / "manifest.jsonl").write_text(text)
    assert found(tmp_path) == (0, note)
    assert (tmp_path / "chunk_0004.mp4").exists()


@pytest.mark.parametrize("number, note", [
    (2, "resuming at chunk 4 of 5"), (1, "the journal is of another version of the pack: all 5 chunks are made again"),
    (FORMAT + 1, "the journal is of another version of the pack: all 5 chunks are made again")])
def test_which_formats_are_read(tmp_path, number, note):
    """Format 2 said `contract`, and how many latents a chunk has in one number."""
    make(tmp_path, stop=3)
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        lines = [{"format": number, "take": ""}] + [{"chunk": {
            "contract": entry.fingerprint, "latents": entry.latents, "frames": entry.frames, "files": entry.files}}
            for entry in journal._entries]
    total, text = "", ""
    for line in lines:
        total = digest_texts(total, json.dumps(line, sort_keys=True))
        text += json.dumps({**line, "sum": total}) + "\n"
    (tmp_path / MANIFEST).write_text(text)
    assert found(tmp_path) == (3 if number == 2 else 0, note)
    make(tmp_path)
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        assert journal.finished == 5 and journal.pieces == [2, 3, 4, 5, 6] and journal.state() == {}
        assert json.loads((tmp_path / MANIFEST).read_text().splitlines()[0])["format"] == FORMAT


def test_a_copy_has_the_newest_state_and_knows_that_the_others_are_not_there(tmp_path):
    tensors = torch.arange(6.)[:3], torch.zeros(2, 0), torch.arange(8.).view(2, 4).t()
    with Journal.open(tmp_path / "a", FINGERPRINTS) as journal:
        for index in range(3):
            journal.commit(index, [torch.zeros(1, 1, 1, 1, 1)] * 2, 0, {str(place): tensor + index for place, tensor
                                                                       in enumerate(tensors)})
        with Journal.open(tmp_path / "b", FINGERPRINTS) as copy:
            copy.copy_from(journal)
    for folder in "ab":
        with Journal.open(tmp_path / folder, FINGERPRINTS) as journal:
            assert journal.finished == 3 and journal.pieces == [1] * 6
            assert all(torch.equal(found, tensors[int(place)] + 2) for place, found in journal.state().items())
            assert len(journal.state()) == 3
        assert found(tmp_path / folder, FINGERPRINTS[:2] + [{}])[0] == 0
        Journal.open(tmp_path / folder, FINGERPRINTS).discard()
        assert not (tmp_path / folder).exists()


WRONG_SHAPES = [b"[]", b"null", b"3", b'"x"', b"{}", b'{"format": 2}', b'{"format": 2, "chunks": []}', b"[" * 9999,
                b"\xff\xfe", json.dumps({"format": FORMAT, "take": "", "sum": "x"}).encode()]


@pytest.mark.parametrize("text", WRONG_SHAPES, ids=range(len(WRONG_SHAPES)))
def test_a_manifest_of_another_shape_heals(tmp_path, text):
    make(tmp_path)
    (tmp_path / MANIFEST).write_bytes(text)
    assert found(tmp_path) == (0, "the journal's manifest is damaged: all 5 chunks are made again")
    make(tmp_path)
    assert found(tmp_path)[0] == 5


@pytest.mark.parametrize("text", [*WRONG_SHAPES, None], ids=range(len(WRONG_SHAPES) + 1))
@pytest.mark.parametrize("line", [1, 3, 5])
def test_a_damaged_line_costs_its_chunk_and_what_follows(tmp_path, line, text):
    """None: the line is not there."""
    make(tmp_path)
    lines = (tmp_path / MANIFEST).read_bytes().splitlines()
    (tmp_path / MANIFEST).write_bytes(b"\n".join([*lines[:line], *([] if text is None else [text]), *lines[line + 1:]]))
    which = "chunk 5 is" if line == 5 else f"chunks from {line} on are" if line > 1 else "all 5 chunks are"
    said = f"the journal's manifest is damaged: {which} made again"
    said = "resuming at chunk 5 of 5" if line == 5 and text is None else said
    assert found(tmp_path) == (line - 1, said)
    make(tmp_path)
    assert found(tmp_path)[0] == 5


def test_every_flipped_bit_of_the_manifest_is_noticed(tmp_path):
    """What is believed is what was written: the same chunks, from the first on, and the same final file."""
    make(tmp_path)
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        journal.record(FinalFile("a.mp4", "content", 3, "sum"))
        whole = journal.content(""), journal.final
    data = (tmp_path / MANIFEST).read_bytes()
    entries = [json.loads(line)["chunk"] for line in data.splitlines()[1:6]]
    for place in range(0, len(data), 7):
        (tmp_path / MANIFEST).write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 7)]) + data[place + 1:])
        with Journal.open(tmp_path, FINGERPRINTS) as journal:
            believed = [asdict(entry) for entry in journal._entries]
            assert believed == entries[:len(believed)] and journal.final in (None, whole[1])
            assert len(believed) < 5 or journal.final is None or journal.content("") == whole[0]


@pytest.mark.parametrize("other", ["x-y", "x y", "X", "x/", "x\u0301", "a/x", "x_"])
def test_another_take_s_name_is_never_folded_into_one_s_own(tmp_path, other):
    """Whatever their folders are called: only the user's own words say that a take is meant."""
    with Journal.open(tmp_path / "x-other", FINGERPRINTS, other) as journal:
        journal.commit(0, [torch.zeros(1, 1, 1, 1, 1)], 0)
    changed = {**FINGERPRINTS[0], "seed": "other"}
    assert unfinished_beside(tmp_path / "x-own", "x", changed) == ""
    said = unfinished_beside(tmp_path / "x-own", other, changed)
    assert said.startswith("seed changed: this is a fresh take. The unfinished one, 1 chunks, stays in ")
    assert f"{tmp_path / 'x-other'}; delete that folder" in said


def test_a_crash_between_files_and_manifest_costs_that_chunk_only(tmp_path):
    make(tmp_path, stop=3)
    manifest = (tmp_path / "manifest.jsonl").read_bytes()
    make(tmp_path, stop=4)
    (tmp_path / "manifest.jsonl").write_bytes(manifest)   # as if the plug had been pulled before the last rename
    (tmp_path / "chunk_0004.mp4.part").write_bytes(b"half a vid")
    assert found(tmp_path) == (3, "resuming at chunk 4 of 5")
    make(tmp_path)
    assert found(tmp_path)[0] == 5


def test_chunks_are_committed_in_order(tmp_path):
    with Journal.open(tmp_path, FINGERPRINTS) as journal, pytest.raises(ValueError, match="next unfinished chunk is 0"):
        journal.commit(1, [torch.zeros(1, 1, 1, 1, 1)], frames=0)


def test_a_chunk_without_frames_has_no_segment(tmp_path):
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        journal.commit(0, [torch.zeros(1, 1, 1, 1, 1)], frames=0)
        assert journal.segments() == [] and journal.finished == 1
    assert found(tmp_path)[0] == 1


def test_discard_removes_only_its_own(tmp_path):
    make(tmp_path / "a", stop=3)
    (tmp_path / "a" / "chunk_0003.mp4.part").write_bytes(b"left by a crash")
    (tmp_path / "a" / "mine.txt").write_text("kept")
    make(tmp_path / "b", stop=3)
    for name in "ab":
        Journal.open(tmp_path / name, FINGERPRINTS).discard()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mine.txt"]
    assert not (tmp_path / "b").exists()


def test_two_runs_cannot_share_a_folder(tmp_path):
    with Journal.open(tmp_path, FINGERPRINTS):
        with pytest.raises(FolderBusy, match="in use by another run"):
            Journal.open(tmp_path, FINGERPRINTS)
    assert found(tmp_path)[0] == 0


def test_a_killed_run_does_not_block_the_next(tmp_path):
    script = ("import runpy, sys, time\n"
              f"runpy.run_path({str(Path(__file__).with_name('conftest.py'))!r})\n"
              "from lodestar.pipelines.take.journal import Journal\n"
              f"journal = Journal.open({str(tmp_path)!r}, [])\n"
              "print('held', flush=True)\ntime.sleep(60)\n")
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout.readline().strip() == "held"
        with pytest.raises(FolderBusy):
            Journal.open(tmp_path, FINGERPRINTS)
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    assert found(tmp_path)[0] == 0


def test_digest():
    assert digest_texts("a", "b") == digest_texts("a", "b")
    others = ((), ("a", "b"), ("b", "a"), ("ab",), ("ab", ""), ("", "ab"))
    assert len({digest_texts(*texts) for texts in others}) == 6


def test_an_error_of_the_disk_says_where_and_why():
    with pytest.raises(NotWritten, match="take.mp4 could not be written .*no such.*queue again"):
        with writing(Path("take.mp4")):
            raise OSError("no such thing")


def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="file"):
        Journal.open(tmp_path / "file" / "take", FINGERPRINTS)


@pytest.mark.parametrize("room", [0, 300, 1500])
def test_a_full_disk_costs_the_chunk_that_did_not_fit(tmp_path, room):
    """300 bytes stop the latents, 1500 the manifest."""
    make(tmp_path, stop=3)
    with Journal.open(tmp_path, FINGERPRINTS) as journal:
        journal.draft(3).write_bytes(b"video")
        with files_limited_to(room), pytest.raises(NotWritten, match="could not be written"):
            journal.commit(3, [torch.zeros(1, 4, 5, 3, 3)], frames=8)
        assert journal.finished == 3
    assert found(tmp_path) == (3, "resuming at chunk 4 of 5")
    make(tmp_path)
    assert found(tmp_path)[0] == 5
