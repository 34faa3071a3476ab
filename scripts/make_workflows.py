"""Make the UI twins of workflows/api/*.json, and pictures of them: `python scripts/make_workflows.py`. For developers.

Each prompt is opened in ComfyUI's own frontend, laid out as PAGES says with the sizes that the nodes really have
there, and saved as the frontend saves it. The result is the same on every run.

    --screenshots     also draw docs/images/first_take_classic.png, …_nodes2.png and the templates' thumbnails
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import io
import json
import re
import sys
import tempfile
import uuid
from pathlib import Path

from lib import comfy_server
from lib.graph import Graph
from lib.templates import needs, template_name
from lib.thumbnails import draw_thumbnail
from lib.workflow_pages import DOWNLOADS, PAGES, Page

sys.path.append(str(environment.rig()))
import stand_ins  # noqa: E402
from frontend import Frontend, opened  # noqa: E402

WORKFLOWS = environment.PACK / "workflows"
IMAGES = environment.PACK / "docs" / "images"
TITLE, GROUP_TITLE, PADDING, GAP, GROUP_GAP, COLUMN_GAP = 30, 50, 20, 30, 30, 50
ROOM_FOR_WHAT_IS_SHOWN = {"LodestarLongTake": 720, "LodestarRefineTake": 900, "LodestarPlanTake": 480,
                          "MarkdownNote": 200,
                          "LodestarTakeReport": 480}   # pixels, without the title, when the graph has run
SCREENSHOT_WIDTH, MARGIN, MENU = 1600, 20, 60


FOLD = """([title, columns, promoted]) => {
  const nodes = columns.flat().map(id => app.graph.getNodeById(id));
  const { subgraph, node } = app.graph.convertToSubgraph(new Set(nodes));
  subgraph.name = node.title = title;
  node.properties.proxyWidgets = promoted;
  columns.forEach((ids, x) => ids.forEach((id, y) => { subgraph.getNodeById(id).pos = [x * 340, y * 200]; }));
  subgraph.inputNode.pos = [-220, 0];
  subgraph.outputNode.pos = [680, 0];
}"""
NOTE = """text => {
  const node = LiteGraph.createNode('MarkdownNote');
  app.graph.add(node);
  node.widgets[0].value = text;
}"""
FIX_SEEDS = """() => app.graph.nodes.concat(...[...app.graph.subgraphs.values()].map(inner => inner.nodes)).forEach(
  node => node.widgets?.filter(widget => widget.name === 'control_after_generate').forEach(
    widget => { widget.value = 'fixed'; }))"""
MAKE_ROOM = """sizes => app.graph.nodes.forEach(node => node.setSize(sizes[node.id]))"""
HEIGHTS = """() => Object.fromEntries([...document.querySelectorAll('[data-node-id]')].map(
  element => [element.dataset.nodeId, element.offsetHeight]))"""
PLACE = """([boxes, groups]) => {
  app.graph.nodes.forEach(node => { const [x, y, w, h] = boxes[node.id]; node.pos = [x, y]; node.setSize([w, h]); });
  for (const [title, box] of groups) {
    const group = new LiteGraph.LGraphGroup(title);
    group._bounding.set(box);
    app.graph.add(group);
  }
}"""
FILL = """([x, y, scale]) => {
  Object.assign(app.canvas.ds, { scale, offset: [x, y] });
  app.canvas.setDirty(true, true);
}"""


def up(number: float) -> int:
    """The next multiple of 10, the frontend's own grid."""
    return int(-(-number // 10) * 10)


def place(page: Page, heights: dict[int, int]) -> tuple[dict[int, list[int]], list[tuple[str, list[int]]]]:
    """Boxes [x, y, width, height] of the nodes, without their title bars, and of the groups."""
    boxes, groups, x = {}, [], 0
    for column in page.columns:
        y = 0
        for group in column.groups:
            top, y = y, y + GROUP_TITLE
            for node in group.nodes:
                boxes[node] = [x + PADDING, y + TITLE, column.width, heights[node]]
                y += TITLE + heights[node] + GAP
            y += PADDING - GAP
            groups.append((group.title, [x, top, column.width + 2 * PADDING, y - top]))
            y += GROUP_GAP
        x += column.width + 2 * PADDING + COLUMN_GAP
    return boxes, groups


def flat(prompt: dict) -> dict:
    """The prompt with "20:14" as "14", as its nodes stand before they are folded."""
    text = re.sub(r'"\d+:(\d+)"', r'"\1"', json.dumps(prompt))
    return json.loads(text)


def build(frontend: Frontend, name: str) -> dict:
    """The UI-format workflow of workflows/api/<name>.json."""
    page = PAGES[name]
    frontend.nodes_2(True)
    path = WORKFLOWS / "api" / f"{name}.json"
    prompt = json.loads(path.read_text(encoding="utf-8"))
    frontend.load_prompt(flat(prompt), name)
    frontend.run(FIX_SEEDS)
    path.write_text(format_prompt(with_new_widgets(prompt, frontend.prompt())), encoding="utf-8", newline="\n")
    if page.folded:
        frontend.run(FOLD, [page.folded.title, page.folded.columns, page.folded.promoted])
        frontend.load(frontend.workflow(), name)
    frontend.run(NOTE, f"{needs(name)}\n\n{page.note}")
    types = frontend.run("() => Object.fromEntries(app.graph.nodes.map(node => [node.id, node.type]))")
    frontend.run(MAKE_ROOM, {node: [column.width, ROOM_FOR_WHAT_IS_SHOWN.get(types[str(node)], 10)]
                             for column in page.columns for group in column.groups for node in group.nodes})
    frontend.settle(True)
    heights = {int(node): up(height) - TITLE for node, height in frontend.run(HEIGHTS).items()}
    boxes, groups = place(page, heights)
    frontend.run(PLACE, [boxes, groups])
    frontend.settle(True)
    return with_downloads(same_every_time(frontend.workflow(), name))


def with_new_widgets(prompt: dict, shown: dict) -> dict:
    """The prompt, and the defaults of what the pack's nodes were given since it was written, as the frontend shows."""
    for node, entry in prompt.items():
        values = shown[next(iter(flat({node: {}})))]["inputs"] if entry["class_type"].startswith("Lodestar") else {}
        entry["inputs"] |= {name: value for name, value in values.items()
                            if name not in entry["inputs"] and not isinstance(value, list)}
    return prompt


def format_prompt(prompt: dict) -> str:
    """A line for each node."""
    lines = [f"  {json.dumps(node)}: {json.dumps(entry, ensure_ascii=False)}" for node, entry in prompt.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def with_downloads(workflow: dict) -> dict:
    """Tells the frontend where the files that Comfy-Org offers are, so that it can fetch those that are missing."""
    for node in workflow["nodes"]:
        found = [DOWNLOADS[value] for value in node.get("widgets_values") or () if value in DOWNLOADS]
        if found:
            node["properties"]["models"] = [{"name": url.rsplit("/", 1)[1], "url": url, "directory": url.split("/")[-2]}
                                            for url in found]
    return workflow


def same_every_time(workflow: dict, name: str) -> dict:
    """Ids that follow from the name, and no view: the frontend then fits the graph to the window it opens in."""
    workflow["extra"] = {}
    found: dict[str, str] = {}

    def lasting(match: re.Match) -> str:
        return found.setdefault(match[0], str(uuid.uuid5(uuid.NAMESPACE_URL, f"lodestar/{name}/{len(found)}")))

    return json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", lasting, json.dumps(workflow)))


def format_workflow(workflow: dict) -> str:
    """JSON with one node, link or group per line."""
    parts = []
    for key, value in workflow.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value:
            text = "[\n    " + ",\n    ".join(json.dumps(item, ensure_ascii=False) for item in value) + "\n  ]"
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def screenshot(frontend: Frontend, name: str, nodes_2: bool):
    """A PIL picture of the graph and nothing else, in one renderer."""
    from PIL import Image
    workflow = json.loads((WORKFLOWS / f"{template_name(name)}.json").read_text(encoding="utf-8"))
    corners = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    left, top = (min(corner[side] for corner in corners) - MARGIN for side in (0, 1))
    right, bottom = (max(corner[side] for corner in corners) + MARGIN for side in (2, 3))
    scale = SCREENSHOT_WIDTH / (right - left)
    size = {"width": SCREENSHOT_WIDTH, "height": round((bottom - top) * scale)}
    frontend.page.set_viewport_size({**size, "height": size["height"] + MENU})
    frontend.nodes_2(nodes_2)
    frontend.load(workflow, name)
    frontend.run(FILL, [-left, MENU / scale - top, scale])
    frontend.settle(nodes_2)
    return Image.open(io.BytesIO(frontend.page.screenshot(clip={"x": 0, "y": MENU, **size}))).convert("RGB")


def draw(frontend: Frontend, server: comfy_server.Server) -> None:
    """The two pictures of the first take, and one thumbnail per template."""
    frontend.run("() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    for nodes_2, ending in ((False, "classic"), (True, "nodes2")):
        path = IMAGES / f"first_take_{ending}.png"
        screenshot(frontend, "first_take", nodes_2).save(path, optimize=True)
        print(path)
    for name, page in PAGES.items():
        drawn = draw_thumbnail(page.title, page.line, Graph.read(WORKFLOWS / "api" / f"{name}.json"), server)
        drawn.save(WORKFLOWS / f"{template_name(name)}.jpg", quality=85)


def place_models(base: Path, comfyui: Path) -> None:
    """Tiny ones under all official names, for plans and for what a page lists."""
    stand_ins.place(base / "models")
    environment.bring_comfyui(comfyui)
    import joint_models
    import small_h3
    joint_models.write_official(base / "models")
    environment.link_or_copy(Path(small_h3.__file__), base / "custom_nodes" / "small_h3.py")


def make(screenshots: bool, comfyui: Path) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        base = comfy_server.prepare_base(Path(temporary), environment.tiny_models(Path(sys.executable)))
        place_models(base, comfyui)
        with comfy_server.start_server(comfyui, base) as server, opened(server) as frontend:
            for name in PAGES:
                path = WORKFLOWS / f"{template_name(name)}.json"
                path.write_text(format_workflow(build(frontend, name)), encoding="utf-8", newline="\n")
                print(path)
            if screenshots:
                draw(frontend, server)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshots", action="store_true", help="also draw docs/images and the thumbnails")
    options = parser.parse_args()
    environment.stop_on_signals()
    comfyui = environment.find_comfyui(environment.NEWEST)
    if comfyui is None or environment.find_chromium() is None:
        sys.exit("A ComfyUI and a Chromium or Chrome ($CHROMIUM_PATH) are needed.")
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    IMAGES.mkdir(parents=True, exist_ok=True)
    make(options.screenshots, comfyui)


if __name__ == "__main__":
    main()
