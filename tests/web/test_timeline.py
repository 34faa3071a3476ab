"""Plan Take's timeline in the page, on both canvases: it edits the script and nothing else, and the script is what is
saved, queued, copied and undone."""
import pytest
from lodestar.pipelines.take.story import parse_story

RENDERERS = pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
SCRIPT = """# a story
0:00 she smiles
0:02 [anchor 0.5 s]
0:04 she laughs,
    and leans back
0:06 [keyframe portrait.png]"""
ADD = """script => {
  const node = LiteGraph.createNode('LodestarPlanTake');
  app.graph.clear();
  app.graph.add(node);
  node.pos = [100, 100];
  app.canvas.ds.reset();
  const widget = node.widgets.find(widget => widget.name === 'script');
  widget.value = script;
  widget.callback(script);
  app.canvas.setDirty(true, true);
}"""
READ = "app.graph.nodes[0]?.widgets.find(widget => widget.name === 'script')?.value"
STORY = """async text => {
  const found = performance.getEntriesByType('resource').find(entry => entry.name.endsWith('/timeline/story.js'));
  const story = await import(found.name), read = story.parse(text);
  return { ...read, clocks: read.events.map(event => story.clock(event.seconds)) };
}"""
STANDS = """() => {
  app.canvas.setDirty(true, true); // as any move of the mouse does: the panel may be there later than the last drawing
  const box = document.querySelector('.lodestar-timeline canvas').getBoundingClientRect();
  const now = `${box.x} ${box.y} ${box.height}`, stood = box.y > 200 && window.timelineStood === now;
  window.timelineStood = now;
  return stood;
}"""
SHOW = """plan => {
  const node = String(app.graph.nodes[0].id);
  const output = { lodestar_plan: [JSON.stringify(plan)] };
  app.api.dispatchCustomEvent('executed', { node, display_node: node, output });
}"""
DRAWN = "document.querySelector('.lodestar-timeline canvas').toDataURL()"
INTO_A_SUBGRAPH = """() => {
  app.canvas.selectNode(app.graph.nodes[0]);
  app.canvas.setGraph(app.graph.convertToSubgraph(new Set([app.graph.nodes[0]])).subgraph);
}"""
SPAN = 11 * 1.04     # seconds that are drawn of SCRIPT before a run
PROMPTS, KEYFRAMES, ANCHORS = 0.94, 0.75, 0.54      # shares of the height at which they stand


class Timeline:
    """The one on the page; its places are seconds of `span`, and shares of its height."""

    def __init__(self, frontend, nodes_2, script=SCRIPT):
        self.frontend, self.page = frontend, frontend.page
        frontend.nodes_2(nodes_2)
        frontend.run(ADD, script)
        frontend.settle(nodes_2)
        self.canvas = self.page.locator(".lodestar-timeline canvas")
        self.canvas.wait_for()
        self.page.wait_for_function(STANDS)     # the canvas places the panel when it draws the node, and that is late

    @property
    def script(self):
        return self.frontend.run(f"() => {READ}")

    def point(self, seconds, share, span=SPAN):
        box = self.canvas.bounding_box()
        return box["x"] + box["width"] * seconds / span, box["y"] + box["height"] * share

    def drag(self, start, end, share):
        self.page.mouse.move(*self.point(start, share))
        self.page.mouse.down()
        self.page.mouse.move(*self.point((start + end) / 2, share), steps=3)
        self.page.mouse.move(*self.point(end, share), steps=3)
        self.page.mouse.up()

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def wait(self, script):
        self.page.wait_for_function(f"script => {READ} === script", arg=script)


@pytest.mark.parametrize("text", [
    SCRIPT, "", "she smiles", "0:00 a\n  1:02:03.5 b\n", "0:00 a\n0:07.041 b\n10:00 c", "0:75 a", "a\n0:01 b",
    "0:01 [close-up]\n0:01 [again 2]\n0:02 [anchor]",
    "0:00 [driving a b.mp4, face c.mp4, loop]\n0:02.5 [driving d.mp4]"])
def test_the_page_reads_a_script_as_the_pack_does(frontend, text):
    found = frontend.run(STORY, text)
    try:
        story = parse_story(text)
    except ValueError:
        assert found["problem"]
        return
    wanted = [("prompt", float(one.seconds), one.prompt) for one in story.prompts]
    wanted += [("keyframe", float(one.seconds), one.picture) for one in story.keyframes]
    wanted += [("anchor", float(one.seconds), "" if one.distance is None else f"{float(one.distance)} s")
               for one in story.anchors]
    wanted += [("again", float(one.seconds), str(one.number)) for one in story.agains]
    wanted += [("driving", float(one.seconds), ", ".join(filter(None, (
        one.parts[0][1], *map(" ".join, one.parts[1:]), one.at_end.replace("refuse", ""))))) for one in story.drivings]
    read = [(one["kind"], float(one["seconds"]), one["value"]) for one in found["events"]]
    assert sorted(read) == sorted(wanted) and not found["problem"]
    for event, written in zip(found["events"], found["clocks"], strict=True):
        assert float(parse_story(f"{written} x").prompts[0].seconds) == event["seconds"]


@RENDERERS
def test_a_script_is_edited_by_hand(frontend, nodes_2):
    line = Timeline(frontend, nodes_2)
    line.drag(4.2, 5.2, PROMPTS)
    assert "\n0:05 she laughs, and leans back\n" in line.script
    assert line.script.startswith("# a story\n0:00 she smiles\n")
    line.press("ArrowRight", "ArrowRight", "Shift+ArrowLeft")
    assert "\n0:04.2 she laughs, and leans back\n" in line.script
    line.page.mouse.click(*line.point(2.2, ANCHORS))
    line.press("Delete")
    assert "anchor" not in line.script
    line.page.mouse.click(*line.point(6.2, KEYFRAMES))
    value = line.page.locator(".lodestar-timeline .value")
    assert value.input_value() == "portrait.png"
    value.fill("smile.png")
    value.press("Enter")
    assert line.script.endswith("0:06 [keyframe smile.png]")
    line.page.mouse.dblclick(*line.point(8, 0.2))
    assert line.script.split("\n")[-1].startswith("0:0") and line.script.endswith("what happens")
    line.page.locator(".lodestar-timeline .as-text").click()
    text = line.page.locator(".lodestar-timeline textarea")
    text.fill("0:00 only this")
    text.blur()
    assert [node["inputs"]["script"] for node in frontend.prompt().values()] == ["0:00 only this"]
    line.page.locator(".lodestar-timeline .as-text").click()


@RENDERERS
def test_an_edit_is_undone_saved_reloaded_and_copied(frontend, nodes_2):
    line = Timeline(frontend, nodes_2)
    frontend.run("() => app.extensionManager.workflow.activeWorkflow.changeTracker.checkState?.()")
    line.drag(4.2, 5.2, PROMPTS)
    edited = line.script
    assert edited != SCRIPT
    line.canvas.focus()
    line.press("Control+z")
    line.wait(SCRIPT)
    frontend.settle(nodes_2)
    line.press("Control+y")
    line.wait(edited)
    frontend.settle(nodes_2)
    line.page.wait_for_function(STANDS)
    line.page.mouse.click(*line.point(6.2, KEYFRAMES))
    line.press("ArrowRight")
    edited = edited.replace("0:06 [", "0:06.1 [")
    line.wait(edited)       # the node that came back is the one that is edited
    saved = frontend.workflow()
    values = saved["nodes"][0]["widgets_values"]
    assert values[5] == edited and len(values) == 10    # the panel is in no saved graph
    frontend.load(saved, "again")
    assert line.script == edited
    frontend.settle(nodes_2)
    frontend.run("() => { const copy = app.graph.nodes[0].clone(); app.graph.add(copy); copy.pos = [700, 100]; }")
    assert [node["inputs"]["script"] for node in frontend.prompt().values()] == [edited, edited]


@RENDERERS
def test_it_zooms_over_sixty_chunks_and_works_in_a_subgraph(frontend, nodes_2):
    line = Timeline(frontend, nodes_2, "0:00 she smiles")
    frontend.run(SHOW, {
        "seconds": 180, "fps": 16, "remakes": [4], "peaks": [abs(index % 40 - 20) for index in range(2000)],
        "chunks": [{"start": 3 * index, "end": 3 * index + 3, "from": max(3 * index - 0.5, 0), "ahead": 0.75}
                   for index in range(60)]})
    whole = frontend.run(f"() => {DRAWN}")
    line.canvas.focus()
    line.page.mouse.move(*line.point(0.5, 0.5, 1))
    for _ in range(4):
        line.page.mouse.wheel(0, -100)
    line.page.wait_for_function(f"whole => {DRAWN} !== whole", arg=whole)
    frontend.run(INTO_A_SUBGRAPH)
    inside = line.page.locator(".lodestar-timeline .add-prompt")
    inside.wait_for()
    inside.click()
    found = frontend.run("() => app.canvas.graph.nodes[0].widgets.find(one => one.name === 'script').value")
    assert "what happens" in found
    assert [node["inputs"]["script"] for node in frontend.prompt().values()] == [found]
    frontend.run("() => app.canvas.setGraph(app.rootGraph ?? app.graph)")
    frontend.clear()
