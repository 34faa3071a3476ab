"""Live Take in a real server: speech comes by POST and websocket, the pictures are served while it runs."""
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import av
import numpy as np
import pytest
import websocket
from lib import comfy_server
from served_takes import frames_of, video_of, workflow

RATE, ADDRESS = 16000, "/lodestar/live/talk"


def tone(seconds):
    return (np.sin(np.arange(round(seconds * RATE)) / 9) * 12000).astype("<i2").tobytes()


def live_puppet(source, prefix, **inputs):
    """The workflow, its steps fewer and its window shorter."""
    graph = workflow("live_puppet")
    graph.the("LodestarRollingWindow").set(passes=1)
    graph.the("LodestarStudentSchedule").set(blocks=2, passes=1)
    graph.the("LodestarPlanTake").set(max_seconds=60.0).unset("audio")
    graph.the("LodestarLiveTake").set(source=source, filename_prefix=prefix, **inputs)
    return graph


class Running:
    """A graph that runs in a thread, and the events of its live take."""

    def __init__(self, server, graph):
        self.events, self.entry, self.error = [], None, None
        self.thread = threading.Thread(target=self.run, args=(server, graph))
        self.thread.start()

    def run(self, server, graph):
        try:
            self.entry = server.run(graph.prompt(), lambda kind, data: self.events.append((kind, data)), 120)
        except comfy_server.PromptCancelled as error:
            self.error = error

    def live(self):
        return [data for kind, data in list(self.events) if kind == "lodestar.live"]

    def wait(self, condition):
        until = time.monotonic() + 100
        while not condition():
            assert time.monotonic() < until and self.thread.is_alive(), self.events[-3:]
            time.sleep(0.02)

    def end(self):
        self.thread.join(100)
        assert not self.thread.is_alive()


def send(server, query, data=b""):
    request = urllib.request.Request(f"{server.url}{ADDRESS}?{query}", data,
                                     {"Content-Type": "application/octet-stream"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_speech_comes_by_post_and_websocket_and_is_seen_before_it_ends(server, tmp_path):
    assert send(server, "rate=16000", tone(1)) == (404, "no Live Take with the source live:talk is running. Queue one, "
                                                        "then send")
    running = Running(server, live_puppet("live:talk", "served/live"))
    running.wait(lambda: send(server, f"rate={RATE}") == {"samples": 0})
    assert send(server, f"rate={RATE}", tone(1) + b"\0") == {"samples": RATE}
    for wrong, says in (("rate=x", "wanted whole numbers"), ("rate=100", "wanted 8000 to"), ("channels=7", "1 or 2")):
        code, text = send(server, wrong, tone(1))
        assert code == 400 and says in text
    running.wait(running.live)
    playlist = running.live()[0]["playlist"]
    assert playlist["type"] == "temp" and running.live()[0]["delay_seconds"] == 0.32
    text = server.request("/view?" + urllib.parse.urlencode(playlist)).decode()
    assert "ENDLIST" not in text
    addresses = [line for line in text.splitlines() if line and not line.startswith("#")]
    head = text.split('URI="')[1].split('"')[0]
    (tmp_path / "seen.mp4").write_bytes(b"".join(server.request("/" + part) for part in (head, *addresses)))
    assert len(frames_of(tmp_path / "seen.mp4")) >= 8
    socket = websocket.create_connection(f"{server.url.replace('http', 'ws')}{ADDRESS}?rate={RATE}", timeout=30)
    socket.send_binary(tone(0.5))
    socket.send_binary(b"\0")
    assert "wanted whole 16-bit samples" in json.loads(socket.recv())["error"]
    socket.send("end")
    running.end()
    socket.close()
    video = video_of(server, running.entry)
    assert video.parent.name == "served" and video.name.startswith("live_0")
    frames = frames_of(video)
    assert 38 <= len(frames) <= 200 and frames.shape[1:] == (96, 96, 3)
    assert running.live()[-1]["frames"] == -1 and not list(video.parent.glob("*.live.mp4"))
    with av.open(str(video)) as container:
        assert json.loads(container.metadata["prompt"])["13"]["class_type"] == "LodestarLiveTake"
        assert container.streams.audio
    assert send(server, "end=1")[0] == 404


@pytest.mark.once
def test_cancel_leaves_a_complete_file_in_the_output_folder(server):
    running = Running(server, live_puppet("live:talk", "served/cancelled", show="file"))
    running.wait(lambda: send(server, f"rate={RATE}", tone(2)) == {"samples": 2 * RATE})
    folder = server.base / "output" / "served"
    running.wait(lambda: list(folder.glob("cancelled_*.live.mp4")))
    server.request("/interrupt", b"{}")
    running.end()
    assert running.error is not None
    video, = folder.glob("cancelled_*.mp4")
    assert len(frames_of(video)) >= 9
