"""The templates: titles in words, easiest first, and a first line that says what they need."""
import json
import re
from pathlib import Path

import pytest
from lib.graph import Graph
from lib.templates import NEEDS, gigabytes, needs, template_name
from lib.workflow_pages import PAGES

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
MODELS = {path.name for path in (WORKFLOWS.parent / "models").rglob("*") if path.is_file()}
API = {path.stem: Graph.read(path) for path in sorted((WORKFLOWS / "api").glob("*.json"))}


def kind(graph: Graph) -> int:
    """What makes a take of it: 0 speech, 1 a video to follow, 2 the picture alone or a finished video."""
    if any("audio_features" in node.inputs or node.kind == "LodestarLiveTake" for node in graph.nodes()):
        return 0
    return 1 if any(node.kind == "LodestarDrivingVideo" for node in graph.nodes()) else 2


def files(graph: Graph) -> set[str]:
    """The weights that its loaders name."""
    return {value for node in graph.nodes() for name, value in node.inputs.items()
            if isinstance(value, str) and name.endswith("_name") and "ampler" not in name and value != "log-mel"}


def test_every_workflow_is_a_template_under_its_title():
    names = {template_name(name) for name in API}
    assert set(NEEDS) == set(PAGES) == set(API)
    assert {path.stem for path in WORKFLOWS.glob("*.json")} == {path.stem for path in WORKFLOWS.glob("*.jpg")} == names
    assert all(re.fullmatch(r"\d\d [A-Z][\w ,.-]{6,36}", name) and "_" not in name for name in names)


def test_the_easiest_come_first():
    def effort(name: str) -> tuple[float, ...]:     # where nothing is to be fetched, by the author's eye
        return (1, kind(API[name]), gigabytes(name) or 1000) if NEEDS[name] else (0,)
    assert list(NEEDS) == sorted(NEEDS, key=effort)


@pytest.mark.parametrize("name", API)
def test_the_first_line_says_what_it_needs(name):
    workflow = json.loads((WORKFLOWS / f"{template_name(name)}.json").read_text(encoding="utf-8"))
    note, = (node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    assert note == f"{needs(name)}\n\n{PAGES[name].note}", "python scripts/make_workflows.py writes it"
    assert files(API[name]), "no loader found"
    assert (files(API[name]) <= MODELS) == (note.splitlines()[0] == "**Needs:** nothing.")
