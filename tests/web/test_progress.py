"""What the Long Take node says in the page while it works, after a cancel, and when it goes on."""
import json

import pytest
from lib import environment

LONG = {"LodestarPlanTake": {"width": 64, "height": 64, "chunk_frames": 17, "max_seconds": 3},
        "BasicScheduler": {"steps": 40}, "RandomNoise": {"control_after_generate": "fixed"}}
SET = """inputs => app.graph.nodes.forEach(node => node.widgets?.forEach(widget => {
  widget.value = inputs[node.type]?.[widget.name] ?? widget.value; }))"""
LISTEN = """() => {
  window.said = [];
  window.listening ??= app.api.addEventListener('progress_text', event => window.said.push(event.detail.text)) ?? true;
}"""
SAID = "words => window.said.some(text => RegExp(words).test(text))"    # the page may be too slow to draw each
SHOWS = "words => app.graph.nodes.some(node => node.widgets?.some(widget => RegExp(words).test(widget.value)))"


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
def test_the_node_says_where_it_is_how_it_was_cancelled_and_that_it_goes_on(frontend, server, nodes_2):
    frontend.nodes_2(nodes_2)
    for name in ("portrait.png", "speech.flac"):
        server.upload(environment.PACK / "assets" / name)
    tiny = json.loads((environment.PACK / "tests" / "golden" / "tiny_take.json").read_text(encoding="utf-8"))
    frontend.load_prompt(tiny, f"cancelled_{nodes_2}")
    inputs = {**LONG, "LodestarLongTake": {"filename_prefix": f"cancelled_{nodes_2}/take"}}
    frontend.run(SET, inputs)

    def wait(script, words):
        frontend.page.wait_for_function(script, arg=words)

    frontend.run(LISTEN)
    frontend.run("() => { app.queuePrompt(0); }")
    wait(SAID, "^Chunk 1 of 3: decoding, [1-9]")
    wait(SAID, r"^Chunk 2 of 3, \d+ of 48 frames, \d+ s left$")
    frontend.run("() => { app.api.interrupt(); }")
    wait(SHOWS, "^Cancelled: 1 of 3 chunks are safe, queue again to go on$")
    if nodes_2:
        frontend.page.get_by_text("Cancelled: 1 of 3 chunks are safe").first.wait_for()
    frontend.run(LISTEN)
    frontend.run("() => { app.queuePrompt(0); }")
    wait(SAID, "^Resuming at chunk 2 of 3")
    wait(SHOWS, "^Finished: 48 of 48 frames$")
