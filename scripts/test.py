"""Runs every check of the pack: `python scripts/test.py`. Standard library only; it makes the tools' environment.

Tiers: lint (ruff, mypy), torch (no ComfyUI; also with PyTorch held to AVX2 and to no vector extensions), comfy (a real
ComfyUI, the newest, and the floor held to AVX2), web (a real browser), gpu (where there is one). As many run side by
side as there are cores; all of them run even when one fails; the exit code is 1 if any failed.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

PACK = environment.PACK
TIERS = ("lint", "torch", "comfy", "web", "gpu")
FLOORS = ("techniques", "networks", "pipelines", "backbones", "host", "nodes")
BESIDE = ("training", "experiments")
RIG = environment.rig()
sys.path.append(str(RIG))
import progress  # noqa: E402

TEST_LIMIT_SECONDS = 600     # the slowest takes a tenth of it on two shared cores
PROCESSORS = {               # what PyTorch and the libraries below it may use of a newer processor
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


@dataclass
class Outcome:
    """What one tier came to. A tier that could not run at all has a reason and, with --require-all, one failure."""
    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reason: str = ""
    failures: list[str] = field(default_factory=list)

    def row(self) -> str:
        state = "FAILED" if self.failed else "left out" if self.reason else "ok"
        counts = f"{self.passed:7d} {self.failed:7d} {self.skipped:8d} {self.seconds:8.1f}"
        return f"{self.tier:14s} {state:9s} {counts}  {self.reason}".rstrip()


class Runner:
    """Runs the tools with the environment's Python, each line of output under its tier's name."""

    def __init__(self, python: Path, keyword: str | None, require_all: bool, slow: bool = False):
        self.python, self.keyword, self.require_all, self.slow = python, keyword, require_all, slow
        self.children: list[subprocess.Popen] = []

    def run(self, tier: str, arguments: list[str], folder: Path = PACK, sign_of_life: Path | None = None,
            **variables: str) -> int:
        """The exit code of `python -m arguments…` in `folder`. It is ended when `sign_of_life`, a file it writes to,
        has not been written to for TEST_LIMIT_SECONDS."""
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1",
                     **({"LODESTAR_REQUIRE_ALL": "1"} if self.require_all else {}), **variables}
        child = subprocess.Popen([str(self.python), "-m", *arguments], cwd=folder, env=variables, text=True,
                                 encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.children.append(child)
        if sign_of_life is not None:
            threading.Thread(target=self.watch, args=(child, sign_of_life), daemon=True).start()
        for line in child.stdout or ():
            print(f"[{tier}] {line}", end="", flush=True)
        return child.wait()

    def watch(self, child: subprocess.Popen, sign_of_life: Path) -> None:
        while child.poll() is None:
            time.sleep(1)
            with contextlib.suppress(FileNotFoundError):   # the tier is over
                if time.time() - sign_of_life.stat().st_mtime > TEST_LIMIT_SECONDS:
                    self.end(child)

    @staticmethod
    def end(child: subprocess.Popen) -> None:
        """End a tier and every server and browser that it started."""
        if child.poll() is not None:
            return
        if os.name == "nt":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True)
        else:
            os.killpg(child.pid, signal.SIGKILL)

    def end_all(self) -> None:
        for child in self.children:
            self.end(child)

    def lint(self) -> Outcome:
        """ruff over everything; mypy over the floors and what is beside them under the name `lodestar`, whatever the
        folder is called, and over the commands."""
        started = time.monotonic()
        codes = [self.run("lint", ["ruff", "check", "--no-cache", "--output-format=concise", "."])]
        with tempfile.TemporaryDirectory() as temporary:
            stage = Path(temporary) / "lodestar"
            for part in ("__init__.py", *FLOORS, *BESIDE):
                environment.link_or_copy(PACK / part, stage / part)
            names = [word for name in (*FLOORS, *BESIDE) for word in ("-p", f"lodestar.{name}")]
            commands = [word for path in sorted((PACK / "scripts").glob("*.py")) for word in ("-m", path.stem)]
            codes.append(self.run("lint", ["mypy", f"--config-file={PACK / 'pyproject.toml'}",
                                           f"--cache-dir={os.devnull}", *names, "-p", "lib", *commands],
                                  Path(temporary), MYPYPATH=os.pathsep.join((str(PACK / "scripts"), str(RIG)))))
        return Outcome("lint", codes.count(0), len(codes) - codes.count(0), 0, time.monotonic() - started)

    def pytest(self, tier: str, arguments: list[str], marks: str = "",
               variables: dict[str, str] | None = None) -> Outcome:
        """A test that hangs or takes the process down fails; the tier then goes on behind it."""
        started = time.monotonic()
        marks = " and ".join(filter(None, [marks, "" if self.slow else "not slow"]))
        keyword = ["-k", self.keyword] if self.keyword else []
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "progress"
            file.touch()
            went_on = True
            while went_on:
                code = self.run(tier, ["pytest", "-q", "-p", "progress", "--durations=25", "-m", marks, *keyword,
                                       "--continue-on-collection-errors", *arguments], sign_of_life=file,
                                folder=PACK, **(variables or {}), PYTHONPATH=str(RIG), LODESTAR_PROGRESS=str(file))
                unfinished = [test for test, state in progress.states(file).items() if state == "began"]
                for test in unfinished:
                    print(f"[{tier}] {test} was running when pytest ended with exit code {code}: it hung or crashed",
                          flush=True)
                    progress.append(file, test, "failed")
                went_on = bool(unfinished)
            ended = progress.states(file)
        states = list(ended.values())
        passed, failed, skipped = map(states.count, ("passed", "failed", "skipped"))
        outcome = Outcome(tier, passed, failed, skipped, time.monotonic() - started,
                          failures=[test for test, state in ended.items() if state == "failed"])
        if code == 5 and (self.keyword or states):
            outcome.reason = "" if states else f"no test matches {self.keyword!r}"
        elif code and not outcome.failed:
            outcome.failed, outcome.reason = 1, f"pytest ended with exit code {code}"
        return outcome

    def skip_tier(self, tier: str, reason: str) -> Outcome:
        print(f"[{tier}] left out: {reason}", flush=True)
        return Outcome(tier, failed=int(self.require_all), reason=reason)


def torch_tier(runner: Runner, processor: str = "") -> Outcome:
    """What needs no ComfyUI; on a lesser processor only what may compute something else there."""
    elsewhere = [f"--ignore=tests/{folder}" for folder in ("comfy", "web", "gpu")]
    return runner.pytest("-".join(filter(None, ("torch", processor))), ["tests", *elsewhere],
                         "not once" if processor else "", PROCESSORS.get(processor))


def comfy_tier(runner: Runner, version: str, comfyui: Path | None) -> Outcome:
    """With the floor, only what may depend on the ComfyUI, and on a lesser processor: both at the price of one."""
    if comfyui is None:
        return runner.skip_tier(f"comfy-{version}", f"ComfyUI {version} is not here and could not be cloned")
    floor = version == environment.FLOOR
    return runner.pytest(f"comfy-{version}", ["tests/comfy"], "not once" if floor else "",
                         {"COMFYUI_PATH": str(comfyui), **(PROCESSORS["avx2"] if floor else {})})


def web_tier(runner: Runner, comfyui: Path | None) -> Outcome:
    chromium = environment.find_chromium()
    if comfyui is None or chromium is None:
        missing = "a ComfyUI" if comfyui is None else "a Chromium or Chrome ($CHROMIUM_PATH)"
        return runner.skip_tier("web", f"it needs {missing}")
    return runner.pytest("web", ["tests/web"], variables={"COMFYUI_PATH": str(comfyui), "CHROMIUM_PATH": chromium})


def gpu_tier(runner: Runner, comfyui: Path | None) -> Outcome:
    has_gpu = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([str(runner.python), "-c", has_gpu], capture_output=True).returncode:
        return Outcome("gpu", reason="no CUDA device here")
    if comfyui is None:
        return runner.skip_tier("gpu", "it needs a ComfyUI")
    return runner.pytest("gpu", ["tests/gpu"], variables={"COMFYUI_PATH": str(comfyui)})


def run_tiers(runner: Runner, wanted: list[str], trees: dict[str, Path | None]) -> list[Outcome]:
    """The longest begin first. Outcomes in the order of the table that is printed."""
    newest = trees[environment.NEWEST]
    tiers: dict[str, list[Callable[[], Outcome]]] = {
        "comfy": [partial(comfy_tier, runner, version, tree) for version, tree in trees.items()],
        "web": [partial(web_tier, runner, newest)],
        "torch": [partial(torch_tier, runner, processor) for processor in ("", *PROCESSORS)],
        "lint": [runner.lint],
        "gpu": [partial(gpu_tier, runner, newest)],
    }
    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 4)) as pool:
        try:
            return list(pool.map(lambda tier: tier(), [one for name in tiers if name in wanted for one in tiers[name]]))
        finally:
            runner.end_all()  # on Ctrl-C, before the pool waits for them


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI folder to test with; default: found, else cloned")
    parser.add_argument("--tier", action="append", choices=TIERS, help="only this tier; may be given several times")
    parser.add_argument("-k", dest="keyword", help="only tests whose name matches, as pytest's -k")
    parser.add_argument("--slow", action="store_true", help="the slow tests too, as every night")
    parser.add_argument("--require-all", action="store_true", help="a missing ComfyUI or browser is a failure")
    options = parser.parse_args()
    environment.stop_on_signals()
    own = environment.own_comfyui(options.comfyui)
    trees = {version: environment.find_comfyui(version, own) for version in (environment.NEWEST, environment.FLOOR)}
    runner = Runner(environment.make_environment(environment.requirements(trees[environment.NEWEST])),
                    options.keyword, options.require_all, options.slow)
    try:
        outcomes = run_tiers(runner, options.tier or list(TIERS), trees)
    finally:
        runner.end_all()
    print(f"\n{'tier':14s} {'':9s} {'passed':>7s} {'failed':>7s} {'skipped':>8s} {'seconds':>8s}")
    for outcome in outcomes:
        print(outcome.row())
    for outcome in outcomes:
        for test in outcome.failures:
            print(f"{outcome.tier} FAILED {test}")
    passed, failed = sum(outcome.passed for outcome in outcomes), sum(outcome.failed for outcome in outcomes)
    print(f"\n{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
