"""Nothing is published from a red main: what publishes waits for all checks, and knows no secret but the registry's."""
import os
import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


def read(name: str) -> dict:
    return yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))


def uses(job: dict) -> list[str]:
    return [step["uses"].partition("@")[0] for step in job.get("steps", []) if "uses" in step]


def triggers(workflow: dict) -> dict:
    return workflow[True]       # YAML 1.1 reads the key `on` as a truth value


def test_the_checks_are_those_of_every_change():
    ci = read("ci.yml")
    assert {"push", "pull_request", "workflow_call"} <= set(triggers(ci))
    nightly = {name for name, job in ci["jobs"].items() if job.get("if") == "github.event_name == 'schedule'"}
    (job,) = (job for name, job in ci["jobs"].items() if name not in nightly)
    runs = [step for step in job["steps"] if "run" in step]
    assert runs[0] == {"run": ".ci/run"} and not job.keys() & {"if", "continue-on-error", "needs"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK) or os.name == "nt"


def test_what_publishes_waits_for_them():
    found = [(path.name, name) for path in sorted(WORKFLOWS.glob("*.yml"))
             for name, job in read(path.name)["jobs"].items() if "Comfy-Org/publish-node-action" in uses(job)]
    assert found == [("publish.yml", "publish")]
    publish = read("publish.yml")
    job = publish["jobs"]["publish"]
    assert publish["jobs"][job["needs"]] == {"uses": "./.github/workflows/ci.yml"} and "if" not in job
    assert triggers(publish) == {"push": {"branches": ["main"], "paths": ["pyproject.toml"]}}


def test_the_only_secret_is_the_registry_s():
    text = "".join(path.read_text(encoding="utf-8") for path in WORKFLOWS.glob("*.yml"))
    assert set(re.findall(r"secrets\.(\w+)", text)) == {"REGISTRY_ACCESS_TOKEN"} and "pull_request_target" not in text
