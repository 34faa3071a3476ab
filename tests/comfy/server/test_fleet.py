"""scripts/fleet.py on a local Ray cluster: two workers with a ComfyUI each, killed twice; each job finished once."""
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import render
from lib import comfy_server, environment
from lib.jobs import read_jobs
from served_takes import frames_of

pytestmark = pytest.mark.once

ray = pytest.importorskip("ray", reason="pip install ray")
WORKFLOW = environment.PACK / "tests" / "golden" / "tiny_take.json"
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def table(tmp_path):
    for name in ("portrait.png", "speech.flac"):
        (tmp_path / name).write_bytes((environment.PACK / "assets" / name).read_bytes())
    rows = [f"{name},portrait.png,speech.flac,{seed},2,64,64,17,20\n" for seed, name in enumerate(NAMES)]
    (tmp_path / "jobs.csv").write_text(
        "name,picture,speech,seed,seconds,LodestarPlanTake.width,LodestarPlanTake.height,LodestarPlanTake.chunk_frames,"
        "BasicScheduler.steps\n" + "".join(rows))
    return tmp_path / "jobs.csv"


def test_a_worker_is_killed_and_every_job_is_finished_once(table, comfyui, monkeypatch, capsys, tmp_path):
    import fleet
    monkeypatch.setattr(sys, "argv", ["fleet.py", str(table), "--workflow", str(WORKFLOW), "--comfyui", str(comfyui),
                                      "--workers", "2", "--output", str(tmp_path / "shared"), "--json"])
    monkeypatch.setattr(environment, "make_environment", lambda wanted: Path(sys.executable))
    monkeypatch.setattr(environment, "enter", lambda python: None)
    monkeypatch.setattr(environment, "stop_on_signals", lambda: None)
    killed, say = [], render.Reporter.say

    def kill_its_worker(self, event, number, job, words="", **more):
        if len(killed) < 2 and "worker" in more:     # it has the next job already
            killed.append(more["worker"])
            os.kill(more["worker"], signal.SIGKILL)
        say(self, event, number, job, words, **more)

    monkeypatch.setattr(render.Reporter, "say", kill_its_worker)
    try:
        with pytest.raises(SystemExit) as ended:
            fleet.main()
    finally:
        ray.shutdown()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 0 and killed, lines
    assert sorted(line["job"] for line in lines if line["event"] == "finished") == list(NAMES)
    assert len({line["worker"] for line in lines if line["event"] == "finished"}) > 1
    shared, videos = tmp_path / "shared", tmp_path / "jobs_videos"
    made = sorted(path.name.split("-")[0] for path in (shared / "lodestar_jobs").glob("*.mp4"))
    assert made == list(NAMES), "each once"
    assert not list((shared / "lodestar_takes").iterdir())
    assert all(len(frames_of(videos / f"{name}.mp4")) == 32 for name in NAMES)
    assert [job.name for job in read_jobs(table, WORKFLOW)] == list(NAMES)


def test_running_servers_are_workers_too(server, table, tmp_path):
    """One of them, without Ray: what a worker does."""
    import fleet
    worker = fleet.Worker(fleet.open_running(server.url, 0), tmp_path / "to")
    job = read_jobs(table, WORKFLOW)[0]
    assert [worker.render(job)["how"] for _ in range(2)] == ["made", "there"]
    nobody = fleet.Worker(fleet.open_running("127.0.0.1:9", 0), tmp_path / "other")
    assert nobody.render(job)["message"].startswith("its server is gone: no ComfyUI answers")
    assert isinstance(worker._servers.client(), comfy_server.Client)
