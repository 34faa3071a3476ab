"""Renders many takes: `python scripts/render.py JOBS.csv|FOLDER`, each as a video of its own, one after another.

A row of the table is a job: name, picture, speech, workflow, script, seed, seconds, and any NODE.INPUT (docs/batch.md).
In a folder every sound is one, with the picture of its name. They go through a running ComfyUI (--server URL), else one
is started. Give the same command again after a crash, a cancel or a change: finished jobs are not made again, half ones
go on. Ctrl-C cancels the job that runs. Exit codes: 0 all are finished, 1 some failed, 2 the jobs cannot be read, 3
there is no server, 130 cancelled.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

from lib import comfy_server, own_server
from lib.jobs import Job, read_jobs
from lib.progress import Progress
from lib.render_job import is_finished, render_through

WORKFLOW = environment.PACK / "workflows" / "api" / "puppet.json"
FINISHED, SOME_FAILED, BAD_JOBS, NO_SERVER, CANCELLED = 0, 1, 2, 3, 130
JOB_ERRORS = (comfy_server.PromptRefused, comfy_server.PromptFailed, comfy_server.PromptCancelled, ValueError, OSError)


class Reporter:
    """Says what happens: bars and sentences, or a line of JSON each."""

    def __init__(self, as_json: bool, jobs: int):
        self._json, self._jobs, self._out = as_json, jobs, sys.stdout

    def say(self, event: str, number: int, job: Job, words: str = "", **more) -> None:
        """`event`: started, note, progress, finished or failed."""
        if self._json:
            print(json.dumps({"event": event, "job": job.name, "number": number, "jobs": self._jobs,
                              **({"message": words} if words else {}), **more}), file=self._out, flush=True)
        elif words:
            print(f"[{number}/{self._jobs}] {job.name}: {words}", file=self._out, flush=True)

    def events_of(self, number: int, job: Job):
        """Takes the server's messages of one job."""
        if not self._json:
            from lib.graph import Graph
            return Progress(Graph.read(job.workflow))

        def tell(kind: str, data: dict) -> None:
            if kind == "lodestar.chunk":
                self.say("progress", number, job, **{key: data[key] for key in (
                    "chunk", "chunks", "frames_done", "frames_total", "seconds_left")})
        return tell

    def close(self, results: dict[str, str], seconds: float) -> None:
        counts = {kind: sum(1 for result in results.values() if result == kind)
                  for kind in ("made", "fetched", "there", "failed")}
        if self._json:
            print(json.dumps({"event": "end", "jobs": self._jobs, **counts, "seconds": round(seconds, 1)}),
                  file=self._out, flush=True)
        else:
            print(f"{self._jobs} jobs in {seconds:.0f} s: {counts['made']} made, {counts['fetched']} brought from the "
                  f"server, {counts['there']} were there, {counts['failed']} failed", file=self._out, flush=True)


def render_all(servers: own_server.Servers, jobs: list[Job], folder: Path, report: Reporter) -> dict[str, str]:
    """How each job ended. One that fails leaves the others alone; ServerGone ends them all."""
    results: dict[str, str] = {}
    for number, job in enumerate(jobs, 1):
        since = time.monotonic()
        report.say("started", number, job)
        events = report.events_of(number, job)
        say = partial(report.say, "note", number, job)
        try:
            results[job.name] = how = render_through(servers, job, folder, events, say)
        except comfy_server.ServerGone:
            raise
        except JOB_ERRORS as error:
            results[job.name] = "failed"
            close_line(events)
            report.say("failed", number, job, str(error) or type(error).__name__)
            continue
        close_line(events)
        path = folder / f"{job.name}.mp4"
        before = {"there": " (was there)", "fetched": " (was made before)"}.get(how, "")
        report.say("finished", number, job, f"{path}{before}", how=how, video=str(path),
                   seconds=round(time.monotonic() - since, 1))
    return results


def close_line(events) -> None:
    if isinstance(events, Progress) and events.last_line and sys.stdout.isatty():
        print()


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job_options(parser)
    parser.add_argument("--server", metavar="URL", help="a running ComfyUI that has the pack and the models")
    parser.add_argument("--patience", type=float, default=300, metavar="SECONDS",
                        help="how long a running server may be gone; default: 300")
    parser.add_argument("--json", action="store_true", help="a line of JSON for everything that happens")
    parser.add_argument("--dry-run", action="store_true", help="say which jobs are finished and which are to be made")
    return parser.parse_args(arguments)


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """What render.py and fleet.py both take."""
    parser.add_argument("jobs", type=lambda text: Path(text).expanduser().resolve(), metavar="JOBS.csv|FOLDER")
    parser.add_argument("--workflow", type=environment.existing_file, default=WORKFLOW,
                        help="in API format, for jobs that name none; default: the puppet's")
    parser.add_argument("--to", type=Path, metavar="FOLDER",
                        help="where the videos go; default: NAME_videos beside JOBS")
    parser.add_argument("--output", type=lambda text: Path(text).expanduser().resolve(), metavar="FOLDER",
                        help="output folder of a ComfyUI that is started, where unfinished takes lie")
    parser.add_argument("--gpu", action="store_true",
                        help="let a ComfyUI that is started use the GPU; default: CPU only")
    parser.add_argument("--comfyui", type=Path, help="the folder of the ComfyUI to start; default: found, else cloned")
    parser.add_argument("--python", type=environment.python_called, metavar="PYTHON",
                        help="one that has what ComfyUI, the pack and this need, as in an image; default: an "
                        "environment is made")


def jobs_of(options: argparse.Namespace) -> tuple[list[Job], Path]:
    """The jobs and where their videos go; ends the command where they cannot be read."""
    try:
        jobs = read_jobs(options.jobs, options.workflow)
    except (ValueError, OSError) as error:
        print(f"These jobs cannot be rendered:\n{error}", file=sys.stderr)
        sys.exit(BAD_JOBS)
    return jobs, (options.to or options.jobs.with_name(f"{options.jobs.stem}_videos")).expanduser().resolve()


def comfyui_of(options: argparse.Namespace) -> Path | None:
    """The ComfyUI to start; None where one that runs is used. Ends the command where there is none."""
    if options.server:
        return None
    found = environment.own_comfyui(options.comfyui) or environment.find_comfyui(environment.NEWEST)
    if found is None:
        print("No ComfyUI: name one with --comfyui PATH, or a running one with --server URL.", file=sys.stderr)
        sys.exit(NO_SERVER)
    return found


def main() -> None:
    options = parse_options()
    environment.stop_on_signals()
    jobs, folder = jobs_of(options)
    if options.dry_run:
        for job in jobs:
            print(f"{'finished' if is_finished(job, folder, job.digest()) else 'to be made'}  {job.name}")
        return
    if not options.gpu:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    comfyui = comfyui_of(options)
    environment.enter(options.python or environment.make_environment(
        list(environment.requirements(comfyui) if comfyui else environment.CLIENT)))
    report, started = Reporter(options.json, len(jobs)), time.monotonic()
    texts = [path.read_text(encoding="utf-8") for path in {job.workflow for job in jobs}]
    try:
        with own_server.server_for(options, comfyui, texts) as servers:
            results = render_all(servers, jobs, folder, report)
    except comfy_server.ServerGone as error:
        print(f"{error}\nWhat is finished is safe: the same command goes on.", file=sys.stderr)
        sys.exit(NO_SERVER)
    report.close(results, time.monotonic() - started)
    sys.exit(SOME_FAILED if "failed" in results.values() else FINISHED)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("cancelled: the same command goes on", file=sys.stderr)
        sys.exit(CANCELLED)
