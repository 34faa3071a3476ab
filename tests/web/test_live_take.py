"""Long Take's panel in the page: it plays finished chunks while others are made, stops, keeps and makes one again."""
import json

import pytest
from lib import environment

LONG = {"LodestarPlanTake": {"width": 64, "height": 64, "chunk_frames": 17, "max_seconds": 3},
        "BasicScheduler": {"steps": 30}, "RandomNoise": {"control_after_generate": "fixed"}}
SET = """inputs => app.graph.nodes.forEach(node => node.widgets?.forEach(widget => {
  widget.value = inputs[node.type]?.[widget.name] ?? widget.value; }))"""
PLAYS = "() => document.querySelector('.lodestar-take:not(.over) video')?.readyState >= 2"
RUNS = "() => document.querySelector('.lodestar-take:not(.over) .chunks .finished')"
OVER = "() => document.querySelector('.lodestar-take.over')"
CHUNKS = "() => document.querySelectorAll('.lodestar-take .chunks .finished').length"
AGAIN = """async ([text, start, end]) => {
  const found = performance.getEntriesByType('resource').find(entry => entry.name.endsWith('/take/live.js'));
  return (await import(found.name)).scriptAgain(text, start, end);
}"""
TRACES = """found => {
  app.graph.clear();
  const node = LiteGraph.createNode('LodestarLongTake');
  app.graph.add(node);
  app.api.dispatchCustomEvent('lodestar.chunk', { node: String(node.id), chunk: 2, chunks: 4, finished: 2,
    frames_done: 9, frames_total: 20, seconds_left: 4, seconds: [2, 3], folder: 'none/take', ...found });
  const panel = node.widgets.find(widget => widget.name === 'live').element;
  return { lines: [...panel.querySelectorAll('polyline')].map(line => line.getAttribute('class')),
           says: panel.querySelector('svg title').textContent };
}"""
# Classic nodes get their panels when they first come into sight; until then these are in no document.
AWAY = "() => { app.canvas.ds.reset(); app.canvas.ds.offset = [-99999, 0]; app.canvas.setDirty(true, true); }"
INTO_SIGHT = """() => { const node = app.graph.nodes.find(one => one.type === 'LodestarLongTake');
  app.canvas.ds.reset();
  app.canvas.centerOnNode(node);
  return document.querySelector('.lodestar-take'); }"""
HAS_ONE = """() => app.graph.nodes.find(one => one.type === 'LodestarLongTake').widgets.find(one => one.name === 'live')
  .element.querySelector('.chunks .finished')"""
SCRIPT = """() => app.graph.nodes.map(node => node.widgets?.find(one => one.name === 'script')?.value).find(Boolean)"""


def open_take(frontend, server, name, seed, seconds=3):
    for file in ("portrait.png", "speech.flac"):
        server.upload(environment.PACK / "assets" / file)
    tiny = json.loads((environment.PACK / "tests" / "golden" / "tiny_take.json").read_text(encoding="utf-8"))
    frontend.load_prompt(tiny, name)
    frontend.run(SET, {**LONG, "LodestarPlanTake": {**LONG["LodestarPlanTake"], "max_seconds": seconds},
                       "RandomNoise": {"control_after_generate": "fixed", "noise_seed": seed},
                       "LodestarLongTake": {"filename_prefix": f"{name}/take"}})


def queue(frontend, until):
    frontend.run("() => { app.queuePrompt(0); }")
    frontend.page.wait_for_function(until)


def press(frontend, button):     # dispatched: a click waits until the software renderer stands still
    frontend.page.locator(f".lodestar-take {button}").last.dispatch_event("click")


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
def test_it_plays_and_stops(frontend, server, nodes_2):
    frontend.nodes_2(nodes_2)
    frontend.run(AWAY)
    open_take(frontend, server, f"stopped_{nodes_2}", 20 + nodes_2, seconds=9)    # far more than are made
    queue(frontend, HAS_ONE)
    frontend.page.wait_for_function(INTO_SIGHT)    # it plays there whatever was looked at before
    frontend.page.wait_for_function(PLAYS)
    press(frontend, ".stop")
    frontend.page.wait_for_function(OVER)
    assert 0 < frontend.run(CHUNKS) < 9
    assert list(server.get("/history").values())[-1]["status"]["status_str"] == "success"


def test_a_chunk_is_made_again_in_two_clicks(frontend, server):
    frontend.nodes_2(False)
    open_take(frontend, server, "again", 30)
    frontend.page.wait_for_function(INTO_SIGHT)
    queue(frontend, RUNS)
    press(frontend, ".keep")
    frontend.page.wait_for_function(OVER)
    before = len(server.get("/history"))
    frontend.page.locator(".lodestar-take .chunk").nth(1).dispatch_event("click")
    press(frontend, ".again")
    frontend.page.wait_for_function(RUNS)
    frontend.page.wait_for_function(OVER)
    assert frontend.run(SCRIPT).endswith(" [again]") and len(server.get("/history")) == before + 1
    assert frontend.run(AGAIN, ["0:00 a\n0:04.5 [again]", 4, 6]) == "0:00 a\n0:04.5 [again 2]"   # yet another noise


def test_the_curves_of_colours_and_face_grow(frontend):
    frontend.nodes_2(False)
    both = frontend.run(TRACES, {"colours": {0: 0, 1: 1.5}, "identity": {0: 1, 1: 0.9}, "identity_note": ""})
    assert both["lines"] == ["limit", "colours", "identity"] and "orange" in both["says"]
    drawing = frontend.run(TRACES, {"colours": {0: 0, 1: 1.5}, "identity": {}, "identity_note": "no face is in it"})
    assert drawing["lines"] == ["limit", "colours"]
    assert drawing["says"].endswith("identity is not measured: no face is in it")
