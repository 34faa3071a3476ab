"""Where a node sits: what feeds it, its sockets in use, and where its outputs go, as an SVG for its help page.

The wires are those of the first template that uses the node, in the templates' order; WIRES has those of nodes that
none uses. Names are English in both languages of the pages: sockets have them in every workflow file.
"""
import json
import re
from html import escape

from lib import environment
from lib.graph import Graph, Node
from lib.templates import NEEDS, template_name

Wire = tuple[str, str]
CONDITIONING = "CLIP Text Encode"
WIRES: dict[str, tuple[list[Wire], list[Wire]]] = {     # of nodes that no template uses
    "LodestarOneChunk": ([("Load Diffusion Model", "model"), (CONDITIONING, "positive"), (CONDITIONING, "negative"),
                          ("Load VAE", "vae"), ("Audio Features", "audio_features"), ("Load Image", "reference")],
                         [("positive", "KSampler"), ("negative", "KSampler"), ("latent", "KSampler"),
                          ("model", "KSampler")]),
    "LodestarCompareTakes": ([("Long Take", "first"), ("Load Video", "second"), ("Load Image", "reference"),
                              ("Plan Take", "plan")], [("comparison", "Preview Image"), ("json", "Preview as Text")]),
    "LodestarGlobalTime": ([("Lookahead Anchor, Context Windows", "model")], [("MODEL", "KSampler")]),
    "LodestarCustomBackground": ([("Video Reference", "model"), ("Load VAE", "vae"), ("Load Image", "image"),
                                  ("Load Image", "mask"), ("Plan Take", "plan")],
                                 [("MODEL", "Plan Take, Basic Guider")]),
    "LodestarMakeTrainingClips": ([("Load Diffusion Model", "model"), ("Load VAE", "vae"),
                                   ("Load Audio Encoder", "audio_encoder")],
                                  [("clips", "Train Recipe, Backfill")]),
    "LodestarTrainRecipe": ([("Load Diffusion Model", "model"), ("Make Training Clips", "clips")],
                            [("lora", "Load LoRA Model"), ("loss_map", "Plot Loss Graph"),
                             ("steps", "Save LoRA Weights")]),
    "LodestarBackfill": ([("Speech Guidance", "guider"), ("KSampler Select", "sampler"), ("Basic Scheduler", "sigmas"),
                          ("Make Training Clips", "clips"), ("Student Schedule", "levels")],
                         [("clips", "Train Recipe")]),
    "LodestarPreferencePairs": ([("Speech Guidance", "guider"), ("KSampler Select", "sampler"),
                                 ("Basic Scheduler", "sigmas"), ("Load VAE", "vae"),
                                 ("Make Training Clips", "clips")], [("clips", "Train Recipe")])}
CORE = {"CLIPTextEncode": CONDITIONING, "UNETLoader": "Load Diffusion Model", "VAELoader": "Load VAE",
        "LoraLoaderModelOnly": "Load LoRA", "ModelSamplingSD3": "ModelSamplingSD3", "ManualSigmas": "Manual Sigmas"}
NAMED = re.compile(r'node_id="(\w+)",\s*display_name="([^"]+)"')
ROW, TOP, BOX, MIDDLE, GAP, EDGE = 30, 46, 190, 210, 25, 12      # pixels
LETTERS = 25       # of a box's width


def display_names() -> dict[str, str]:
    """Of the pack's own nodes, without what stands in brackets."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((environment.PACK / "nodes").glob("*.py"))]
    return {found[1]: found[2].partition(" (")[0] for text in texts for found in NAMED.finditer(text)}


def wires(node_id: str) -> tuple[list[Wire], list[Wire]]:
    """(source, input) and (output, target) of a node. Raises ValueError where neither a template nor WIRES has it."""
    if node_id in WIRES:
        return WIRES[node_id]
    for name in NEEDS:
        graph = Graph.read(environment.PACK / "workflows" / "api" / f"{name}.json")
        for node in graph.all(node_id):
            return inputs_of(node), outputs_of(node, socket_names(name, node_id))
    raise ValueError(f"{node_id}: no template uses it, so its wires must stand in scripts/lib/wiring_picture.py")


def inputs_of(node: Node) -> list[Wire]:
    links = [(name, value) for name, value in node.inputs.items() if isinstance(value, list)]
    return [(title(Node(node.graph, value[0])), name) for name, value in links]


def outputs_of(node: Node, names: list[str]) -> list[Wire]:
    """One wire for each output that is used, with all that it feeds."""
    found: dict[int, list[str]] = {}
    for reader in node.graph.nodes():
        for value in reader.inputs.values():
            if isinstance(value, list) and value[0] == node.id and title(reader) not in found.setdefault(value[1], []):
                found[value[1]].append(title(reader))
    return [(names[output], ", ".join(found[output])) for output in sorted(found)]


def title(node: Node) -> str:
    return display_names().get(node.kind) or CORE.get(node.kind) or node.graph.entries[node.id]["_meta"]["title"]


def socket_names(name: str, node_id: str) -> list[str]:
    """The outputs of a node, as a template's UI twin names them."""
    text = (environment.PACK / "workflows" / f"{template_name(name)}.json").read_text(encoding="utf-8")
    workflow = json.loads(text)
    inner = [graph["nodes"] for graph in workflow.get("definitions", {}).get("subgraphs", [])]
    node = next(node for nodes in [workflow["nodes"], *inner] for node in nodes if node["type"] == node_id)
    return [output["name"] for output in node["outputs"]]


def draw(node_id: str) -> str:
    """The SVG, readable on dark and light pages."""
    sources, targets = wires(node_id)
    rows = max(len(sources), len(targets), 1)
    height, width = TOP + rows * ROW + EDGE, 2 * (BOX + GAP) + MIDDLE
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">',
             box(BOX + GAP, 4, MIDDLE, height - 8, "#2f3b52"),
             text(BOX + GAP + MIDDLE // 2, 25, display_names()[node_id], "middle", bold=True)]
    for number, (source, name) in enumerate(sources):
        y = TOP + number * ROW
        parts += [box(0, y, BOX, ROW - 6, "#3a3a3f"), text(8, y + 16, source), wire(BOX, y + 12),
                  text(BOX + GAP + 8, y + 16, name)]
    for number, (name, target) in enumerate(targets):
        y, right = TOP + number * ROW, BOX + GAP + MIDDLE
        parts += [box(right + GAP, y, BOX, ROW - 6, "#3a3a3f"), text(right + GAP + 8, y + 16, target),
                  wire(right, y + 12), text(right - 8, y + 16, name, "end")]
    return "\n".join([*parts, "</svg>", ""])


def box(x: int, y: int, width: int, height: int, colour: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{colour}"/>'


def wire(x: int, y: int) -> str:
    return f'<path d="M{x} {y}h{GAP}" stroke="#8899bb" stroke-width="2"/>'


def text(x: int, y: int, words: str, anchor: str = "start", bold: bool = False) -> str:
    shown = words if len(words) <= LETTERS else words[:LETTERS - 1].rstrip(" ,") + "…"
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" fill="#f0f0f0" text-anchor="{anchor}"{weight}>{escape(shown)}</text>'
