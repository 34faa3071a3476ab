"""A take that is asked to stop, or to keep its chunks, while it is made: the file it ends in, and how it goes on."""
import json
from dataclasses import replace

import av
import pytest
import torch
from lodestar.host import take_requests
from lodestar.host.chunk_sampler import GuiderChunkSampler
from lodestar.nodes.long_take import LodestarLongTake
from lodestar.pipelines.take.take_folders import KEEP, STOP
from lodestar.tests.comfy.in_process.test_session import session, wan_vae


def make(take, request=None, after=1):
    """The finished take; `request` is made while chunk number `after` is sampled."""
    class Asking(GuiderChunkSampler):
        def sample(self, chunk, past):
            if request and chunk.index == after:
                folder, = (path for path in take_requests.takes_folder().iterdir() if path.is_dir())
                assert take_requests.make_request(f"lodestar_takes/{folder.name}", request)
            return super().sample(chunk, past)

    with torch.inference_mode():
        return replace(take, make_sampler=Asking).make("asked/take", False)


def length(path) -> tuple[int, float]:
    """Frames, and seconds of sound."""
    with av.open(str(path)) as video:
        sound = video.streams.audio[0]
        return sum(1 for _ in video.decode(video=0)), float(sound.duration * sound.time_base)


def folders(tmp_path):
    return [path for path in (tmp_path / "lodestar_takes").iterdir() if path.is_dir()]


def test_a_take_stops_with_its_file_and_goes_on_when_queued_again(tiny_models, wan, tmp_path):
    take = session(wan.load(tiny_models, "wan21_t2v"), wan_vae(tiny_models), tmp_path)
    plan = take.take.plan
    assert LodestarLongTake.fingerprint_inputs(filename_prefix="asked/take", keep_chunks=False) == ""
    part = make(take, STOP)
    folder, = folders(tmp_path)
    made = len(list(folder.glob("chunk_*.safetensors")))
    frames, seconds = length(part.path)
    assert made == 2 < len(plan.chunks) and 0 < plan.frames_of(plan.chunks[1])[1] - frames < 8
    assert abs(seconds - frames / 16) < 0.1 and part.tail.shape[2] == plan.chunks[1].new_latents
    assert not (folder / STOP).exists() and not (folder / "final.mp4").exists()
    assert LodestarLongTake.fingerprint_inputs(filename_prefix="asked/take") == "1"    # the part is not the whole
    whole = make(take)
    assert length(whole.path)[0] == plan.total_frames and whole.path != part.path and not folders(tmp_path)
    assert LodestarLongTake.fingerprint_inputs(filename_prefix="asked/take") == "1"    # and the whole is


def test_chunks_are_kept_when_that_is_asked_while_it_runs(tiny_models, wan, tmp_path):
    take = session(wan.load(tiny_models, "wan21_t2v"), wan_vae(tiny_models), tmp_path, max_seconds=1.0)
    make(take, KEEP, after=0)
    folder, = folders(tmp_path)
    assert len(list(folder.glob("chunk_*.safetensors"))) == len(take.take.plan.chunks)


@pytest.mark.parametrize("folder, request_name", [
    ("lodestar_takes/gone", STOP), ("lodestar_takes/../take", STOP), ("take", STOP), ("lodestar_takes/take", "other"),
    ("lodestar_takes/none", STOP), ("lodestar_takes/..", STOP), ("lodestar_takes/.", STOP), ("lodestar_takes/", STOP),
    ("lodestar_takes/take/../../take", STOP), ("lodestar_takes/..\\take", STOP), ("lodestar_takes//take", STOP),
    ("lodestar_takes/C:", STOP), ("lodestar_takes/take\0", STOP), ("lodestar_takes/" + "a" * 4000, STOP)])
def test_only_a_take_that_is_there_is_asked(tmp_path, monkeypatch, folder, request_name):
    monkeypatch.setattr(take_requests.folder_paths, "get_output_directory", lambda: str(tmp_path))
    for name in ("take", "none"):
        (tmp_path / "lodestar_takes" / name).mkdir(parents=True)
    for name in ("lodestar_takes/take", "lodestar_takes", "."):     # a lock of somebody's else, too
        (tmp_path / name / "lock").touch()
    (tmp_path / "take").mkdir()
    assert not take_requests.make_request(folder, request_name)
    assert take_requests.make_request("lodestar_takes/take", STOP)
    assert json.dumps(sorted(path.name for path in tmp_path.rglob("stop"))) == '["stop"]'


def test_stops_are_counted_though_their_file_was_cleaned_away_or_damaged(tmp_path, monkeypatch):
    """ComfyUI's cache in this process may have the part."""
    monkeypatch.setattr(take_requests.folder_paths, "get_output_directory", lambda: str(tmp_path))
    stops = tmp_path / "lodestar_takes" / "a_b.stops"
    stops.parent.mkdir()
    assert take_requests.count_stops("a/b") == ""
    take_requests.add_stop("a/b")
    stops.unlink()
    assert take_requests.count_stops("a/b") == "1" and take_requests.count_stops("other") == ""
    take_requests.add_stop("a/b")
    assert stops.read_text() == "2"
    stops.write_bytes(b"\xff")
    assert take_requests.count_stops("a/b") == "2"
    stops.write_text("7")     # of another server
    assert take_requests.count_stops("a/b") == "7"
