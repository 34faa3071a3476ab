"""Renders many takes on many cards or machines: `python scripts/fleet.py JOBS.csv|FOLDER --workers 4`.

The jobs of render.py as retriable calls of Ray actors, a worker each: a worker starts a ComfyUI of its own (with --gpu
on a card of its own), or has one of the running ones of --servers. Placement, retries and the dashboard are Ray's; what
makes that safe is that a job may be asked for twice: its take lies in one output folder for all (--output, on storage
that all workers see), locked while it runs, and its video is made once (docs/fleet.md). Needs `pip install ray`.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import render
from lib import comfy_server, own_server
from lib.jobs import Job
from lib.render_job import Servers, render_through

RAY = (*environment.CLIENT, "ray>=2.40")
ROOM_SECONDS = 120
TRIES = 20      # of one call, each of which goes on where the last ended


class Worker:
    """One ComfyUI, which it starts, or one that runs; a Ray actor. Ray starts it again where its process died."""

    def __init__(self, open_servers: Callable[[], Servers], folder: Path):
        self._servers, self._folder = open_servers(), folder
        if isinstance(self._servers, own_server.OwnServer):
            self._servers.bring_back()

    def render(self, job: Job) -> dict:
        """How it ended: {"job", "how", "message", "seconds"}. A worker that dies in it is called again."""
        since, said = time.monotonic(), ""
        try:
            how = render_through(self._servers, job, self._folder)
        except render.JOB_ERRORS as error:
            how, said = "failed", str(error) or type(error).__name__
        except comfy_server.ServerGone as error:
            how, said = "failed", f"its server is gone: {error}"
        return {"job": job.name, "how": how, "message": said, "seconds": round(time.monotonic() - since, 1),
                "worker": os.getpid()}

    def ready(self) -> int:
        """Its process."""
        return os.getpid()


def open_own(comfyui: Path, base: Path, python: Path, gpu: bool, output: Path) -> Callable[[], Servers]:
    """What a worker starts. Its log is its own; everything else lies below `base` and `output`."""
    def start() -> Servers:
        if not gpu:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        own = Path(tempfile.mkdtemp(prefix="lodestar-fleet-"))     # a ComfyUI empties its temp folder
        return own_server.OwnServer(comfyui, base, python=python, gpu=gpu, output=output, log=own / "server.log",
                                    arguments=("--temp-directory", str(own)))
    return start


def open_running(url: str, patience: float) -> Callable[[], Servers]:
    return lambda: Servers(url, patience)


def render_on(ray, openers: list[Callable[[], Servers]], jobs: list[Job], folder: Path, gpu: bool,
              report: render.Reporter) -> dict[str, str]:
    """All jobs on one worker per opener: whoever is free gets the next. How each ended."""
    from ray.util import ActorPool
    actor = ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=-1, max_task_retries=TRIES)(Worker)
    workers = [actor.remote(opener, folder) for opener in openers]
    waiting = [worker.ready.remote() for worker in workers]
    while waiting:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=ROOM_SECONDS)
        if waiting:
            print(f"{len(waiting)} of {len(workers)} workers are not there yet: no free {'card' if gpu else 'core'} "
                  "for them in the cluster, or their ComfyUI still starts", flush=True)
    pool, numbers = ActorPool(workers), {job.name: (number, job) for number, job in enumerate(jobs, 1)}
    results: dict[str, str] = {}
    for result in pool.map_unordered(lambda worker, job: worker.render.remote(job), jobs):
        number, job = numbers[result["job"]]
        results[job.name] = result["how"]
        event = "failed" if result["how"] == "failed" else "finished"
        report.say(event, number, job, result["message"] or f"{folder / job.name}.mp4 ({result['how']})",
                   how=result["how"], seconds=result["seconds"], worker=result["worker"])
    return results


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    render.add_job_options(parser)
    parser.add_argument("--workers", type=int, default=1, help="how many ComfyUIs to start; default: 1")
    parser.add_argument("--servers", default="", metavar="URL,URL", help="running ones instead, with one output folder")
    parser.add_argument("--patience", type=float, default=300, metavar="SECONDS",
                        help="how long a running server may be gone; default: 300")
    parser.add_argument("--address", metavar="RAY", help="a Ray cluster, such as auto; default: one on this machine")
    parser.add_argument("--json", action="store_true", help="a line of JSON for everything that happens")
    options = parser.parse_args(arguments)
    options.server = options.servers
    if options.workers < 1:
        parser.error("--workers: wanted 1 or more")
    return options


def openers_of(options: argparse.Namespace, jobs: list[Job]) -> list[Callable[[], Servers]]:
    """How each worker comes to its server."""
    if options.servers:
        return [open_running(url.strip(), options.patience) for url in options.servers.split(",") if url.strip()]
    comfyui = render.comfyui_of(options)
    assert comfyui, "one was found, or the command has ended"
    python = options.python or environment.make_environment(environment.requirements(comfyui))
    tiny = any(own_server.TINY in path.read_text(encoding="utf-8") for path in {job.workflow for job in jobs})
    base = own_server.base_of(comfyui, "fleet", python if tiny else None)
    output = options.output or base / "output"
    return [open_own(comfyui, base, python, options.gpu, output)] * options.workers


def main() -> None:
    options = parse_options()
    environment.stop_on_signals()
    jobs, folder = render.jobs_of(options)
    environment.enter(options.python or environment.make_environment(list(RAY)))
    import ray
    openers = openers_of(options, jobs)
    report, started = render.Reporter(options.json, len(jobs)), time.monotonic()
    paths = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]    # the same on each machine
    with contextlib.redirect_stdout(sys.stderr):    # what Ray says of workers that died
        own = {} if options.address else {"num_cpus": max(len(openers), os.cpu_count() or 1)}   # a worker each may be
        ray.init(address=options.address, log_to_driver=False, logging_level="warning", **own,
                 runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}})
        results = render_on(ray, openers, jobs, folder, options.gpu, report)
        ray.shutdown()
    report.close(results, time.monotonic() - started)
    sys.exit(render.SOME_FAILED if "failed" in results.values() else render.FINISHED)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("cancelled: the same command goes on", file=sys.stderr)
        sys.exit(render.CANCELLED)
