"""Memory of a real ComfyUI server against the length of the take it makes: resident bytes, sampled from outside."""
import in_process  # isort: skip - first, because it brings ComfyUI and the scripts

import sys
import tempfile
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
from lib import comfy_server, environment
from lib.graph import Graph
from rows import Row, show

MODELS = ("wan21_t2v", "wan22_s2v")
SECONDS = (60, 600)      # of speech, 16 kHz mono
SIZE, FPS = 64, 16
EVERY_SECONDS = 0.01


class Watch(threading.Thread):
    """Samples a process until `stop`: `peaks` holds the most resident bytes in each phase, in order."""

    def __init__(self, process: psutil.Process):
        super().__init__(daemon=True)
        self.process, self.phase, self.peaks, self.over = process, "start", {}, threading.Event()

    def run(self):
        while not self.over.wait(EVERY_SECONDS):
            resident = self.process.memory_info().rss
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), resident)

    def stop(self):
        self.over.set()
        self.join()

    def follow(self, kind: str, data: dict):
        """To be called with every message of the server."""
        if kind == "lodestar.chunk":
            self.phase = f"chunk {data['chunk']}"


def write_speech(path: Path, seconds: int) -> None:
    """The bundled speech, over and over."""
    with av.open(str(in_process.PACK / "assets" / "speech.flac")) as container:
        speech = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.resize(speech.astype("<i2"), seconds * 16000).tobytes())


def tiny_take(server: comfy_server.Server, model: str, seconds: int) -> Graph:
    """The tiny take with `model`, small, one step, and speech of `seconds`."""
    graph = Graph.read(in_process.PACK / "tests" / "golden" / "tiny_take.json")
    write_speech(server.base / "speech.wav", seconds)
    graph.the("LoadAudio").set(audio=server.upload(server.base / "speech.wav"))
    graph.the("LoadImage").set(image=server.upload(in_process.PACK / "assets" / "portrait.png"))
    graph.the("LodestarPlanTake").set(width=SIZE, height=SIZE)
    graph.the("BasicScheduler").set(steps=1)
    graph.the("UNETLoader").set(unet_name=f"lodestar_tiny_{model}.safetensors")
    if "s2v" not in model:
        graph.the("LodestarLongTake").unset("audio_features")
    return graph


def peaks_of_take(model: str, seconds: int) -> dict[str, int]:
    """{phase: peak resident bytes} of a fresh server that makes one take; phases are "start" and "chunk 0" onwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        base = comfy_server.prepare_base(Path(folder), environment.tiny_models(Path(sys.executable)))
        with comfy_server.start_server(in_process.COMFYUI, base) as server:
            graph, watch = tiny_take(server, model, seconds), Watch(psutil.Process(server.process.pid))
            watch.start()
            server.run(graph.prompt(), watch.follow)
            watch.stop()
        with av.open(str(next((base / "output").rglob("*.mp4")))) as video:
            assert video.streams.video[0].frames == seconds * FPS
    return watch.peaks


def rows() -> Iterator[Row]:
    for model in MODELS:
        short, long = (peaks_of_take(model, seconds) for seconds in SECONDS)
        least, most = max(short.values()), max(long.values())
        yield Row.at_most(f"{model}: peak RSS of a server that makes a 10-minute take / a 1-minute take", most / least,
                          1.05, 3, f" ({most / 1e6:.0f} / {least / 1e6:.0f} MB)")
        longer = SECONDS[1] - SECONDS[0]
        image, sound, grown = longer * FPS * SIZE ** 2 * 3 * 4, longer * 16000 * 4, most - least
        yield Row.at_most(f"{model}: growth of that peak beyond ComfyUI's AUDIO / bytes of nine minutes of IMAGE",
                          max(grown - sound, 0) / image, 0.05, 3,
                          f" (({grown / 1e6:.0f} - {sound / 1e6:.0f}) / {image / 1e6:.0f} MB)")


if __name__ == "__main__":
    show(rows)
