"""The node search finds the pack by what people type, and offers whole takes in one box: from an empty canvas a talking
puppet is two nodes."""
import json

import pytest
from frontend import finished
from lib import environment
from lib.blueprints import BLUEPRINTS
from lib.comfy_server import finished_video

RENDERERS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
WORDS = ("talking", "talking head", "avatar", "lip sync", "long video", "wav2vec", "identity", "audio to video",
         "sadtalker", "infinitetalk")
FOUND = """names => [...document.querySelectorAll('[data-testid=result-item]')].filter(
  item => names.some(name => item.textContent.includes(name))).length > 0"""
PICK = """name => {
  const item = [...document.querySelectorAll('[data-testid=result-item]')].find(one => one.textContent.includes(name));
  item?.click();
  return Boolean(item);
}"""
STAND = "count => app.graph.nodes.length === count"
PLACED = "() => app.graph.nodes.every(node => !node.flags.ghost)"
SHOWN = """name => { const video = document.querySelector('.lodestar-take.whole video');
  return video?.src.includes(`filename=${name}`) && video.readyState >= 1; }"""
CONNECT = """values => {
  const box = app.graph.nodes.find(node => node.subgraph);
  const person = app.graph.nodes.find(node => node.type === 'LodestarSamplePerson');
  person.connect(0, box, box.inputs.findIndex(input => input.name === 'picture'));
  person.connect(1, box, box.inputs.findIndex(input => input.name === 'speech'));
  for (const [name, value] of Object.entries(values)) box.widgets.find(widget => widget.name === name).value = value;
}"""


def search(frontend, words):
    """Type into the search that a double click on the canvas opens."""
    frontend.run("() => { app.extensionManager.command.execute('Workspace.SearchBox.Toggle'); }")
    field = frontend.page.locator("input[role=combobox]").last
    field.wait_for()
    field.fill(words)
    return field


def add(frontend, name, place):
    """Find a node by its name and put it down: it follows the pointer until a click."""
    count = frontend.run("() => app.graph.nodes.length")
    field = search(frontend, name)
    frontend.page.wait_for_function(PICK, arg=name)
    frontend.page.wait_for_function(STAND, arg=count + 1)
    field.wait_for(state="hidden")
    frontend.page.mouse.move(*place)
    frontend.page.mouse.click(*place)
    frontend.page.wait_for_function(PLACED)


def test_the_search_finds_the_pack_by_what_people_type(frontend, nodes):
    frontend.nodes_2(False)
    frontend.run("() => app.graph.clear()")
    field = search(frontend, "puppet")
    for words in WORDS:
        named = [node["display_name"] for node in nodes.values() if words in node.get("search_aliases", ())]
        named += [name for name, box in BLUEPRINTS.items() if words in box.words]
        field.fill(words)
        assert named, words
        frontend.page.wait_for_function(FOUND, arg=named)
    field.press("Escape")
    field.wait_for(state="hidden")


@RENDERERS
def test_a_talking_puppet_is_two_nodes(frontend, server, nodes_2):
    frontend.nodes_2(nodes_2)
    frontend.run("() => app.graph.clear()")
    add(frontend, "Talking puppet", (1000, 300))
    add(frontend, "Sample Person", (500, 300))
    frontend.run(CONNECT, {"length": 1, "quality": 2 + nodes_2})      # the other's take is finished
    assert len(frontend.run("() => app.graph.nodes.map(node => node.id)")) == 2
    before = set(server.get("/history"))
    frontend.page.get_by_test_id("queue-button").dispatch_event("click")
    entry = finished(server, before)
    assert entry["status"]["status_str"] == "success"
    made = finished_video(entry)
    frontend.page.wait_for_function(SHOWN, arg=made["filename"])      # the box shows it: core's preview is within
    assert server.download(made)[4:8] == b"ftyp"
    frontend.clear()


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_box_is_its_workflow(frontend, name):
    """Each box queues what its workflow does; what comes from outside is not connected yet."""
    box = BLUEPRINTS[name]
    workflow = json.loads((environment.PACK / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    workflow["nodes"][0]["id"] += 3000 + list(BLUEPRINTS).index(name)   # the page gives a widget what its id had before
    frontend.load(workflow, name)
    api = environment.PACK / "workflows" / "api" / f"{box.workflow}.json"
    shown = {entry_id.rpartition(":")[2]: entry for entry_id, entry in frontend.prompt().items()}
    wanted = {key.rpartition(":")[2]: entry for key, entry in json.loads(api.read_text(encoding="utf-8")).items()}
    assert set(shown) == set(wanted) - {str(node) for node in box.outside}
    for node, entry in shown.items():
        for key, value in entry["inputs"].items():
            there = wanted[node]["inputs"][key]
            if isinstance(value, list):
                assert [value[0].rpartition(":")[2], value[1]] == [there[0].rpartition(":")[2], there[1]]
            else:
                assert value == box.values.get(int(node), {}).get(key, there)
    outside = {(str(node), key) for one in box.inputs for node, key in one.goes_to}
    missing = {(node, key) for node, entry in wanted.items() if node in shown
               for key in entry["inputs"] if key not in shown[node]["inputs"]}
    assert missing <= outside
    frontend.clear()
