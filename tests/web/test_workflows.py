"""The bundled workflows in the page: what opens is what the API files say, readable, and a finished video opens too."""
import json
import re
from urllib.parse import quote

import pytest
from frontend import finished
from lib import comfy_server, environment
from lib.graph import Graph
from lib.templates import NEEDS, template_name

WORKFLOWS = environment.PACK / "workflows"
NAMES = list(NEEDS)
RENDERERS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
TITLE = 30
BOXES = """() => Object.fromEntries(app.graph.nodes.map(node => {
  const shown = document.querySelector(`[data-node-id="${node.id}"]`);
  const [width, height] = shown ? [shown.offsetWidth, shown.offsetHeight - 30] : node.size;
  return [node.id, { box: [...node.pos, width, height], needed: [...node.computeSize()] }];
}))"""
SET = """inputs => app.graph.nodes.forEach(node => node.widgets?.forEach(widget => {
  widget.value = inputs[node.type]?.[widget.name] ?? widget.value; }))"""
DROP = """async file => {
  const answer = await fetch('/view?' + new URLSearchParams(file));
  app.graph.clear();
  await app.handleFile(new File([await answer.blob()], file.filename, { type: 'video/mp4' }));
}"""


def read(*parts: str) -> dict:
    return json.loads(WORKFLOWS.joinpath(*parts).read_text(encoding="utf-8"))


def read_template(name: str) -> dict:
    return read(f"{template_name(name)}.json")


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two nodes [x, y, width, height below the title] touch, title bars included."""
    return (one[0] < other[0] + other[2] and other[0] < one[0] + one[2]
            and one[1] - TITLE < other[1] + other[3] and other[1] - TITLE < one[1] + one[3])


def touching(nodes: dict) -> list[tuple[str, str]]:
    """The nodes of BOXES that cover each other."""
    boxes = {node: found["box"] for node, found in nodes.items()}
    return [(a, b) for a in boxes for b in boxes if a < b and overlap(boxes[a], boxes[b])]


def inside(node: list[float], group: list[float]) -> bool:
    return (group[0] <= node[0] and node[0] + node[2] <= group[0] + group[2]
            and group[1] <= node[1] - TITLE and node[1] + node[3] <= group[1] + group[3])


@pytest.mark.parametrize("name", NAMES)
def test_the_twins_are_equal(frontend, name):
    frontend.load(read_template(name), name)
    prompt = read("api", f"{name}.json")
    assert frontend.prompt() == prompt
    assert all(node["_meta"]["title"] for node in prompt.values())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_needs_no_other_pack(name, server):
    known = server.get("/object_info")
    assert len(read_template(name)["nodes"]) <= 15
    for node in Graph(read("api", f"{name}.json")).nodes():
        module = known[node.kind]["python_module"]
        assert node.kind.startswith("Lodestar") or re.match(r"nodes$|comfy_extras\.", module)


@RENDERERS
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_read(frontend, name, nodes_2):
    """Nothing covers anything, every widget has its room, every node stands in one group, and links go to the right."""
    frontend.nodes_2(nodes_2)
    workflow = read_template(name)
    frontend.load(workflow, name)
    frontend.settle(nodes_2)
    nodes = frontend.run(BOXES)
    boxes = {node: found["box"] for node, found in nodes.items()}
    groups = [group["bounding"] for group in workflow["groups"]]
    assert not touching(nodes)
    assert all(sum(inside(box, group) for group in groups) == 1 for box in boxes.values())
    assert not [(origin, target) for _, origin, _, target, *_ in workflow["links"]
                if boxes[str(origin)][0] > boxes[str(target)][0]]
    assert all(found["needed"][side] <= found["box"][2 + side] for found in nodes.values() for side in (0, 1))


def test_it_opens_from_the_template_browser(frontend, server):
    frontend.nodes_2(False)
    (folder, listed), = server.get("/api/workflow_templates").items()
    assert sorted(listed) == [template_name(name) for name in NAMES]
    for name in listed:  # its picture in the browser
        assert server.request(f"/api/workflow_templates/{folder}/{quote(name)}.jpg").startswith(b"\xff\xd8")
    frontend.run("() => { app.graph.clear(); app.extensionManager.command.execute('Comfy.BrowseTemplates'); }")
    for text in (folder, template_name("first_take")):  # dispatched: a click waits for the renderer to stand still
        frontend.page.get_by_role("dialog").get_by_text(text, exact=True).first.dispatch_event("click")
    frontend.page.wait_for_function("() => app.graph.nodes.some(node => node.type === 'LodestarLongTake')")
    assert frontend.prompt() == read("api", "first_take.json")


@RENDERERS
def test_it_runs_from_the_page_and_the_video_brings_it_back(frontend, server, nodes_2):
    frontend.nodes_2(nodes_2)
    frontend.load(read_template("puppet"), "puppet")
    frontend.run(SET, {"LodestarPlanTake": {"max_seconds": 1, "seed_step": 2 + nodes_2}})   # the other's is cached
    prompt, nodes = frontend.prompt(), frontend.workflow()["nodes"]
    before = set(server.get("/history"))
    frontend.page.get_by_test_id("queue-button").dispatch_event("click")
    entry = finished(server, before)
    assert entry["status"]["status_str"] == "success"
    frontend.page.wait_for_function(
        "() => app.graph.nodes.some(node => node.widgets?.some(w => `${w.value}`.startsWith('Finished: 25 of 25')))")
    frontend.page.wait_for_function(        # Plan Take says what it took from the model
        "() => app.graph.nodes.some(node => node.type === 'LodestarPlanTake' && node.widgets.some("
        "w => `${w.value}`.includes('Taken from the puppet: 25 fps')))")
    frontend.settle(nodes_2)
    assert not touching(frontend.run(BOXES))        # neither the finished video nor the report covers a neighbour
    frontend.run(DROP, comfy_server.finished_video(entry))
    assert frontend.prompt() == prompt and frontend.workflow()["nodes"] == nodes
