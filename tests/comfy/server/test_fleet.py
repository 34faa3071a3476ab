"""scripts/fleet.py on a local Ray cluster, in an environment of its own: a worker is killed, each job done once."""
import os

import fleet
import fleet_runs
import pytest
from lib import comfy_server, environment
from lib.jobs import read_jobs
from lib.render_job import render

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
    table = fleet_runs.write_table(tmp_path / "jobs", count=3, seconds=1, steps=6)
    for job in read_jobs(table, fleet_runs.WORKFLOW):
        assert render(server, job, tmp_path / "serial") == "made"
    lines, killed = fleet_runs.run_fleet(table, comfyui, tmp_path, workers=2, kills=1)
    problems = fleet_runs.problems_of(lines, tmp_path, fleet_runs.sums_of(tmp_path / "serial"))
    assert len(killed) == 1 and not problems, lines


def test_running_servers_are_workers_too(server, tmp_path):
    """One of them, without Ray: what a worker does."""
    worker = fleet.Worker(fleet.open_running(server.url, 0), tmp_path / "to")
    job = read_jobs(fleet_runs.write_table(tmp_path, count=1, seconds=2, steps=20), fleet_runs.WORKFLOW)[0]
    assert [worker.render(job)["how"] for _ in range(2)] == ["made", "there"]
    nobody = fleet.Worker(fleet.open_running("127.0.0.1:9", 0), tmp_path / "other")
    assert nobody.render(job)["message"].startswith("its server is gone: no ComfyUI answers")
    assert isinstance(worker._servers.client(), comfy_server.Client)
