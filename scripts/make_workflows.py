"""Make the UI twins of workflows/api/*.json, and pictures of them: `python scripts/make_workflows.py`. For developers.

Each prompt is opened in ComfyUI's own frontend, laid out as PAGES says with the sizes that the nodes really have
there, and saved as the frontend saves it. The result is the same on every run.

    --screenshots     also draw docs/images/first_take_classic.png, …_nodes2.png and the templates' thumbnails
"""
import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import io
import json
import re
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import comfy_server
import stand_ins
from frontend import Frontend, opened

WORKFLOWS = environment.PACK / "workflows"
IMAGES = environment.PACK / "docs" / "images"
TITLE, GROUP_TITLE, PADDING, GAP, GROUP_GAP, COLUMN_GAP = 30, 50, 20, 30, 30, 50
ROOM_FOR_A_PREVIEW = {"LoadImage": 400, "LodestarLongTake": 600, "MarkdownNote": 200,
                      "LodestarTakeReport": 400}   # pixels, without the title
SCREENSHOT_WIDTH, MARGIN, MENU = 1600, 20, 60


@dataclass(frozen=True)
class Group:
    title: str
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Column:
    width: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Folded:
    """Nodes that become one: their ids in the API file are "<id>:…". `promoted`: the widgets that stay in sight."""
    id: int
    title: str
    columns: tuple[tuple[int, ...], ...]
    promoted: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    columns: tuple[Column, ...]
    folded: Folded | None = None
    note: str = ""


WHERE = ("Below `models`: {}; *audio_encoders* {}; from Comfy-Org's Wan files (Apache-2.0) *text_encoders* "
         "`umt5_xxl_fp8_e4m3fn_scaled.safetensors` and *vae* `wan_2.1_vae.safetensors`.")
PAGES = {
    "puppet": Page((
        Column(360, (Group("Models", (1, 2, 5)), Group("The speech and the character", (4, 3)))),
        Column(360, (Group("What keeps the character the same", (8, 9)), Group("Read me", (18,)))),
        Column(360, (Group("What is heard", (6,)), Group("What is said", (7,)), Group("Sampling", (17,)),
                     Group("How long it is", (10,)))),
        Column(420, (Group("Chunk by chunk to one video", (15,)), Group("What became of it", (16,))))),
        folded=Folded(17, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "steps"))),
        note="A drawn character talks, on any computer: the puppet is a LongCat avatar of 4 million numbers, trained "
             "on drawings. Model and VAE come with the pack: there is nothing to download. Put `puppet.png` and "
             "`speech_human.flac` from the pack's `assets` folder on the two Load nodes and run: 20 seconds in a "
             "minute or two, without a graphics card.\n\nTo try: bypass *Lookahead Anchor* and see what becomes of "
             "the character; set its distance to 80; set *Latent Stitch* to re-encode; your own voice."),
    "first_take": Page((
        Column(360, (Group("Models", (1, 2, 5)), Group("The speech and the person", (4, 3)))),
        Column(360, (Group("What keeps the person the same", (7, 8)), Group("What is said", (6,)))),
        Column(340, (Group("Sampling", (14, 10, 11, 12, 13)), Group("How long it is", (9,)))),
        Column(420, (Group("Chunk by chunk to one video", (15,)),)))),
    "talking_story": Page((
        Column(360, (Group("Models", (1, 2, 6)), Group("The speech and the person", (5, 3)))),
        Column(360, (Group("What keeps the person the same", (8,)), Group("What is said", (7,)),
                     Group("Another picture", (4,)))),
        Column(360, (Group("Pictures at times of the story", (9, 10, 11, 12)), Group("Sampling", (20,)))),
        Column(420, (Group("How long it is", (13,)), Group("Chunk by chunk to one video", (19,))))),
        folded=Folded(20, "Sampling", ((18, 14, 16), (15, 17)), (("18", "noise_seed"), ("17", "steps")))),
    "stitched_image_to_video": Page((
        Column(360, (Group("Models", (1, 2)), Group("The sound and the picture", (4, 3)))),
        Column(360, (Group("Inside the chunk, and not copied", (5, 6, 7)), Group("Read me", (15,)))),
        Column(340, (Group("Sampling", (13, 9, 10, 11, 12)), Group("How long it is", (8,)))),
        Column(420, (Group("Chunk by chunk to one video", (14,)),))),
        note="Every chunk repeats the last **13 frames** of the one before (*overlap_frames*). They go on as latents, "
             "without a round trip through the VAE.\n\nThe picture stands at latent frame 10 **inside** each chunk. "
             "The three frames around it do not look at it, so they do not copy its pose.\n\nFor a real take: a Wan "
             "image-to-video model, 832 x 480, and *CLIP Text Encode* in place of *Blank Prompt*."),
    "longcat_avatar_15": Page((
        Column(360, (Group("Models", (1, 4, 2, 3)),)),
        Column(360, (Group("The speech and the person", (7, 8, 6)), Group("Read me", (17,)))),
        Column(360, (Group("What is heard", (9,)), Group("What is said", (5,)), Group("Sampling", (16,)))),
        Column(420, (Group("How long it is", (10,)), Group("Chunk by chunk to one video", (15,))))),
        folded=Folded(16, "Sampling", ((11, 12), (13, 14)), (("14", "noise_seed"), ("13", "kind"))),
        note="Minutes of one person at 25 fps, 8 steps a chunk.\n\n" + WHERE.format(
            "*longcat* `LongCat-Video-Avatar-1.5/base_model_int8` (or `base_model`), *loras* "
            "`LongCat-Video-Avatar-1.5/lora/dmd_lora.safetensors`, both from meituan-longcat (MIT)",
            "`whisper_large_v3_encoder_fp16.safetensors` (Apache-2.0)") +
        "\n\nWithout the LoRA this model is not meant to be used. The picture is the reference of every later chunk, "
        "at latent frame 10; *Lookahead Anchor* and *Reference Skip* on the model change that."),
    "longcat_avatar_10": Page((
        Column(360, (Group("Models", (1, 2, 3)), Group("What keeps the person the same", (10, 11)))),
        Column(360, (Group("The speech and the person", (7, 8, 6)), Group("Read me", (19,)))),
        Column(360, (Group("What is heard", (9,)), Group("What is said", (4, 5)), Group("Sampling", (18,)))),
        Column(420, (Group("How long it is", (12,)), Group("Chunk by chunk to one video", (17,))))),
        folded=Folded(18, "Sampling", ((13, 14), (15, 16)),
                      (("13", "text_scale"), ("13", "audio_scale"), ("16", "noise_seed"))),
        note="Minutes of one person at 16 fps: 50 steps and the sharper tail, text and speech guided apart.\n\n" +
        WHERE.format("*longcat* `LongCat-Video-Avatar/avatar_single`, from meituan-longcat (MIT)",
                     "`chinese-wav2vec2-base`, the folder from TencentGameMate (MIT)") +
        "\n\nChunks hand over latents, without a round trip through the VAE."),
    "longcat_two_speakers": Page((
        Column(360, (Group("Models", (1, 4, 2, 3)),)),
        Column(360, (Group("Who speaks", (7, 8, 9, 6)), Group("Read me", (18,)))),
        Column(360, (Group("Who has which voice", (10,)), Group("What is said", (5,)), Group("Sampling", (17,)))),
        Column(420, (Group("How long it is", (11,)), Group("Chunk by chunk to one video", (16,))))),
        folded=Folded(17, "Sampling", ((12, 13), (14, 15)), (("15", "noise_seed"), ("14", "kind"))),
        note="Two people in one picture, each with a voice; *others* stand by in silence.\n\nLoad a picture of two: "
        "without boxes they are expected in its left and right half.\n\n" + WHERE.format(
            "*longcat* `LongCat-Video-Avatar-1.5/base_model_int8`, *loras* "
            "`LongCat-Video-Avatar-1.5/lora/dmd_lora.safetensors`, both from meituan-longcat (MIT)",
            "`whisper_large_v3_encoder_fp16.safetensors` (Apache-2.0)") +
        "\n\nFor Avatar 1.0 take `avatar_multi`, its encoder and 16 fps."),
    "longcat_video": Page((
        Column(360, (Group("Models", (1, 2, 3)), Group("Read me", (14,)))),
        Column(360, (Group("The sound and the first picture", (7, 6)), Group("What is said", (4, 5)))),
        Column(360, (Group("Sampling", (12, 9, 10, 11)), Group("How long it is", (8,)))),
        Column(420, (Group("Chunk by chunk to one video", (13,)),))),
        note="LongCat-Video itself, which hears nothing: a picture goes on for as long as the sound, each chunk from "
             "the last 13 frames of the one before, at 15 fps.\n\nFrom meituan-longcat (MIT): *longcat* "
             "`LongCat-Video/dit`. From Comfy-Org's Wan files (Apache-2.0): *text_encoders* "
             "`umt5_xxl_fp8_e4m3fn_scaled.safetensors`, *vae* `wan_2.1_vae.safetensors`.\n\nWithout a picture it is "
             "text to video. With the 16-step LoRA: *distilled*, 16 steps, text_scale 1."),
}

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
    frontend.load_prompt(flat(json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))), name)
    frontend.run(FIX_SEEDS)
    if page.folded:
        frontend.run(FOLD, [page.folded.title, page.folded.columns, page.folded.promoted])
        frontend.load(frontend.workflow(), name)
    if page.note:
        frontend.run(NOTE, page.note)
    types = frontend.run("() => Object.fromEntries(app.graph.nodes.map(node => [node.id, node.type]))")
    frontend.run(MAKE_ROOM, {node: [column.width, ROOM_FOR_A_PREVIEW.get(types[str(node)], 10)]
                             for column in page.columns for group in column.groups for node in group.nodes})
    frontend.settle(True)
    heights = {int(node): up(height) - TITLE for node, height in frontend.run(HEIGHTS).items()}
    boxes, groups = place(page, heights)
    frontend.run(PLACE, [boxes, groups])
    frontend.settle(True)
    return same_every_time(frontend.workflow(), name)


def same_every_time(workflow: dict, name: str) -> dict:
    """Ids that follow from the name, and no view: the frontend then fits the graph to the window it opens in."""
    workflow["extra"] = {}
    found: dict[str, str] = {}

    def lasting(match: re.Match) -> str:
        return found.setdefault(match[0], str(uuid.uuid5(uuid.NAMESPACE_URL, f"lodestar/{name}/{len(found)}")))

    return json.loads(re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", lasting, json.dumps(workflow)))


def written(workflow: dict) -> str:
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
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
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


def draw(frontend: Frontend) -> None:
    """The two pictures of the first take, and one thumbnail per template."""
    frontend.run("() => app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    for nodes_2, ending in ((False, "classic"), (True, "nodes2")):
        path = IMAGES / f"first_take_{ending}.png"
        screenshot(frontend, "first_take", nodes_2).save(path, optimize=True)
        print(path)
    for name in PAGES:
        picture = screenshot(frontend, name, True)
        picture.thumbnail((640, 640))
        picture.save(WORKFLOWS / f"{name}.jpg", quality=85)


def make(screenshots: bool, comfyui: Path) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        base = comfy_server.prepare_base(Path(temporary), environment.tiny_models(Path(sys.executable)))
        stand_ins.place(base / "models")
        with comfy_server.started(comfyui, base) as server, opened(server) as frontend:
            for name in PAGES:
                path = WORKFLOWS / f"{name}.json"
                path.write_text(written(build(frontend, name)), encoding="utf-8", newline="\n")
                print(path)
            if screenshots:
                draw(frontend)


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
