"""The line below Take Report's figures: it opens the full report, and the video at its worst moment."""
import json

import pytest

ADD = "() => { app.graph.add(LiteGraph.createNode('LodestarTakeReport')); }"
SHOW = """opens => {
  const node = String(app.graph.nodes[0].id);
  app.api.dispatchCustomEvent('executed', { node, display_node: node, output: { lodestar_report: [opens] } });
}"""
PICTURE = {"filename": "a b.report.png", "subfolder": "made", "type": "output"}
VIDEO = {"filename": "a b.mp4", "subfolder": "made", "type": "output"}


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
def test_it_opens_the_report_and_the_worst_moment(frontend, nodes_2):
    frontend.run("() => { app.graph.clear(); }")
    frontend.nodes_2(nodes_2)      # with nothing to show: Nodes 2.0 gives a node what one of the same id had
    frontend.run(ADD)
    frontend.settle(nodes_2)
    line = frontend.page.locator(".lodestar-report")
    assert line.is_hidden()
    frontend.run(SHOW, json.dumps({"picture": PICTURE, "video": VIDEO, "worst": 12.5}))
    line.wait_for()
    full, worst = line.locator(".full"), line.locator(".worst")
    assert full.get_attribute("href").endswith("/view?filename=a+b.report.png&subfolder=made&type=output")
    assert worst.get_attribute("href").endswith("a+b.mp4&subfolder=made&type=output#t=11.5")
    assert worst.text_content() == "worst moment, 12.5 s"
    frontend.run(SHOW, json.dumps({"picture": PICTURE, "video": None, "worst": 12.5}))
    worst.wait_for(state="hidden")
    assert [len(node["widgets_values"]) for node in frontend.workflow()["nodes"]] == [1]
