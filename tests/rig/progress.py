"""A pytest plugin for scripts/test.py: which test began and how it ended, line by line in a file that survives a kill.

Tests that stand in the file ($LODESTAR_PROGRESS) already are not run again, so a tier that was ended while a test hung
goes on behind that test.
"""
import json
import os
import time
from pathlib import Path

SEVERITY = ("began", "passed", "skipped", "failed")


def states(path: Path) -> dict[str, str]:
    """{test: "began", "passed", "skipped" or "failed"}: the worst that its phases came to, "began" where none ended."""
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        test, state = json.loads(line)
        found[test] = max(state, found.get(test, "began"), key=SEVERITY.index)
    return found


def append(path: Path, test: str, state: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps([test, state]) + "\n")


class Progress:
    def __init__(self, path: Path):
        self.path = path

    def pytest_collection_modifyitems(self, config, items):
        done = states(self.path)
        left_out = [item for item in items if item.nodeid in done]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid not in done]
        os.utime(self.path, (time.time(), time.time()))   # collecting is progress, too

    def pytest_collectreport(self, report):
        if report.failed:
            append(self.path, report.nodeid, "failed")

    def pytest_runtest_logstart(self, nodeid):
        append(self.path, nodeid, "began")

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            append(self.path, report.nodeid, report.outcome)


def pytest_configure(config):
    config.pluginmanager.register(Progress(Path(os.environ["LODESTAR_PROGRESS"])))
