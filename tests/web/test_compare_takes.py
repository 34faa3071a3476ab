"""Compare Takes in the page: run on two videos, it shows its picture."""
import pytest
from frontend import finished

PROMPT = {"1": {"class_type": "LodestarSampleVideo", "inputs": {}, "_meta": {"title": "Video"}},
          "2": {"class_type": "LodestarCompareTakes", "inputs": {
              "first": ["1", 0], "second": ["1", 0], "first_name": "with", "second_name": "without"},
              "_meta": {"title": "Compare"}}}
SHOWN = """nodes_2 => (nodes_2 ? document.querySelector('[data-node-id="2"] img')
                               : app.graph.getNodeById(2).imgs?.[0])?.naturalWidth"""


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
def test_two_takes_are_compared(frontend, server, nodes_2):
    frontend.clear()
    frontend.nodes_2(nodes_2)
    frontend.load_prompt(PROMPT, "compare")
    frontend.settle(nodes_2)
    before = set(server.get("/history"))
    frontend.run("() => app.queuePrompt(0, 1)")
    entry = finished(server, before)
    assert entry["status"]["status_str"] == "success", entry["status"]
    frontend.page.wait_for_function(SHOWN, arg=nodes_2)
    assert frontend.run(SHOWN, nodes_2) == 460
