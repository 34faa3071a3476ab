"""How Long Take ends: one file whenever it dies, the name that was asked for, and tags that can be read."""
import json
import os
import types
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch
from lodestar.pipelines.safe_files import NotWritten
from lodestar.pipelines.take.journal import Journal
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.tests.comfy.in_process.test_session import session, wan_vae

pytestmark = pytest.mark.once
PLAN = {"overlap_frames": 5, "max_seconds": 2.0}


class Died(BaseException):
    """Nothing in the pack may catch it: what is left is what a killed process leaves."""


@pytest.fixture
def take(tiny_models, wan, tmp_path):
    """Makes a session on the same folder, as a new queue after a restart would."""
    model, vae = wan.load(tiny_models, "wan21_t2v"), wan_vae(tiny_models)

    def make(prefix="a/take", keep=False, **hidden):
        with torch.inference_mode():
            made = session(model, vae, tmp_path, **PLAN)
            return replace(made, hidden=types.SimpleNamespace(**{**vars(made.hidden), **hidden})).make(prefix, keep)
    return make


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("keep", [False, True])
def test_killed_around_the_name_there_is_one_file(take, tmp_path, monkeypatch, keep):
    """Before it is joined, before and after it has its name, and while the working files go
    (`tests/test_killed_takes.py` kills a process at every step)."""
    def dies(owner, name, after=False):
        real = getattr(owner, name)

        def die(*arguments, **named):
            if after:
                real(*arguments, **named)
            raise Died
        with monkeypatch.context() as patch, pytest.raises(Died):
            patch.setattr(owner, name, die)
            take(keep=keep)

    for point in ((VideoWriter, "finish"), (os, "link"), (os, "link", True), *([] if keep else [(Journal, "discard")])):
        dies(*point)
        assert not [name for name in files(tmp_path) if name.endswith(".part")]
        assert {name for name in files(tmp_path) if not name.startswith("lodestar_takes")} <= {"a/take_00001_.mp4"}
    made = take(keep=keep)
    assert made.path == tmp_path / "a" / "take_00001_.mp4" and made.subfolder == "a"
    assert made.tail.shape[1:] == (16, made.tail.shape[2], 8, 8)
    left = [name for name in files(tmp_path) if name != "a/take_00001_.mp4"]
    assert bool(left) == keep and not [name for name in left if "final" in name]
    with av.open(str(made.path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 32


def test_the_name_is_the_one_that_was_asked_for(take, tmp_path):
    prompt = {"9": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}}}
    made = take("%width%x%height%/%date:yyyy%_%RandomNoise.noise_seed%", prompt=prompt)
    assert made.subfolder == "64x64" and made.path.name.endswith("_5_00001_.mp4")
    assert made.path.parent == tmp_path / "64x64"
    assert take("64x64/b\\c").subfolder == "64x64/b"


@pytest.mark.parametrize("prefix, words", [("%KSampler.seed%", "names no node"), ("%Note.text%/a", "is a device"),
                                           ("b:c", "cannot have ':'")])
def test_a_bad_name_is_refused_before_anything_is_made(take, tmp_path, prefix, words):
    prompt = {"9": {"class_type": "Note", "inputs": {"text": "aux"}}}
    with pytest.raises(ValueError, match=words):
        take(prefix, prompt=prompt)
    assert files(tmp_path) == []


@pytest.mark.parametrize("own, other", [("x", "x-y"), ("a/b", "a_b"), ("x", "X")])
def test_what_was_kept_under_another_name_stays_however_alike_the_names(take, tmp_path, own, other):
    take(other, keep=True)
    kept = [name for name in files(tmp_path) if name.startswith("lodestar_takes")]
    assert kept and take(own).path == tmp_path / f"{own}_00001_.mp4"
    assert [name for name in files(tmp_path) if name.startswith("lodestar_takes")] == kept
    take(other)
    assert files(tmp_path) == sorted([f"{own}_00001_.mp4", f"{other}_00001_.mp4", f"{other}_00002_.mp4"])


def test_the_tags_are_json_where_the_graph_is_not(take):
    made = take(prompt={"9": {"class_type": "Note", "inputs": {}, "is_changed": [float("nan")]}},
                extra_pnginfo={"workflow": {"x": float("inf")}})
    with av.open(str(made.path)) as file:
        tags = {name: json.loads(file.metadata[name], parse_constant=pytest.fail) for name in ("prompt", "workflow")}
    assert tags["prompt"] == {"9": {"class_type": "Note", "inputs": {}, "is_changed": [None]}}
    assert tags["workflow"] == {"x": None}


def test_an_output_folder_that_goes_away_costs_nothing(take, tmp_path, monkeypatch):
    """The folder of the final file is taken by a file in mid-take; when it is free, the take only needs its name."""
    from lodestar.host import output_names
    real = output_names.folder_paths.get_save_image_path

    def blocked(*arguments, **named):
        (tmp_path / "a").write_text("in the way")
        return real(*arguments, **named)

    with monkeypatch.context() as patch, pytest.raises(NotWritten, match="a/take.* could not be written .*queue again"):
        patch.setattr(output_names.folder_paths, "get_save_image_path", blocked)
        take()
    (tmp_path / "a").unlink()
    assert len([name for name in files(tmp_path) if name.endswith(".safetensors")]) >= 2
    assert take().path == Path(tmp_path / "a" / "take_00001_.mp4") and files(tmp_path) == ["a/take_00001_.mp4"]
