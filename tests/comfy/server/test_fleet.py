"""scripts/fleet.py on a local Ray cluster, in an environment of its own: a worker is killed, each job done once."""
import csv
import os
import re
import runpy

import fleet
import fleet_runs
import pytest
from lib import comfy_server, environment
from lib.jobs import read_jobs
from lib.render_job import Servers, render

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def ray_environment():
    """What the command makes on its first run, here once for all runs of the tests: 400 MB."""
    try:
        return environment.make_environment(list(fleet.RAY))
    except SystemExit as error:
        if os.environ.get("LODESTAR_REQUIRE_ALL"):
            pytest.fail(f"Ray cannot be installed: {error}")
        pytest.skip(f"Ray cannot be installed: {error}")


def test_a_worker_is_killed_and_every_video_is_made_once_as_in_a_serial_run(ray_environment, server, comfyui, tmp_path):
    table = fleet_runs.write_table(tmp_path / "jobs", count=3, seconds=1, steps=12)
    for job in read_jobs(table, fleet_runs.WORKFLOW):
        assert render(server, job, tmp_path / "serial") == "made"
    lines, killed = fleet_runs.run_fleet(table, comfyui, tmp_path, workers=2, kills=1)
    problems = fleet_runs.problems_of(lines, tmp_path, fleet_runs.sums_of(tmp_path / "serial"))
    assert len(killed) == 1 and not problems, lines


def runpod_handler(server, volume):
    """Of the recipe in docs/fleet.md, as it stands there."""
    page = (environment.PACK / "docs" / "fleet.md").read_text(encoding="utf-8")
    code, = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    (volume / "handler.py").write_text(code, encoding="utf-8")
    handler = runpy.run_path(str(volume / "handler.py"))["handler"]
    handler.__globals__.update(VOLUME=volume, servers=Servers(server.url, 0))
    return handler


def row_of(folder):
    """The first job of the table, as an event has it."""
    (folder / "workflow.json").write_bytes(fleet_runs.WORKFLOW.read_bytes())
    with open(folder / "jobs.csv", encoding="utf-8", newline="") as file:
        return next(csv.DictReader(file))


def test_running_servers_are_workers_too(server, tmp_path):
    """One of them, without Ray: what a worker does."""
    worker = fleet.Worker(fleet.open_running(server.url, 0), tmp_path / "to")
    job = read_jobs(fleet_runs.write_table(tmp_path, count=1, seconds=2, steps=20), fleet_runs.WORKFLOW)[0]
    assert [worker.render(job)["how"] for _ in range(2)] == ["made", "there"]
    assert runpod_handler(server, tmp_path)({"input": row_of(tmp_path)}) == {
        "video": f"videos/{job.name}.mp4", "how": "fetched"}
    with pytest.raises(ValueError, match="name: got '../x'"):
        runpod_handler(server, tmp_path)({"input": {**row_of(tmp_path), "name": "../x"}})
    nobody = fleet.Worker(fleet.open_running("127.0.0.1:9", 0), tmp_path / "other")
    assert nobody.render(job)["message"].startswith("its server is gone: no ComfyUI answers")
    assert isinstance(worker._servers.client(), comfy_server.Client)
