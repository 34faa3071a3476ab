"""What the demo is made of, without ComfyUI: workflows filled in, bars, two takes in one picture, three sentences."""
from fractions import Fraction
from pathlib import Path

import av
import demo
import numpy as np
import pytest
from lib import comfy_server, compare, workflow_inputs
from lib.graph import Graph
from lib.progress import Progress, bar

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LODESTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)


class Uploads:
    """Stands where the client stands and remembers what was sent."""

    def __init__(self):
        self.sent = []

    def upload(self, path):
        self.sent.append(path)
        return f"{path.stem} (1){path.suffix}"


def loaders(*pictures) -> Graph:
    graph = Graph()
    for picture in pictures:
        graph.add("LoadImage", image=picture)
    return graph


def set_picture(graph, chosen=None):
    client = Uploads()
    workflow_inputs.set_file(graph, "LoadImage", "image", chosen, client)
    return client.sent, [node.inputs["image"] for node in graph.nodes()]


def test_the_bundled_file_goes_where_it_is_named():
    assert set_picture(loaders("portrait.png", "mine.png")) == (
        [workflow_inputs.ASSETS / "portrait.png"], ["portrait (1).png", "mine.png"])
    assert set_picture(loaders("mine.png", "../README.md")) == ([], ["mine.png", "../README.md"])


def test_a_chosen_file_replaces_the_bundled_or_the_only_one():
    chosen = Path("a face.jpg")
    assert set_picture(loaders("portrait.png", "x.png"), chosen)[1] == ["a face (1).jpg", "x.png"]
    assert set_picture(loaders("x.png"), chosen)[1] == ["a face (1).jpg"]
    for graph in (loaders(), loaders("x.png", "y.png")):
        with pytest.raises(ValueError, match=f"a face.jpg goes into .* has {len(graph.nodes())}"):
            set_picture(graph, chosen)


def test_without_the_anchor_no_chunk_sees_the_picture():
    """The same workflow, but that the reference is hidden from every latent of a chunk, whatever its time."""
    from lodestar.networks.longcat.sequence import own_layout
    from lodestar.techniques.reference_skip import ReferenceSkip
    graph = Graph.read(demo.WORKFLOW)
    free = compare.without_anchor(graph)
    assert graph.the("LodestarLookaheadAnchor") and not free.all("LodestarLookaheadAnchor")
    assert {one.kind for one, other in zip(free.nodes(), graph.nodes(), strict=True)
            if free.entries[one.id] != graph.entries[other.id]} == {"LodestarReferenceSkip", "LodestarLongTake"}
    inputs = free.the("LodestarReferenceSkip").inputs
    skip, layout = ReferenceSkip(inputs["mode"], inputs["radius"], inputs["factor"]), own_layout(13, 4, 1, 10)
    reference, chunk = layout.frame_indices(layout["reference"]), layout.frame_indices(layout["chunk"])
    assert skip.visibility(layout) == {(query, reference[0]): 0.0 for query in chunk}


def test_three_sentences_the_worst_first():
    held = compare.Figures(0.95, 0.90, 0.70, 1.2)
    said = compare.sentences(held, compare.Figures(0.94, 0.44, 0.61, 1.5), 20.0)
    assert len(said) == 3 and ["mouth" in said[0], "chunk" in said[1], "face" in said[2]] == [True] * 3
    assert "drifted by 0.50 after 20 s, with it by 0.05" in said[2] and "correlation of 0.70" in said[0]
    assert "1.2 times" in said[1] and "without the anchor 1.5 times" in said[1]
    assert "face" in compare.sentences(held._replace(last=0.3), held, 20.0)[0]
    assert len(compare.sentences(held._replace(seams=None), held, 20.0)) == 2


def test_two_videos_in_one_picture(tmp_path):
    from PIL import Image
    videos = []
    for name, colours in (("held", ("red", "blue")), ("free", ("red", "lime"))):
        videos.append(tmp_path / f"{name}.mp4")
        with av.open(str(videos[-1]), "w") as container:
            stream = container.add_stream("libx264", 25, width=96, height=96, pix_fmt="yuv420p", options={"crf": "1"})
            for colour in colours:
                for _ in range(10):
                    container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (96, 96), colour))))
            container.mux(stream.encode(None))
    shown = Image.open(compare.picture(*videos, tmp_path / "both.png")).convert("RGB")
    assert shown.size == (6 * 198 + 6, 2 * 214 + 6)
    found = [[shown.getpixel((6 + 198 * column + 96, 4 + 214 * row + 110)) for column in (0, 5)] for row in (0, 1)]
    assert all(np.abs(np.subtract(got, wanted)).max() < 16 for got, wanted in zip(
        (*found[0], *found[1]), ((255, 0, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0)), strict=True))


def test_loaders_stand_where_a_sample_person_stood():
    """Of its files and with all its links, and none that nothing asks for."""
    graph = Graph()
    portrait, drawn = (graph.add("LodestarSamplePerson", person=person, seconds=0.0)
                       for person in ("portrait", "drawn character"))
    graph.add("Take", reference=portrait[0], audio=portrait[1], second=drawn[1])
    own = workflow_inputs.with_loaders(graph)
    take = own.the("Take")
    assert {name: (take.source(name).kind, take.source(name).inputs) for name in take.inputs} == {
        "reference": ("LoadImage", {"image": "portrait.png"}), "audio": ("LoadAudio", {"audio": "speech.flac"}),
        "second": ("LoadAudio", {"audio": "speech_human.flac"})}
    assert len(own.nodes()) == 4 and graph.all("LodestarSamplePerson")
    assert all(workflow_inputs.own_file(*node.inputs.values()) for node in own.all("LoadImage", "LoadAudio"))
    assert workflow_inputs.with_loaders(own).prompt() == own.prompt()


def test_seconds_need_a_plan():
    graph = Graph()
    plan = graph.add("LodestarPlanTake", max_seconds=0.0)
    workflow_inputs.set_seconds(graph, 2.5)
    assert plan.inputs == {"max_seconds": 2.5}
    with pytest.raises(ValueError, match="LodestarPlanTake"):
        workflow_inputs.set_seconds(Graph(), 2.5)


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--seconds", "nan"], ["--image", "nowhere.png"],
                                       ["--seconds", "x"], ["--workflow", "nowhere.json"]])
def test_bad_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        demo.parse_options(arguments)
    assert arguments[0] in capsys.readouterr().err


def chunk(number):
    return "lodestar.chunk", {"node": "7", "chunk": number, "chunks": 4, "frames_done": 20 * number,
                              "frames_total": 80}


def test_bars_follow_take_and_chunk(capsys, monkeypatch):
    clock = iter((100.0, 103.0, 103.0))
    monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))
    progress = Progress(Graph({"7": {"class_type": "LodestarLongTake", "inputs": {}}}))
    progress("executing", {"node": "7"})
    progress("progress", {"node": "7", "value": 1, "max": 8})  # before the first chunk: nothing to show it on
    progress(*chunk(1))  # a take that resumes
    assert progress.bars() == "take [####............] 20/80 frames  chunk 2/4 [........]"
    progress("progress", {"node": "3", "value": 1, "max": 1})  # another node's
    progress(*chunk(2))
    progress("progress", {"node": "7", "value": 5, "max": 8})  # 4 chunks of 2 steps: half of the third
    assert progress.bars() == "take [##########......] 40/80 frames  chunk 3/4 [####....] 3.0 s each"
    progress(*chunk(4))
    assert progress.borders == [20, 40]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "LodestarLongTake" in lines[0] and lines[-1] == f"take {bar(1)} 80/80 frames"


def test_the_saved_video_is_chosen():
    temp, saved = ({"filename": f"{kind}.mp4", "subfolder": "", "type": kind} for kind in ("temp", "output"))
    entry = {"outputs": {"1": {"images": [saved], "animated": [True]}, "2": {"images": [temp], "text": ["x.mp4"]}}}
    assert comfy_server.finished_video(entry) == saved
    with pytest.raises(ValueError, match="no .mp4"):
        comfy_server.finished_video({"outputs": {"1": {"images": [{"filename": "a.png"}]}}})


def test_a_video_is_described_by_what_is_in_it(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(16))
        video.width = video.height = 64
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(8):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        samples.sample_rate = 16000
        container.mux(sound.encode(samples))
        container.mux([*video.encode(), *sound.encode()])
    picture, sound = demo.describe(tmp_path / "a.mp4").split("; ")
    assert picture == "0.50 s, 8 frames at 16 fps, 64x64, h264"
    assert sound.startswith("sound 0.5") and sound.endswith("aac, 16000 Hz, 1 channel")
