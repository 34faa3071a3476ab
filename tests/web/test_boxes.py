"""The node search finds the pack by what people type, and each box that it offers is its workflow in one node."""
import json

import pytest
from lib import environment
from lib.blueprints import BLUEPRINTS

WORDS = ("talking", "talking head", "avatar", "lip sync", "long video", "wav2vec", "identity", "audio to video",
         "sadtalker", "infinitetalk")
FOUND = """names => [...document.querySelectorAll('[data-testid=result-item]')].filter(
  item => names.some(name => item.textContent.includes(name))).length > 0"""


def search(frontend, words):
    """Type into the search that a double click on the canvas opens."""
    frontend.run("() => { app.extensionManager.command.execute('Workspace.SearchBox.Toggle'); }")
    field = frontend.page.locator("input[role=combobox]").last
    field.wait_for()
    field.fill(words)
    return field


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


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_a_box_is_its_workflow(frontend, server, name):
    """Each box queues what its workflow does; what comes from outside is not connected yet."""
    box = BLUEPRINTS[name]
    frontend.open(server)   # a new page: one gives a widget the value that one of its node's id had before
    frontend.said.clear()
    workflow = json.loads((environment.PACK / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
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
