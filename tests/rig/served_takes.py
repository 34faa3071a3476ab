"""Takes through a real server: the tiny take and the pack's workflows made short, and what they left behind."""
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from lib import comfy_server, environment
from lib.graph import Graph
from safetensors.torch import load_file

STEPS, MANY_STEPS, CHUNKS = 2, 40, 4    # many: so that a chunk lasts long enough to be interrupted
UNITS = MANY_STEPS * 5 // 4             # of the progress bar, per chunk of many steps: decoding counts a quarter


def tiny_take(server, prefix: str, *, steps: int = STEPS, **changes) -> Graph:
    """The tiny take, small and short: 4 s of speech in 4 chunks of 64x64. `changes`: an input of any node."""
    graph = Graph.read(environment.PACK / "tests" / "golden" / "tiny_take.json")
    graph.the("LoadImage").set(image=asset(server, "portrait.png"))
    graph.the("LoadAudio").set(audio=asset(server, "speech.flac"))
    graph.the("LodestarPlanTake").set(width=64, height=64, chunk_frames=17, max_seconds=4.0)
    graph.the("BasicScheduler").set(steps=steps)
    graph.the("LodestarLongTake").set(filename_prefix=prefix)
    for name, value in changes.items():
        graph.having(name).set(**{name: value})
    return graph


@cache
def asset(server, name: str) -> str:
    """The name in the server's input folder of one of the pack's assets, sent once."""
    return server.upload(environment.PACK / "assets" / name)


def workflow(name: str) -> Graph:
    """One of workflows/api."""
    return Graph.read(environment.PACK / "workflows" / "api" / f"{name}.json")


def without_text_encoder(graph: Graph) -> Graph:
    """Put Blank Prompt where a text encoder stands, and give no script to read, nor CLIP vision: the official encoders
    are not tiny."""
    joint = graph.all("CheckpointLoaderSimple") or graph.all("LodestarJointSpeech") and graph.all("UNETLoader")
    width = {"width": 0, "model": joint[0][0]} if joint else {"width": 4096}
    for node in graph.all("CLIPTextEncode"):
        node.become("LodestarBlankPrompt", tokens=16, **width)
    for node in graph.all("TextEncodeHunyuanVideo_ImageToVideo"):
        node.become("LodestarBlankPrompt", tokens=16, width=0, model=graph.the("UNETLoader")[0])
    for kind in ("CLIPVisionEncode", "CLIPLoader", "DualCLIPLoader", "CLIPVisionLoader", "LTXAVTextEncoderLoader"):
        for encoder in graph.all(kind):
            for node in graph.readers(encoder):
                node.unset(*[name for name, value in node.inputs.items() if value == encoder[0]])
            graph.remove(encoder)
    for node in graph.nodes():
        node.set(**{"script": ""} if "script" in node.inputs else {})
    return graph


def without_speech(graph: Graph) -> None:
    """Of a model that takes no audio features; the video still has the sound."""
    graph.the("LodestarPlanTake").set(overlap_frames=5)
    graph.the("LodestarLongTake").unset("audio_features")


def video_of(server, history: dict) -> Path:
    """The file of a finished prompt."""
    file = next(output["images"][0] for output in history["outputs"].values() if "images" in output)
    assert file["type"] == "output"
    return server.base / "output" / file["subfolder"] / file["filename"]


def frames_of(path: Path) -> np.ndarray:
    """(T, H, W, 3), 0..255."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def latents_of(folder: Path) -> list[torch.Tensor]:
    """Of each chunk that a take's folder holds."""
    return [load_file(path)["latents"] for path in sorted(folder.glob("chunk_*.safetensors"))]


def take_folders(server, name: str) -> list[Path]:
    return sorted((server.base / "output" / "lodestar_takes").glob(f"{name}-*"))


def log_since(server, start: int) -> str:
    """What the server wrote into its log behind its first `start` bytes."""
    return server.log.read_bytes()[start:].decode("utf-8", errors="replace")


def saved_latents(server, graph: Graph) -> torch.Tensor:
    """Run a graph with one Save Latent; what it saved."""
    file, = server.run(graph.prompt())["outputs"][graph.the("SaveLatent").id]["latents"]
    return load_file(server.base / "output" / file["subfolder"] / file["filename"])["latent_tensor"]


def cancel_in_second_chunk(server, graph: Graph) -> list[tuple[str, dict]]:
    """What the server said on the way."""
    events = []

    def cancel(kind, data):
        events.append((kind, data))
        if kind == "progress" and data["value"] > 1.2 * UNITS:
            server.request("/interrupt", b"{}")

    with pytest.raises(comfy_server.PromptCancelled):
        server.run(graph.prompt(), cancel)
    return events


def write_video(path: Path, seconds: float, fps: int = 16) -> Path:
    """A video of 64x48 with a tone, whose frames differ."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        track = container.add_stream("aac", rate=16000, layout="mono")
        for number in range(round(seconds * fps)):
            picture = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        tone = np.sin(np.arange(round(seconds * 16000)) / 10)[None].astype(np.float32) / 4
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path
