"""Live Take's pictures play in its node while the take runs, at most one block behind."""
import contextlib
import json

import frontend as browser
import numpy as np
import pytest
from lib import environment

RATE, FPS, BLOCK = 16000, 25, 8
LISTEN = """() => {
  window.live = [];
  window.listens ??= app.api.addEventListener('lodestar.live', event => window.live.push(event.detail.frames)) ?? true;
}"""
PLAYS = """frames => { const video = document.querySelector('video.lodestar-live');
  return video?.getVideoPlaybackQuality().totalVideoFrames >= frames && video.currentTime > 0; }"""
STATE = """() => { const video = document.querySelector('video.lodestar-live'), ranges = video.buffered;
  return {made: window.live.at(-1), seen: ranges.length ? ranges.end(ranges.length - 1) : 0, ranges: ranges.length,
          error: video.error?.message ?? null, fed: video.src.startsWith('blob:'),
          size: [video.videoWidth, video.videoHeight], ended: video.ended}; }"""
OVER = "() => window.live.at(-1) === -1 && Number.isFinite(document.querySelector('video.lodestar-live').duration)"


def tone(seconds):
    return (np.sin(np.arange(round(seconds * RATE)) / 9) * 12000).astype("<i2").tobytes()


@pytest.fixture
def page(frontend, server):
    """A page of the session's browser in which blob: addresses are allowed, which --disable-api-nodes forbids."""
    opened = frontend.page.context.browser.new_page(bypass_csp=True, viewport={"width": 1600, "height": 1000})
    with contextlib.closing(opened):
        other = browser.Frontend(opened)
        other.open(server)
        yield other


def live_puppet(source, prefix):
    """The workflow with fewer steps, a shorter window and no speech of its own; ids as a page wants them."""
    text = (environment.PACK / "workflows" / "api" / "live_puppet.json").read_text(encoding="utf-8")
    prompt = json.loads(text.replace('"14:', '"14'))
    prompt["1410"]["inputs"]["passes"] = prompt["1411"]["inputs"]["passes"] = 1
    prompt["1411"]["inputs"]["blocks"] = 2
    prompt["8"]["inputs"] = {**prompt["8"]["inputs"], "max_seconds": 60.0}
    del prompt["8"]["inputs"]["audio"]
    prompt["13"]["inputs"] |= {"source": source, "filename_prefix": prefix}
    return prompt


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
def test_the_pictures_play_while_the_take_runs(page, server, nodes_2):
    name = f"live_{nodes_2}"
    page.nodes_2(nodes_2)
    page.load_prompt(live_puppet("live:web", f"web/{name}"), name)
    page.run(LISTEN)
    page.run("() => { app.queuePrompt(0); }")
    page.page.wait_for_function(PLAYS, arg=10)     # silence: nobody has said a word
    server.request(f"/lodestar/live/web?rate={RATE}", tone(2), "application/octet-stream")
    page.page.wait_for_function(PLAYS, arg=34)
    state = page.run(STATE)
    assert server.get("/queue")["queue_running"] and state["error"] is None and state["size"] == [96, 96]
    assert state["fed"]
    page.page.wait_for_function(f"""() => {{ const state = ({STATE})();
      return state.made > 0 && state.seen * {FPS} >= state.made - {BLOCK} && state.ranges === 1; }}""")
    server.request("/lodestar/live/web?end=1", b"", "application/octet-stream")
    page.page.wait_for_function(OVER)
    assert page.run(STATE)["error"] is None
    assert list((server.base / "output" / "web").glob(f"{name}_*_.mp4"))
