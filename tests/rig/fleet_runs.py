"""scripts/fleet.py as a user runs it, a worker of it killed on the way, and the same jobs by scripts/render.py."""
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lib import environment

WORKFLOW = environment.PACK / "tests" / "golden" / "tiny_take.json"
VALUES = {"picture": "portrait.png", "speech": "speech.flac", "LodestarPlanTake.width": 64,
          "LodestarPlanTake.height": 64, "LodestarPlanTake.chunk_frames": 17}
LOOK_SECONDS = 0.03


def write_table(folder: Path, count: int, seconds: float, steps: int) -> Path:
    """A table of `count` jobs that differ in their seed, with the files they name beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("portrait.png", "speech.flac"):
        (folder / name).write_bytes((environment.PACK / "assets" / name).read_bytes())
    rows = [{"name": f"job{seed:02}", **VALUES, "seed": seed, "seconds": seconds, "BasicScheduler.steps": steps}
            for seed in range(count)]
    with open(folder / "jobs.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder / "jobs.csv"


class Killer:
    """Kills one worker in mid-take, and as often as it was started again, up to `kills` times. For more than one it
    begins when all have finished a job, so that a process not seen before is the one that came back. Mid-take is while
    the worker's own server has a file of the folder `takes` open, as it has the lock of the take that it makes."""

    def __init__(self, takes: Path, workers: int, kills: int):
        self.killed: list[int] = []
        self._takes = takes
        self._first: set[int] = set()
        self._known, self._asked, self._kills = workers if kills > 1 else 1, 0, kills

    def look(self, line: dict) -> None:
        """At a line of fleet.py's JSON. A worker that has just finished a job gets the next one."""
        if "worker" not in line or self._asked == self._kills:
            return
        worker = line["worker"]
        if len(self._first) < self._known:
            self._first.add(worker)
        if worker not in self._first if self._asked else len(self._first) == self._known:
            self._asked += 1
            threading.Thread(target=self._kill, args=(worker,), daemon=True).start()

    def _kill(self, worker: int) -> None:
        while Path(f"/proc/{worker}").exists():     # it ends with the fleet when it has no job left
            if any(is_open_below(self._takes, server) for server in children_of(worker)):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    self.killed.append(worker)
                return
            time.sleep(LOOK_SECONDS)


def children_of(process: int) -> list[int]:
    """The processes that it started and that run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):     # it ended in between
            if int(status.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(status.parent.name))
    return found


def is_open_below(folder: Path, process: int) -> bool:
    """Whether the process has a file below the folder open."""
    with suppress(OSError):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                if folder in Path(os.readlink(file)).parents:
                    return True
    return False


@contextmanager
def command(script: str, table: Path, comfyui: Path, folder: Path, *more: str) -> Iterator[subprocess.Popen]:
    """A command on the table's jobs, its lines of JSON on stdout; it is ended with the block."""
    arguments = [sys.executable, str(environment.PACK / "scripts" / script), str(table), "--workflow", str(WORKFLOW),
                 "--comfyui", str(comfyui), "--output", str(folder / "output"), "--to", str(folder / "videos"),
                 "--json", *more]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def run_fleet(table: Path, comfyui: Path, folder: Path, workers: int, kills: int) -> tuple[list[dict], list[int]]:
    """Its lines, and which processes were killed. `folder` gets `output` and `videos`."""
    killer, lines = Killer((folder / "output" / "lodestar_takes").resolve(), workers, kills), []
    with command("fleet.py", table, comfyui, folder, "--workers", str(workers)) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                lines.append(json.loads(line))
                killer.look(lines[-1])
        lines.append({"event": "exit", "code": process.wait()})
    return lines, killer.killed


def run_serial(table: Path, comfyui: Path, folder: Path) -> int:
    """The exit code of render.py."""
    with command("render.py", table, comfyui, folder) as process:
        process.communicate()
        return process.returncode


def sums_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each video."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.mp4"))}


def problems_of(lines: list[dict], folder: Path, wanted: dict[str, str]) -> list[str]:
    """What is wrong after a fleet's run: `wanted` are the sums of a serial run."""
    finished = [line["job"] for line in lines if line["event"] == "finished"]
    names = [name.removesuffix(".mp4") for name in wanted]
    made = sorted(path.name.split("-")[0] for path in (folder / "output" / "lodestar_jobs").glob("*.mp4"))
    left = [path.name for path in (folder / "output" / "lodestar_takes").iterdir()]
    found = sums_of(folder / "videos")
    return [words for wrong, words in (
        (lines[-1]["code"] != 0, f"exit code {lines[-1]['code']}"),
        (sorted(finished) != names, f"finished {len(finished)} times, {len(set(finished))} of {len(names)} jobs"),
        (made != names, f"{len(made)} videos of {len(names)} jobs were made: {made}"),
        (bool(left), f"working files are left: {left}"),
        (found != wanted, f"not as in a serial run: {[job for job in wanted if found.get(job) != wanted[job]]}"),
    ) if wrong]
