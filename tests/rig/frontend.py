"""ComfyUI's real frontend in a headless browser: what make_workflows.py and tests/web drive. Needs playwright."""
import contextlib
import time
from collections.abc import Iterator

from lib import environment
from lib.comfy_server import Client

ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--use-gl=angle", "--use-angle=swiftshader",
             "--enable-unsafe-swiftshader")
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False,
            "Comfy.Graph.CanvasMenu": False, "Comfy.Workflow.Persist": False,
            "Comfy.Appearance.DisableAnimations": True}
# A fresh page opens a workflow of its own, and late; 0.7.0's opens none.
LOADED = """() => window.app?.vueAppReady && app.graph && app.isGraphReady !== false
  && (!('isGraphReady' in app) || app.extensionManager?.workflow?.activeWorkflow)"""
STANDS = """ids => JSON.stringify(app.graph.nodes.map(node => `${node.id}`).sort()) === JSON.stringify(ids)"""
MOUNTED = """(on) => [...document.querySelectorAll('[data-node-id]')].length === (on ? app.graph.nodes.length : 0)"""
PICTURES = "() => [...document.images].every(image => image.complete)"
SETTLED = """async () => {
  const boxes = () => JSON.stringify(app.graph.nodes.map(node => [...node.pos, ...node.size]));
  for (let before = null; before !== boxes();) { before = boxes(); await new Promise(done => setTimeout(done, 400)); }
}"""
Prompt = dict[str, dict]
EMPTY = {"nodes": [], "links": [], "groups": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0}


class Frontend:
    """One page of a running server. `said` collects what its console and its errors say, as (kind, text, address)."""

    def __init__(self, page):
        self.page = page
        self.said: list[tuple[str, str, str]] = []
        page.on("console", lambda line: self.said.append((line.type, line.text, line.location.get("url", ""))))
        page.on("pageerror", lambda error: self.said.append(("pageerror", f"{error}\n{error.stack}", "")))
        page.set_default_timeout(180_000)   # of a machine that is busy

    def open(self, client: Client) -> None:
        client.post("/api/settings", SETTINGS)
        self.page.goto(client.url, wait_until="domcontentloaded")
        self.page.wait_for_function(LOADED)

    def run(self, script: str, argument=None):
        """What the JavaScript function returns, called with `argument`; awaited where it is asynchronous."""
        return self.page.evaluate(script, argument)

    def nodes_2(self, on: bool) -> None:
        """Draw the nodes as DOM elements (Nodes 2.0) or classic, and wait until they stand still."""
        self.run("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", on)
        self.settle(on)

    def settle(self, nodes_2: bool) -> None:
        self.page.wait_for_function(MOUNTED, arg=nodes_2)
        self.page.wait_for_function(PICTURES)
        self.run(SETTLED)

    def load(self, workflow: dict, name: str) -> None:
        """Open a UI-format workflow, and wait until its nodes are those that stand there."""
        self.run("([workflow, name]) => app.loadGraphData(workflow, true, true, name)", [workflow, name])
        self.page.wait_for_function(STANDS, arg=sorted(str(node["id"]) for node in workflow["nodes"]))

    def clear(self) -> None:
        """An empty graph, and nothing left of what nodes within boxes showed."""
        self.load(EMPTY, "empty")

    def load_prompt(self, prompt: Prompt, name: str) -> None:
        """Open an API-format prompt."""
        self.run("([prompt, name]) => app.loadApiJson(prompt, name)", [prompt, name])

    def prompt(self) -> Prompt:
        """The graph as the page would queue it."""
        return self.run("async () => (await app.graphToPrompt()).output")

    def workflow(self) -> dict:
        """The graph as the page would save it."""
        return self.run("() => JSON.parse(JSON.stringify(app.graph.serialize()))")


@contextlib.contextmanager
def opened(client: Client, width: int = 1600, height: int = 1000) -> Iterator[Frontend]:
    """A page of the server, `width` by `height` pixels, in a browser that ends with the block."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=environment.find_chromium(), args=list(ARGUMENTS))
        try:
            frontend = Frontend(browser.new_page(viewport={"width": width, "height": height}))
            frontend.open(client)
            yield frontend
        finally:
            browser.close()


def finished(server: Client, before: set[str], timeout_seconds: float = 120) -> dict:
    """The history entry that was not there `before`."""
    until = time.monotonic() + timeout_seconds
    while time.monotonic() < until:
        if new := set(server.get("/history")) - before:
            return server.get("/history")[new.pop()]
        time.sleep(0.2)
    raise TimeoutError(f"nothing finished within {timeout_seconds:.0f} s")
