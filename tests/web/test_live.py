"""Live Take's pictures play in its node while the take runs: at most one block behind where the page may feed them, by
the browser's own HLS where it may not, and a browser that can do neither says so."""
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
HAS_HLS = "() => document.createElement('video').canPlayType('application/vnd.apple.mpegurl') !== ''"
OVER = "() => Number.isFinite(document.querySelector('video.lodestar-live').duration)"


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


@contextlib.contextmanager
def playing(page, server, name, frames):
    """The take runs and so many frames were shown, some of them before anybody spoke; it has ended afterwards."""
    page.load_prompt(live_puppet("live:web", f"web/{name}"), name)
    page.run(LISTEN)
    page.run("() => { app.queuePrompt(0); }")
    page.page.wait_for_function(PLAYS, arg=10)
    server.request(f"/lodestar/live/web?rate={RATE}", tone(2), "application/octet-stream")
    page.page.wait_for_function(PLAYS, arg=frames)
    state = page.run(STATE)
    assert server.get("/queue")["queue_running"] and state["error"] is None and state["size"] == [96, 96]
    yield state
    server.request("/lodestar/live/web?end=1", b"", "application/octet-stream")
    page.page.wait_for_function("() => window.live.at(-1) === -1")
    assert list((server.base / "output" / "web").glob(f"{name}_*_.mp4"))


def test_the_pictures_play_while_the_take_runs(page, server):
    page.nodes_2(False)
    with playing(page, server, "live_fed", 34) as state:
        assert state["fed"]
        page.page.wait_for_function(f"""() => {{ const state = ({STATE})();
          return state.made > 0 && state.seen * {FPS} >= state.made - {BLOCK} && state.ranges === 1; }}""")
    page.page.wait_for_function(OVER)
    assert page.run(STATE)["error"] is None


def test_where_the_page_may_not_feed_them_the_browser_s_own_hls_plays_them(frontend, server):
    frontend.nodes_2(True)
    if not frontend.run(HAS_HLS):
        pytest.skip("this browser has no HLS of its own")
    with playing(frontend, server, "live_hls", 11) as state:
        assert not state["fed"]


def test_a_browser_that_can_do_neither_says_so(frontend):
    frontend.nodes_2(False)
    frontend.load_prompt(live_puppet("live:web", "web/none"), "live_none")
    frontend.run("""() => { const playing = HTMLMediaElement.prototype.canPlayType;
      HTMLMediaElement.prototype.canPlayType = () => { HTMLMediaElement.prototype.canPlayType = playing; return ''; };
      app.api.dispatchCustomEvent('lodestar.live', {node: '13', frames: 9,
        playlist: {filename: 'no.m3u8', subfolder: 'lodestar_live', type: 'temp'}}); }""")
    frontend.page.get_by_text("does not play the pictures while they are made").wait_for()
