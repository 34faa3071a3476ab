"""One real ComfyUI server and one real browser for the whole session, both as the scripts start them.

With LODESTAR_SCREENSHOTS a folder, the page as each test left it is kept there.
"""
import os
import re
import sys
from pathlib import Path

import frontend as browser
import pytest
from lib import comfy_server, environment


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    comfyui = environment.newest_comfyui()
    base = comfy_server.prepare_base(tmp_path_factory.mktemp("base"), environment.tiny_models(Path(sys.executable)))
    other = os.environ.get("LODESTAR_FRONTEND")     # the folder "static" of another comfyui_frontend_package
    with comfy_server.start_server(comfyui, base, arguments=["--front-end-root", other] if other else []) as running:
        yield running


@pytest.fixture(scope="session")
def page_of_the_session(server):
    with browser.opened(server) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def fresh_page(page_of_the_session, server):
    """What a file of tests leaves in the page, the view above all, is gone for the next."""
    yield
    page_of_the_session.open(server)


@pytest.fixture
def frontend(page_of_the_session, server, request):
    """The page of the session. A test fails when it makes the page complain about the pack, or throw at all. What it
    leaves in the queue does not keep the next one waiting."""
    yield page_of_the_session
    if kept := os.environ.get("LODESTAR_SCREENSHOTS"):
        name = re.sub(r"\W+", "_", request.node.name.removeprefix("test_")).strip("_")
        page_of_the_session.page.screenshot(path=str(Path(kept) / f"{name}.png"))
    server.post("/queue", {"clear": True})
    for _, prompt_id, *_ in server.get("/queue")["queue_running"]:
        server.cancel(prompt_id)
    ours = [line for line in page_of_the_session.said
            if line[0] == "pageerror" or line[0] in ("error", "warning") and "lodestar" in " ".join(line).lower()]
    page_of_the_session.said.clear()
    assert not ours


@pytest.fixture(scope="session")
def nodes(server) -> dict[str, dict]:
    """What the server says of each Lodestar node."""
    return {name: node for name, node in server.get("/object_info").items() if name.startswith("Lodestar")}
