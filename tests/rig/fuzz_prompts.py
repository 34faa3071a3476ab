"""Prompts that no page would send: one hostile value in any input of any of the pack's nodes, through POST /prompt.

Nodes and inputs are read from /object_info, so that a new one is tried without a line here. All other inputs are good,
as far as the tiny take has them. `python tests/rig/fuzz_prompts.py [NODE ...] [--count 30] [--seed 1] [--comfyui PATH]`
tries `count` values of each node and prints what was no clear error; the tests try a few.
"""
import argparse
import math
import random
import runpy
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))

from lib import comfy_server, environment  # noqa: E402
from lib.graph import Graph, Node  # noqa: E402
from served_takes import tiny_take  # noqa: E402

PACK = "ComfyUI-Lodestar"
HOSTILE: list[Any] = [
    None, True, False, "", " ", "text", "0", "nan", -1, 0, 1, 3, 0.5, -0.5, 1e308, -1e308, math.nan, math.inf,
    2 ** 31, 2 ** 63, 2 ** 64, -2 ** 63, 2 ** 70, [], [1], [1, 2, 3], {}, {"a": 1}, {"__value__": [1, 2]},
    {"__value__": "text"}, {"samples": None}, {"waveform": [0.0], "sample_rate": 16000}, "\ud800", "\0", "../../x",
    "a" * 20000, "%date:%", "%nobody.nothing%", "0:00 a\n0:00 b", "9" * 400 + ":00 x", "\u202e", [[[[]]]],
    {"a": {"b": {"c": []}}}]
# Python's own words, which tell a user nothing
RAW = ("object is not", "object has no", "has no attribute", "unsupported operand", "positional argument", "NoneType",
       "not subscriptable", "must be real number", "Traceback", "list indices", "unhashable", "could not convert",
       "out of range for", "codec can't", "expected str instance", "too many values", "not enough values")


def providers(server) -> tuple[Graph, dict[str, list]]:
    """(a graph, a link to a good value by type of socket)."""
    graph = tiny_take(server, "fuzz/take", steps=1, chunk_frames=17, max_seconds=0.5)
    plan = graph.the("LodestarPlanTake")
    image = graph.add("EmptyImage", width=64, height=64, batch_size=4, color=9000)
    frames = graph.add("CreateVideo", images=image[0], fps=16.0)
    links = {"MODEL": ["1", 0], "VAE": ["2", 0], "IMAGE": graph.the("LoadImage")[0], "AUDIO": graph.the("LoadAudio")[0],
             "AUDIO_ENCODER": graph.the("LodestarLoadAudioEncoder")[0],
             "AUDIO_ENCODER_OUTPUT": graph.the("LodestarAudioFeatures")[0], "LODESTAR_PLAN": plan[0],
             "CONDITIONING": graph.the("LodestarBlankPrompt")[0], "GUIDER": graph.the("BasicGuider")[0],
             "SAMPLER": graph.the("KSamplerSelect")[0], "SIGMAS": graph.the("BasicScheduler")[0],
             "NOISE": graph.the("RandomNoise")[0], "VIDEO": frames[0],
             "LATENT": graph.add("EmptyLatentImage", width=64, height=64, batch_size=1)[0],
             "MASK": graph.add("SolidMask", value=0.5, width=64, height=64)[0]}
    return graph, links


def inputs_of(offered: dict) -> dict[str, tuple[Any, dict]]:
    """{input: (type or options, its settings)} of a node of /object_info."""
    return {name: (spec[0], spec[1] if len(spec) > 1 else {}) for group in ("required", "optional")
            for name, spec in offered["input"].get(group, {}).items()}


def good_value(name: str, kind: Any, settings: dict, links: dict[str, list]) -> Any:
    """A link, the widget's own, or None where there is nothing good for it."""
    if kind in links if isinstance(kind, str) else False:
        return links[kind]
    if name in ("width", "height"):
        return 64
    options = kind if isinstance(kind, list) else settings.get("options", ())
    return settings.get("default", options[0] if options else None)


def add_node(graph: Graph, name: str, offered: dict, links: dict[str, list], chance: random.Random
             ) -> tuple[Node, str, Any]:
    """Add the node with one hostile value; (it, the input, the value)."""
    inputs = inputs_of(offered)
    node = graph.add(name)
    for input_id, (kind, settings) in inputs.items():
        if (value := good_value(input_id, kind, settings, links)) is not None:
            node.set(**{input_id: value})
    chosen, value = chance.choice(list(inputs)), chance.choice(HOSTILE)
    node.set(**{chosen: value})
    if offered["output"] and not offered["output_node"]:
        graph.add("PreviewAny", source=node[0])
    return node, chosen, value


def ask(server, name: str, offered: dict, seed: str) -> tuple[str, str]:
    """(refused, failed, made or endless; why that is no good answer to a hostile value, "" where it is a good one)."""
    graph, links = providers(server)
    chance = random.Random(f"{name} {seed}")
    known = {node.id for node in graph.nodes()}
    node, chosen, value = add_node(graph, name, offered, links, chance)
    for take in graph.all("LodestarLongTake"):
        if take.id in known:
            graph.remove(take)
    where = f"{name}.{chosen} = {str(value)[:60]!r} (seed {seed})"
    try:
        server.run(graph.prompt(), timeout_seconds=120)
    except comfy_server.PromptRefused as refusal:
        return "refused", f"{where}: {wrong}" if (wrong := wrong_refusal(refusal, node)) else ""
    except comfy_server.PromptFailed as failure:
        return "failed", f"{where}: {wrong}" if (wrong := wrong_failure(failure, node)) else ""
    except TimeoutError:
        return "endless", f"{where}: no end after 120 s"
    return "made", ""


def wrong_refusal(refusal: comfy_server.PromptRefused, node: Node) -> str:
    if any(id != node.id for id in refusal.node_errors):
        return f"another node is blamed: {str(refusal)[:200]}"
    for error in (refusal.node_errors.get(node.id) or {}).get("errors", ()):
        if "exception" in error["type"] and PACK in str(error.get("extra_info")):
            return f"its own check broke: {error['details'][:300]}"
    return ""


def wrong_failure(failure: comfy_server.PromptFailed, node: Node) -> str:
    trace = "".join(failure.data.get("traceback", ()))
    if failure.data["node_id"] != node.id:
        return "" if PACK not in trace else f"fails in {failure}"
    said = str(failure).partition(": ")[2]
    if PACK in trace and ("ValueError" not in failure.exception_type and "NotWritten" not in failure.exception_type
                          or any(raw in said for raw in RAW)):
        return f"{failure.exception_type}: {said[:300]}"
    return "" if len(said) < 1500 else f"{len(said)} letters of error"


def nodes_of(server) -> dict[str, dict]:
    return {name: node for name, node in server.get("/object_info").items()
            if node["python_module"].startswith(f"custom_nodes.{PACK}") and inputs_of(node)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="*", metavar="NODE")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--comfyui", type=Path)
    options = parser.parse_args()
    answers: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        base = comfy_server.prepare_base(Path(folder), environment.tiny_models(Path(sys.executable)))
        with comfy_server.start_server(options.comfyui or environment.newest_comfyui(), base) as server:
            nodes = {name: node for name, node in nodes_of(server).items() if name in (options.nodes or [name])}
            for number in range(options.count):
                for name, offered in nodes.items():
                    answer, fault = ask(server, name, offered, f"{options.seed} {number}")
                    answers.update([answer, *["fault"] * bool(fault)])
                    print(fault, end="\n" * bool(fault), flush=True)
                print(f"{number + 1} values of each of {len(nodes)} nodes: {dict(answers)}", flush=True)
            server.check_alive()
            half = [path for path in (base / "output").rglob("*.part")]
    print(f"{dict(answers)}, {len(half)} half files")
    sys.exit(bool(answers["fault"] or half))


if __name__ == "__main__":
    main()
