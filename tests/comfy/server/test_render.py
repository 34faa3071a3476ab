"""scripts/render.py through a real server: made once, found again, followed, cancelled, gone on with after a crash."""
import json
import sys
import time
from functools import partial

import pytest
import render
from lib import comfy_server, environment, own_server, render_job
from lib.jobs import read_jobs
from served_takes import frames_of, log_since

WORKFLOW = environment.PACK / "tests" / "golden" / "tiny_take.json"
COLUMNS = ("name,picture,speech,seed,seconds,LodestarPlanTake.width,LodestarPlanTake.height,"
           "LodestarPlanTake.chunk_frames,BasicScheduler.steps\n")
STEPS = 30


def row(name, seconds=1, seed=3, width=64, steps=2):
    return f"{name},portrait.png,speech.flac,{seed},{seconds},{width},64,17,{steps}\n"


@pytest.fixture
def jobs(tmp_path):
    """Write a table; its jobs."""
    for name in ("portrait.png", "speech.flac"):
        (tmp_path / name).write_bytes((environment.PACK / "assets" / name).read_bytes())

    def write(*rows):
        (tmp_path / "jobs.csv").write_text(COLUMNS + "".join(rows))
        return read_jobs(tmp_path / "jobs.csv", WORKFLOW)
    return write


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, server):
    """render.main() in this process: (lines of JSON, exit code)."""
    def ask():
        monkeypatch.setattr(sys, "argv", ["render.py", str(tmp_path / "jobs.csv"), "--workflow", str(WORKFLOW),
                                          "--json", "--server", server.url])
        monkeypatch.setattr(environment, "make_environment", lambda wanted: None)
        monkeypatch.setattr(environment, "enter", lambda python: None)
        monkeypatch.setattr(environment, "stop_on_signals", lambda: None)
        with pytest.raises(SystemExit) as ended:
            render.main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()], ended.value.code
    return ask


def on_server(server, name):
    return sorted((server.base / "output" / "lodestar_jobs").glob(f"{name}-*"))


def test_jobs_are_made_once_and_one_that_fails_leaves_the_others_alone(server, jobs, run, tmp_path):
    jobs(row("first"), row("wrong", width=65), row("second", seed=4))
    said, code = run()
    assert code == 1 and [line["event"] for line in said if line["event"] in ("finished", "failed")] == [
        "finished", "failed", "finished"]
    failed, = (line for line in said if line["event"] == "failed")
    assert "LodestarPlanTake (node 9): width: got 65" in failed["message"]
    assert {line["frames_total"] for line in said if line["event"] == "progress"} == {16}
    videos = tmp_path / "jobs_videos"
    assert len(frames_of(videos / "first.mp4")) == len(frames_of(videos / "second.mp4")) == 16
    assert said[-1] == {"event": "end", "jobs": 3, "made": 2, "fetched": 0, "there": 0, "failed": 1,
                        "seconds": said[-1]["seconds"]}
    (videos / "second.mp4").unlink()
    jobs(row("first"), row("second", seed=4))
    said, code = run()
    assert code == 0 and [line["how"] for line in said if line["event"] == "finished"] == ["there", "fetched"]
    assert len(on_server(server, "second")) == len(on_server(server, "first")) == 1


def test_a_job_that_another_client_queued_is_followed_and_not_made_twice(server, jobs, tmp_path):
    """As after a client that died: its take runs on."""
    job, = jobs(row("followed", seconds=2, steps=STEPS))
    first = server.queue(job.graph(server, job.digest()).prompt())
    client, said, events = comfy_server.Client(server.url), [], []
    assert client.client_id != server.client_id
    how = render_job.render(client, job, tmp_path / "to", lambda kind, data: events.append(kind), said.append)
    assert how == "made" and said == ["it is in the server's queue already"] and "progress" in events
    assert list(server.get("/history/" + first)) == [first] and len(on_server(server, "followed")) == 1


def test_a_cancelled_job_goes_on_where_it_was(server, jobs, tmp_path):
    job, = jobs(row("cancelled", seconds=2, steps=STEPS))
    client = comfy_server.Client(server.url)

    def press(kind, data):
        if kind == "lodestar.chunk" and data["chunk"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_job.render(client, job, tmp_path, press)
    until = time.monotonic() + 60
    while server.get("/queue")["queue_running"]:
        assert time.monotonic() < until
    assert not (tmp_path / "cancelled.mp4").exists() and not on_server(server, "cancelled")
    start = server.log.stat().st_size
    assert render_job.render(client, job, tmp_path) == "made" and "resuming at chunk 2 of 2" in log_since(server, start)


@pytest.mark.once
def test_a_server_that_dies_is_started_again_and_the_take_goes_on(server, comfyui, jobs, tmp_path, begin_server,
                                                                  monkeypatch):
    """The video is that of a server which nothing happened to."""
    monkeypatch.setattr(comfy_server, "start_server", partial(comfy_server.start_server, begin=begin_server))
    job, = jobs(row("killed", seconds=2, steps=6))
    base = tmp_path / "base"
    base.mkdir()
    for name in ("custom_nodes", "models"):
        (base / name).symlink_to(server.base / name)
    killed = []
    with own_server.OwnServer(comfyui, base, output=tmp_path / "shared", log=tmp_path / "log") as servers:
        def kill(kind, data):
            if kind == "lodestar.chunk" and data["chunk"] == 1 and not killed:
                killed.append(servers.client().process.pid)
                servers.client().kill()
        said = []
        assert render_job.render_through(servers, job, tmp_path / "a", kill, said.append) == "made"
        assert servers.client().process.pid != killed[0] and len(said) == 1 and "exit code -9" in said[0]
    assert "resuming at chunk 2 of 2" in (tmp_path / "log").read_text(encoding="utf-8")
    assert len(list((tmp_path / "shared" / "lodestar_jobs").iterdir())) == 1
    assert not list((tmp_path / "shared" / "lodestar_takes").iterdir())
    assert render_job.render(server, job, tmp_path / "b") == "made"
    one, other = (frames_of(tmp_path / place / "killed.mp4").astype(int) for place in "ab")
    assert one.shape == other.shape == (32, 64, 64, 3) and abs(one - other).mean() < 0.5


def test_no_server_is_said_and_nothing_is_lost(jobs, tmp_path):
    job, = jobs(row("nobody"))
    with pytest.raises(comfy_server.ServerGone, match="no ComfyUI answers at http://127.0.0.1:9"):
        render_job.render_through(render_job.Servers("127.0.0.1:9", 0), job, tmp_path)
    assert not (tmp_path / "nobody.mp4").exists()
