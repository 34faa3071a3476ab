"""Runs every check of the pack: `python scripts/test.py`. Standard library only; it makes the tools' environment.

Tiers, in order: lint (ruff, mypy), torch (no ComfyUI), comfy (a real ComfyUI, the newest and the floor side by side),
web (a real browser), gpu (where there is one). All of them run even when one fails; the exit code is 1 if any failed.
"""
import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PACK = environment.PACK
TIERS = ("lint", "torch", "comfy", "web", "gpu")
FLOORS = ("techniques", "pipelines", "backbones", "nodes")
TIER_LIMIT_SECONDS = 1500


@dataclass
class Outcome:
    """What one tier came to. A tier that could not run at all has a reason and, with --require-all, one failure."""
    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reason: str = ""

    def row(self) -> str:
        state = "FAILED" if self.failed else "left out" if self.reason else "ok"
        counts = f"{self.passed:7d} {self.failed:7d} {self.skipped:8d} {self.seconds:8.1f}"
        return f"{self.tier:14s} {state:9s} {counts}  {self.reason}".rstrip()


class Runner:
    """Runs the tools with the environment's Python, each line of output under its tier's name."""

    def __init__(self, python: Path, keyword: str | None, require_all: bool):
        self.python, self.keyword, self.require_all = python, keyword, require_all
        self.children: list[subprocess.Popen] = []

    def run(self, tier: str, arguments: list[str], folder: Path = PACK, **variables: str) -> int:
        """The exit code of `python -m arguments…` in `folder`; a tier that hangs is ended after TIER_LIMIT_SECONDS."""
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1", **variables}
        child = subprocess.Popen([str(self.python), "-m", *arguments], cwd=folder, env=variables, text=True,
                                 encoding="utf-8", errors="replace", stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.children.append(child)
        alarm = threading.Timer(TIER_LIMIT_SECONDS, self.end, [child])
        alarm.start()
        for line in child.stdout:
            print(f"[{tier}] {line}", end="", flush=True)
        alarm.cancel()
        return child.wait()

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
        """ruff over everything, mypy over the four floors under the name `lodestar`, whatever the folder is called."""
        started = time.monotonic()
        codes = [self.run("lint", ["ruff", "check", "--no-cache", "--output-format=concise", "."])]
        with tempfile.TemporaryDirectory() as temporary:
            stage = Path(temporary) / "lodestar"
            for part in ("__init__.py", *FLOORS):
                environment.link_or_copy(PACK / part, stage / part)
            packages = [word for floor in FLOORS for word in ("-p", f"lodestar.{floor}")]
            codes.append(self.run("lint", ["mypy", f"--config-file={PACK / 'pyproject.toml'}",
                                           f"--cache-dir={os.devnull}", *packages], Path(temporary)))
        return Outcome("lint", codes.count(0), len(codes) - codes.count(0), 0, time.monotonic() - started)

    def pytest(self, tier: str, arguments: list[str], **variables: str) -> Outcome:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as temporary:
            report = Path(temporary) / "junit.xml"
            keyword = ["-k", self.keyword] if self.keyword else []
            code = self.run(tier, ["pytest", "-q", "--durations=8", "--continue-on-collection-errors",
                                   f"--junitxml={report}", *keyword, *arguments],
                            **variables)
            outcome = Outcome(tier, *count(report), seconds=time.monotonic() - started)
        if code == 5 and self.keyword:
            outcome.reason = f"no test matches {self.keyword!r}"
        elif code and not outcome.failed:
            outcome.failed, outcome.reason = 1, f"pytest ended with exit code {code}"
        return outcome

    def left_out(self, tier: str, reason: str) -> Outcome:
        print(f"[{tier}] left out: {reason}", flush=True)
        return Outcome(tier, failed=int(self.require_all), reason=reason)


def count(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit file; zeros where pytest ended before it wrote one."""
    if not report.is_file():
        return 0, 0, 0
    totals = {key: sum(int(suite.get(key, 0)) for suite in ElementTree.parse(report).iter("testsuite"))
              for key in ("tests", "failures", "errors", "skipped")}
    failed = totals["failures"] + totals["errors"]
    return totals["tests"] - failed - totals["skipped"], failed, totals["skipped"]


def comfy_tiers(runner: Runner, trees: dict[str, Path | None]) -> list[Outcome]:
    """tests/comfy once per ComfyUI, side by side, so that the slower one sets the time."""
    def one(version: str) -> Outcome:
        if trees[version] is None:
            return runner.left_out(f"comfy-{version}", f"ComfyUI {version} is not here and could not be cloned")
        return runner.pytest(f"comfy-{version}", ["tests/comfy"], COMFYUI_PATH=str(trees[version]))
    with ThreadPoolExecutor(len(trees)) as pool:
        try:
            return list(pool.map(one, trees))
        finally:
            runner.end_all()  # on Ctrl-C, before the pool waits for them


def web_tier(runner: Runner, comfyui: Path | None) -> Outcome:
    chromium = environment.find_chromium()
    if comfyui is None or chromium is None:
        missing = "a ComfyUI" if comfyui is None else "a Chromium or Chrome ($CHROMIUM_PATH)"
        return runner.left_out("web", f"it needs {missing}")
    return runner.pytest("web", ["tests/web"], COMFYUI_PATH=str(comfyui), CHROMIUM_PATH=chromium)


def gpu_tier(runner: Runner, comfyui: Path | None) -> Outcome:
    has_gpu = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([str(runner.python), "-c", has_gpu], capture_output=True).returncode:
        return Outcome("gpu", reason="no CUDA device here")
    if comfyui is None:
        return runner.left_out("gpu", "it needs a ComfyUI")
    return runner.pytest("gpu", ["tests/gpu"], COMFYUI_PATH=str(comfyui))


def run_tiers(runner: Runner, wanted: list[str], trees: dict[str, Path | None]) -> list[Outcome]:
    outcomes = []
    if "lint" in wanted:
        outcomes.append(runner.lint())
    if "torch" in wanted:
        elsewhere = [f"--ignore=tests/{folder}" for folder in ("comfy", "web", "gpu")]
        outcomes.append(runner.pytest("torch", ["tests", *elsewhere]))
    if "comfy" in wanted:
        outcomes.extend(comfy_tiers(runner, trees))
    if "web" in wanted:
        outcomes.append(web_tier(runner, trees[environment.NEWEST]))
    if "gpu" in wanted:
        outcomes.append(gpu_tier(runner, trees[environment.NEWEST]))
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI folder to test with; default: found, else cloned")
    parser.add_argument("--tier", action="append", choices=TIERS, help="only this tier; may be given several times")
    parser.add_argument("-k", dest="keyword", help="only tests whose name matches, as pytest's -k")
    parser.add_argument("--require-all", action="store_true", help="a missing ComfyUI or browser is a failure")
    options = parser.parse_args()
    environment.stop_on_signals()
    own = environment.own_comfyui(options.comfyui)
    trees = {version: environment.find_comfyui(version, own) for version in (environment.NEWEST, environment.FLOOR)}
    runner = Runner(environment.make_environment(environment.requirements(trees[environment.NEWEST])),
                    options.keyword, options.require_all)
    try:
        outcomes = run_tiers(runner, options.tier or list(TIERS), trees)
    finally:
        runner.end_all()
    print(f"\n{'tier':14s} {'':9s} {'passed':>7s} {'failed':>7s} {'skipped':>8s} {'seconds':>8s}")
    for outcome in outcomes:
        print(outcome.row())
    passed, failed = sum(outcome.passed for outcome in outcomes), sum(outcome.failed for outcome in outcomes)
    print(f"\n{passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
