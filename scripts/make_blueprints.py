"""Make subgraphs/*.json, boxes that ComfyUI's node search offers: `python scripts/make_blueprints.py`. For developers.

Each workflow of workflows/api that scripts/lib/blueprints.py names is opened in ComfyUI's own frontend, made one
subgraph there and saved as the frontend saves it. The result is the same on every run.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import json
import sys
import tempfile
from pathlib import Path

from lib import comfy_server
from lib.blueprints import BLUEPRINTS, WORDS, Blueprint
from make_workflows import (
    FIX_SEEDS,
    WORKFLOWS,
    Frontend,
    flat,
    format_workflow,
    opened,
    same_every_time,
    stand_ins,
)

SUBGRAPHS = environment.PACK / "subgraphs"
COLUMN, GAP = 380, 60
ROOM = 340, 300     # how wide a box is, and what it shows of the take when it runs
BOX = """([title, description, inputs, outside, video, values, place, room]) => {
  const named = (node, name) => node.inputs.findIndex(input => input.name === name);
  for (const [id, widgets] of Object.entries(values))
    for (const [name, value] of Object.entries(widgets))
      app.graph.getNodeById(Number(id)).widgets.find(widget => widget.name === name).value = value;
  outside.forEach(id => app.graph.remove(app.graph.getNodeById(id)));
  const { subgraph, node } = app.graph.convertToSubgraph(new Set(app.graph.nodes));
  [...subgraph.inputs].forEach(input => subgraph.removeInput(input));   // of widgets that had once been linked
  for (const [name, label, targets] of inputs) {
    const first = subgraph.getNodeById(targets[0][0]);
    const added = subgraph.addInput(name, String(first.inputs[named(first, targets[0][1])].type));
    if (label) added.label = label;
    for (const [id, input] of targets) {
      const target = subgraph.getNodeById(id);
      added.connect(target.inputs[named(target, input)], target);
    }
  }
  const maker = subgraph.getNodeById(video);
  subgraph.addOutput('video', 'VIDEO').connect(maker.outputs[0], maker);
  Object.assign(subgraph, { name: title, description });
  node.title = title;
  for (const [id, at] of Object.entries(place)) subgraph.getNodeById(Number(id)).pos = at;
  const right = Math.max(...Object.values(place).map(at => at[0]));
  subgraph.inputNode.pos = [-260, 0];
  subgraph.outputNode.pos = [right + 480, 0];
  node.pos = [0, 0];
  for (const input of node.inputs) input.label = subgraph.inputs.find(one => one.name === input.name).label;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(width, room[0]), height + room[1]]);
}"""
HEIGHTS = "() => Object.fromEntries(app.graph.nodes.map(node => [node.id, node.computeSize()[1]]))"


def depths(prompt: dict) -> dict[str, int]:
    """By node: how many nodes are before it, at most."""
    found: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in found:
            before = [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
            found[node] = max((depth(one) + 1 for one in before if one in prompt), default=0)
        return found[node]

    return {node: depth(node) for node in prompt}


def place(prompt: dict, heights: dict[str, float]) -> dict[str, list[float]]:
    """Where each node stands: a column for each depth, so that links go to the right."""
    filled: dict[int, float] = {}
    places = {}
    for node, depth in depths(prompt).items():
        places[node] = [depth * COLUMN, filled.get(depth, 0)]
        filled[depth] = places[node][1] + heights[node] + GAP
    return places


def build(frontend: Frontend, title: str, blueprint: Blueprint) -> dict:
    """The UI-format workflow with one box in it."""
    prompt = flat(json.loads((WORKFLOWS / "api" / f"{blueprint.workflow}.json").read_text(encoding="utf-8")))
    frontend.nodes_2(False)
    frontend.load_prompt(prompt, title)
    frontend.run(FIX_SEEDS)
    inside = {node: entry for node, entry in prompt.items() if int(node) not in blueprint.outside}
    places = place(inside, frontend.run(HEIGHTS))
    frontend.run(BOX, [title, blueprint.description, [[one.name, one.label, one.goes_to] for one in blueprint.inputs],
                       blueprint.outside, blueprint.video, blueprint.values, places, ROOM])
    workflow = same_every_time(frontend.workflow(), title)
    workflow["extra"] = {"BlueprintDescription": blueprint.description,
                         "BlueprintSearchAliases": [*WORDS, *blueprint.words]}
    return workflow


def make(comfyui: Path) -> None:
    SUBGRAPHS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        base = comfy_server.prepare_base(Path(temporary), environment.tiny_models(Path(sys.executable)))
        stand_ins.place(base / "models")
        with comfy_server.start_server(comfyui, base) as server, opened(server) as frontend:
            for title, blueprint in BLUEPRINTS.items():
                frontend.open(server)   # a new page: one gives a widget the value that one of its node's id had before
                path = SUBGRAPHS / f"{title}.json"
                path.write_text(format_workflow(build(frontend, title, blueprint)), encoding="utf-8", newline="\n")
                print(path)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    environment.stop_on_signals()
    comfyui = environment.find_comfyui(environment.NEWEST)
    if comfyui is None or environment.find_chromium() is None:
        sys.exit("A ComfyUI and a Chromium or Chrome ($CHROMIUM_PATH) are needed.")
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    make(comfyui)


if __name__ == "__main__":
    main()
