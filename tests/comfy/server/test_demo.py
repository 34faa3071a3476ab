"""scripts/demo.py on a real server: picture and speech in, a video as long as the speech out, or one clear error."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import demo
import pytest
from lib import comfy_server, environment
from lib.graph import Graph

pytestmark = pytest.mark.once

TINY_TAKE = environment.PACK / "tests" / "golden" / "tiny_take.json"


@pytest.fixture
def run_demo(monkeypatch):
    """demo.main() with these arguments, in this process and this environment."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
        monkeypatch.setattr(environment, "make_environment", lambda wanted: Path(sys.executable))
        monkeypatch.setattr(environment, "enter", lambda python: None)
        monkeypatch.setattr(environment, "stop_on_signals", lambda: None)
        demo.main()
    return run


def changed(tmp_path, kind, **inputs):
    graph = Graph.read(demo.WORKFLOW)
    graph.the(kind).set(**inputs)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(graph.prompt()), encoding="utf-8")
    return path


def test_the_puppet_with_the_anchor_and_without(server, run_demo, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "PACK", tmp_path)  # what another server made is brought into out/
    run_demo("--server", server.url, "--seconds", 2.4)
    lines = capsys.readouterr().out.splitlines()
    videos = [Path(line) for line in lines if line.endswith(".mp4")]
    assert len(videos) == 2 and all(video.parent == tmp_path / "out" for video in videos)
    assert videos[0].name.startswith("puppet_0") and videos[1].name.startswith("puppet_without_anchor")
    contents = [demo.describe(video) for video in videos]
    assert set(contents) <= set(lines) and contents[0] == contents[1]
    assert contents[0].startswith("2.40 s, 60 frames at 25 fps, 96x96") and "; sound 2.4" in contents[0]
    assert any("LodestarLongTake" in line for line in lines) and any("60/60 frames" in line for line in lines)
    compared, empty, *said, made = lines[-6:]
    assert Path(compared).read_bytes().startswith(b"\x89PNG") and not empty and made.startswith("made in ")
    assert sorted(next(word for word in ("face", "mouth", "chunk") if word in text) for text in said) == [
        "chunk", "face", "mouth"] and not any("Not measured" in line for line in lines)
    assert videos[0].read_bytes() != videos[1].read_bytes()


def test_the_puppet_without_comfyui(run_demo, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "PACK", tmp_path)
    run_demo("--headless", "--once", "--seconds", 1)
    progress, _, path, contents, identity, *_, picture, _ = capsys.readouterr().out.splitlines()
    assert progress.startswith("take [....") and path == str(tmp_path / "out" / "puppet.mp4")
    assert contents.startswith("1.00 s, 25 frames at 25 fps, 96x96") and identity.startswith("Identity: ")
    assert Path(picture) == tmp_path / "out" / "puppet.report.png" and Path(picture).is_file()


def test_own_picture_and_speech(server, tmp_path):
    import av
    import numpy as np
    with av.open(str(tmp_path / "mine.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        noise = np.random.default_rng(0).integers(-3000, 3000, (1, 9000), dtype=np.int16)
        frame = av.AudioFrame.from_ndarray(noise, "s16", "mono")
        frame.sample_rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])
    from PIL import Image
    Image.new("RGB", (90, 70), (200, 120, 90)).save(tmp_path / "mine.png")
    options = demo.parse_options(["--workflow", str(TINY_TAKE), "--image", str(tmp_path / "mine.png"),
                                  "--audio", str(tmp_path / "mine.wav")])
    path, borders = demo.take(server, demo.fill_workflow(options, server))
    assert path.is_relative_to(server.base / "output") and "18 frames at 16 fps" in demo.describe(path)  # 1.125 s
    assert borders == []


def test_a_refused_workflow_is_one_clear_message(server, run_demo, tmp_path):
    with pytest.raises(SystemExit, match="refused the workflow before it ran:\nLodestarPlanTake .*fps"):
        run_demo("--server", server.url, "--workflow", changed(tmp_path, "LodestarPlanTake", fps="fast"))


def test_a_failed_workflow_is_one_clear_message(server, run_demo, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"^(ComfyUI stopped|ComfyUI refused)[^\n]*\nLoadImage"):
        run_demo("--server", server.url, "--image", broken)


def test_no_server_is_one_clear_message(run_demo):
    with pytest.raises(SystemExit, match="no ComfyUI answers at http://127.0.0.1:9"):
        run_demo("--server", "127.0.0.1:9", "--seconds", 2)


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to one process there")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_server_is_stopped_when_the_demo_is(how, comfyui, tmp_path):
    base = comfy_server.prepare_base(tmp_path / "base")
    code = ("import pathlib, signal, time\nfrom lib import comfy_server, environment\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"    # a shell's background jobs ignore it
            "environment.stop_on_signals()\n"
            f"with comfy_server.start_server(pathlib.Path({str(comfyui)!r}), pathlib.Path({str(base)!r})) as server:\n"
            "    print(server.process.pid, flush=True)\n    time.sleep(300)\n")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          env={**os.environ, "PYTHONPATH": str(environment.PACK / "scripts")}) as demo_process:
        server = int(demo_process.stdout.readline())
        os.kill(server, 0)
        demo_process.send_signal(how)
        demo_process.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
