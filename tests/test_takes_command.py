"""scripts/takes.py: what lies in lodestar_takes, how far, how big; what is removed, and what is left in peace."""
import json
import os
import runpy
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lodestar.pipelines.take.folder_lock import FolderBusy, FolderLock
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.manifest import MANIFEST, FinalFile
from lodestar.pipelines.take.take_folders import TakeFolder, find_takes

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "takes.py"
FINGERPRINTS = [{"seed": str(index)} for index in range(3)]
GRAPH = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "wan/s2v.safetensors", "weight_dtype": "default"}},
         "2": {"class_type": "LoadAudio", "inputs": {"audio": "speech.flac"}}}
ABOUT = {"chunks": 3, "frames": 24, "fps": "16", "width": 64, "height": 48, "graph": json.dumps(GRAPH)}


@pytest.fixture
def takes(tmp_path):
    return tmp_path / "lodestar_takes"


def make(folder, stop=3, take="lodestar/take", about=ABOUT):
    with Journal.open(folder, FINGERPRINTS, take, about) as journal:
        for index in range(journal.finished, stop):
            journal.draft(index).write_bytes(b"video")
            journal.commit(index, [torch.zeros(1, 4, 2, 3, 3)], frames=8)


def finish(folder):
    make(folder)
    with Journal.open(folder, FINGERPRINTS, "", ABOUT) as journal:
        journal.record(FinalFile("/videos/take_00001_.mp4", "content", 3, "sum"))


@contextmanager
def closing_lock(folder):
    lock = FolderLock(folder)
    yield
    lock.release()


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """takes.py with these arguments: (what it said, its exit code)."""
    def ask(*arguments):
        monkeypatch.setattr(sys, "argv", ["takes.py", *map(str, arguments), "--output", str(tmp_path)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        return capsys.readouterr().out, code
    return ask


def test_each_take_is_listed_with_how_far_and_how_big_it_is(takes, run):
    make(takes / "half-1", stop=1)
    finish(takes / "whole-2")
    make(takes / "old-3", stop=2, about=None)
    (takes / "hurt-4").mkdir()
    (takes / "hurt-4" / MANIFEST).write_text("{")
    os.utime(takes / "half-1" / MANIFEST, (time.time() + 9e4,) * 2)    # a clock that was set back since
    said, code = run("list")
    assert code == 0 and said.splitlines()[0] == "half-1"
    assert "    unfinished, 1/3 chunks, 0.5 of 1.5 s, 0.0 MB, 0 h old, of lodestar/take" in said
    assert "    finished, 3/3 chunks, 1.5 of 1.5 s" in said and "    damaged, 0/? chunks" in said
    assert "    unfinished, 2/? chunks, 16 frames" in said and f"4 takes in {takes}, 0.0 MB" in said
    lines = [json.loads(line) for line in run("list", "--json")[0].splitlines()]
    assert {line["state"] for line in lines} == {"unfinished", "finished", "damaged"}
    half = next(line for line in lines if line["folder"].endswith("half-1"))
    assert half["files"] == ["wan/s2v.safetensors", "speech.flac"] and half["bytes"] > 500


def test_no_takes_are_no_error(run, takes):
    assert run("list") == (f"0 takes in {takes}, 0.0 MB\n", 0)
    assert run("clean") == ("nothing was chosen: name takes, or give --finished, --damaged or --older-than DAYS\n", 0)


def test_one_take_is_read_whole(takes, run):
    make(takes / "half-1", stop=2)
    (takes / "half-1" / "chunk_0001.mp4").write_bytes(b"viden")
    said, _ = run("inspect", "half")
    assert "finished: 2 of 3 chunks, 1.0 of 1.5 s" in said and "size: 64x48 at 16 fps" in said
    assert "made from: wan/s2v.safetensors, speech.flac" in said
    assert "damaged: chunk_0001.mp4; made again from the first of them on" in said
    assert "To go on: python scripts/takes.py resume half-1 --server URL" in said
    assert json.loads(run("inspect", "half-1", "--json")[0])["graph"] == GRAPH
    assert "is to name one take" in run("inspect", "none")[1]
    make(takes / "half-2", stop=1)
    assert "there it names half-" in run("inspect", "half")[1] and "half-1" in run("inspect", "half-1")[0]


def test_looking_changes_nothing_and_hinders_no_run(takes, run):
    make(takes / "a-1", stop=1)
    make(takes / "b-2", stop=1)
    with closing_lock(takes / "a-1"):
        before = {path: path.read_bytes() for path in takes.rglob("*") if path.is_file()}
        assert "    running, 1/3 chunks" in run("list")[0] and "It runs now" in run("inspect", "a-1")[0]
        assert before == {path: path.read_bytes() for path in takes.rglob("*") if path.is_file()}
        assert run("clean", "--older-than", 0)[0].startswith("removed b-2")
        assert run("clean", "a-1") == ("left a-1: it runs now\n0.0 MB freed\n", 1)
    assert find_takes(takes)[0].state == "unfinished"


def test_nothing_is_removed_that_was_not_chosen(takes, run):
    finish(takes / "whole-1")
    make(takes / "half-2", stop=1)
    (takes / "half-2" / "notes.txt").write_text("mine")
    (takes / "begun-3").mkdir()
    (takes / "begun-3" / "lock").touch()     # killed before its first chunk
    assert "begun-3\n    empty, 0/? chunks" in run("list")[0]
    assert run("clean")[0].startswith("nothing was chosen")
    assert run("clean", "--damaged")[0].startswith("removed begun-3") and not (takes / "begun-3").exists()
    assert run("clean", "--older-than", 3)[0].startswith("nothing was chosen")
    assert run("clean", "--finished", "--dry-run")[0].startswith("would remove whole-1, 0.0 MB, finished")
    assert len(find_takes(takes)) == 2
    assert run("clean", "--finished")[0].startswith("removed whole-1") and not (takes / "whole-1").exists()
    assert "left what is not the pack's: notes.txt" in run("clean", "half-2")[0]
    assert [path.name for path in (takes / "half-2").iterdir()] == ["notes.txt"]


def test_counts_of_stops_go_with_the_last_take_of_their_name(takes, run):
    for name, chunks in (("stopped-1", 1), ("stopped-2", 1), ("other-1", 1)):
        make(takes / name, stop=chunks)
    for name in ("stopped", "other", "gone"):
        (takes / f"{name}.stops").write_text("1")

    def left():
        return sorted(path.stem for path in takes.glob("*.stops"))
    assert "stops" not in run("clean", "stopped-1")[0] and left() == ["gone", "other", "stopped"]
    assert "removed stopped.stops, the count of a name's stops\n" in run("clean", "stopped-2")[0]
    assert run("clean", "--damaged")[0].startswith("nothing was chosen") and left() == ["gone", "other"]
    assert run("clean", "--finished", "--older-than", 1)[0].startswith("nothing was chosen")
    assert run("clean", "--finished", "--dry-run")[0].startswith("would remove gone.stops") and "gone" in left()
    assert run("clean", "--finished")[0].startswith("removed gone.stops") and left() == ["other"]


def test_it_needs_neither_torch_nor_comfyui(takes, tmp_path):
    make(takes / "half-1", stop=1)
    blocked = ("import sys, runpy\nfor name in ('torch', 'safetensors', 'numpy', 'av'): sys.modules[name] = None\n"
               f"sys.argv = ['takes.py', 'list', '--output', {str(tmp_path)!r}]\n"
               f"sys.path.insert(0, {str(SCRIPT.parent)!r})\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')")
    ended = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert ended.returncode == 0 and "unfinished, 1/3 chunks" in ended.stdout, ended.stderr


def test_a_run_waits_for_one_that_only_looks(tmp_path):
    """Another server reads this take's folder for chunks it could use just when this one begins."""
    make(tmp_path / "a", stop=1)
    code = (f"import runpy; runpy.run_path({str(Path(__file__).with_name('conftest.py'))!r})\nimport pathlib, time\n"
            "from lodestar.pipelines.take.folder_lock import FolderLock\n"
            f"lock = FolderLock(pathlib.Path({str(tmp_path / 'a')!r})); print('in', flush=True)\n"
            "time.sleep(0.4); lock.release()")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(FolderBusy):
            Journal.open(tmp_path / "a", FINGERPRINTS)
        with Journal.open(tmp_path / "a", FINGERPRINTS, patience_seconds=20) as journal:
            assert journal.finished == 1


def test_what_is_said_of_a_take_decides_nothing(tmp_path):
    make(tmp_path / "a", stop=2)
    with Journal.open(tmp_path / "a", FINGERPRINTS, "other", {"chunks": 9}) as journal:
        assert journal.finished == 2
    assert TakeFolder.read(tmp_path / "a").about == ABOUT
    make(tmp_path / "a", about={"chunks": 9})
    assert TakeFolder.read(tmp_path / "a").about == {"chunks": 9}
