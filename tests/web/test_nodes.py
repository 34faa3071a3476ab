"""The pack in the page: it loads in silence, every node can be added in both renderers, tooltips and help are there."""
from contextlib import contextmanager

import pytest
from lib import environment
from playwright.sync_api import expect

PAGES = sorted((environment.PACK / "web" / "docs").glob("*.md"))
RENDERERS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
# Under an id that no graph had: the page keeps which widgets a node shows by its id, beyond the graph's end.
ADD = """id => {
  const node = LiteGraph.createNode(id);
  app.graph.clear();
  node.id = window.nodesAdded = (window.nodesAdded ?? 1000) + 1;
  app.graph.add(node);
  node.pos = [100, 100];
  app.canvas.ds.reset();
  app.canvas.setDirty(true, true);
  return { title: node.title, size: [...node.size], needed: [...node.computeSize()],
           inputs: node.inputs.map(input => input.name), outputs: node.outputs.map(output => output.name),
           widgets: node.widgets?.map(widget => widget.name) ?? [] };
}"""


def test_the_pack_loads_in_silence(frontend, server):
    assert any(path.endswith("/lodestar.js") for path in server.get("/extensions"))
    names = frontend.run("() => app.extensions.map(extension => extension.name)")
    assert names.count("lodestar.progress") == 1


@RENDERERS
def test_every_node_can_be_added(frontend, nodes, nodes_2):
    frontend.nodes_2(nodes_2)
    for name, node in nodes.items():
        added = frontend.run(ADD, name)
        wanted = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        assert added["title"] == node["display_name"]
        assert set(wanted) <= {*added["inputs"], *added["widgets"]} and added["outputs"] == node["output_name"]
        assert added["size"][0] >= added["needed"][0] and added["size"][1] >= added["needed"][1]
        if nodes_2:
            shown = frontend.page.locator("[data-node-id]")
            for text in (node["display_name"], *wanted):    # each waits: the node before may still be shown
                expect(shown).to_contain_text(text)


def test_every_input_has_a_tooltip(nodes):
    bare = [(name, key) for name, node in nodes.items() for kind in ("required", "optional")
            for key, (_, options) in node["input"].get(kind, {}).items() if not options.get("tooltip")]
    assert nodes and not bare


def test_a_tooltip_appears(frontend, nodes):
    frontend.nodes_2(True)
    frontend.run(ADD, "LodestarPlanTake")
    label = frontend.page.locator("[data-node-id]").get_by_text("seed_step", exact=True)
    label.wait_for()
    label.hover(force=True)
    frontend.page.get_by_text(nodes["LodestarPlanTake"]["input"]["required"]["seed_step"][1]["tooltip"]).wait_for()


def test_every_help_page_is_served(server, nodes):
    assert {page.stem for page in PAGES} == set(nodes)
    for page in PAGES:
        folder = nodes[page.stem]["python_module"].removeprefix("custom_nodes.")
        assert server.request(f"/extensions/{folder}/docs/{page.name}") == page.read_bytes()


PICTURES = sorted(page.stem for page in PAGES if "](layout_" in page.read_text(encoding="utf-8"))
DRAWN = """() => { const image = document.querySelector('.node-help-content img');
                   return image?.complete && image.naturalWidth; }"""
WIDTHS = """() => [...document.querySelectorAll('.node-help-content table')].map(
  table => [table.scrollWidth, table.parentElement.clientWidth])"""


@contextmanager
def help_opened(frontend, name):
    """The side panel with the help page of a node."""
    frontend.nodes_2(False)
    frontend.run(ADD, name)
    frontend.run("() => app.canvas.selectNode(app.graph.nodes[0])")
    frontend.page.get_by_test_id("info-button").dispatch_event("click")
    frontend.page.wait_for_function(DRAWN)
    yield
    frontend.run("() => app.canvas.deselectAll()")
    frontend.said[:] = [line for line in frontend.said if not line[2].endswith("/en.md")]  # it asks for a translation


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_of_a_help_page_is_shown(frontend, name):
    with help_opened(frontend, name):
        assert frontend.run(DRAWN) == 640


@pytest.mark.parametrize("name", ["LodestarLongTake", "LodestarLoadLongCatLora"])
def test_the_tables_of_a_help_page_fit_the_panel(frontend, name):
    with help_opened(frontend, name):
        widths = frontend.run(WIDTHS)
        assert widths and all(wide <= room for wide, room in widths), widths
