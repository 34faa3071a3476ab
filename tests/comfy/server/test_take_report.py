"""Take Report in ComfyUI: behind Long Take in a real server, and on every kind of VIDEO that a graph can hand over."""
import io
import json
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from lib.comfy_server import PromptFailed
from lodestar.nodes.sockets import Take
from lodestar.nodes.take_report import LodestarTakeReport, opened
from lodestar.pipelines.take.plan import plan_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[3]
FRAMES = 30
SPEECH = {"waveform": torch.zeros(1, 1, 16000 * 30 // 16), "sample_rate": 16000}


@pytest.fixture(scope="module")
def history(server):
    """The tiny take, small and short, with a report of it."""
    prompt = json.loads((ROOT / "tests" / "golden" / "tiny_take.json").read_text(encoding="utf-8"))
    by_class = {node["class_type"]: (name, node["inputs"]) for name, node in prompt.items()}
    by_class["LoadImage"][1]["image"] = server.upload(ROOT / "assets" / "portrait.png")
    by_class["LoadAudio"][1]["audio"] = server.upload(ROOT / "assets" / "speech.flac")
    by_class["LodestarPlanTake"][1].update(width=64, height=64, chunk_frames=17, max_seconds=3.0)
    by_class["BasicScheduler"][1]["steps"] = 1
    by_class["LodestarLongTake"][1]["filename_prefix"] = "reported/take"
    wired = {"video": by_class["LodestarLongTake"], "reference": by_class["LoadImage"],
             "plan": by_class["LodestarPlanTake"]}
    prompt["report"] = {"class_type": "LodestarTakeReport", "inputs": {
        "mouth_box": "0.4, 0.5, 0.6, 0.7", **{name: [node, 0] for name, (node, _) in wired.items()}}}
    return server.run(prompt)


def test_a_take_is_reported_beside_its_video(server, history):
    written = json.loads((server.base / "output" / "reported" / "take_00001_.report.json").read_text(encoding="utf-8"))
    assert written["video"]["frames"] == 48 and written["borders"] and written["measures"]["seams"]["score"] > 0
    assert (server.base / "output" / "reported" / "take_00001_.report.png").stat().st_size > 10_000
    assert "faces need face_detection_yunet_2023mar.onnx" in written["left_out"]["identity"]
    assert len(history["outputs"]["report"]["images"]) == 1


@pytest.fixture(scope="module")
def file(base):
    """A video of 30 frames in the output folder."""
    writer = VideoWriter(64, 48, Fraction(16))
    folder = base / "output" / "made"
    folder.mkdir(parents=True, exist_ok=True)
    with writer.segment(folder / "part.mp4") as segment:
        segment.write(scene())
    return writer.finish([folder / "part.mp4"], SPEECH, {}, folder / "clip.mp4")


def scene():
    """A stripe that walks over a picture, frames (30, 48, 64, 3)."""
    picture = torch.full((FRAMES, 48, 64, 3), 0.4)
    for number, frame in enumerate(picture):
        frame[:, number:number + 20] = 0.7
    return picture


def reported(video, **inputs):
    picture, text = LodestarTakeReport.execute(video, "", **inputs).args
    assert picture.ndim == 4 and picture.shape[2] == 1280
    return json.loads(text)


def test_a_file_in_the_output_folder_is_reported_beside_it(file):
    found = reported(InputImpl.VideoFromFile(str(file)), reference=torch.rand(1, 100, 90, 4))
    assert found["video"]["frames"] == FRAMES and "likeness" in found["measures"]
    assert json.loads(file.with_name("clip.report.json").read_text(encoding="utf-8")) == found


def test_frames_and_bytes_are_reported_below_output(file, base):
    components = Types.VideoComponents(images=scene(), audio=None, frame_rate=Fraction(16))
    for video in (InputImpl.VideoFromComponents(components), InputImpl.VideoFromFile(io.BytesIO(file.read_bytes()))):
        before = set((base / "output" / "lodestar").glob("report_*"))
        assert reported(video)["video"]["frames"] == FRAMES
        new = sorted(path.suffix for path in set((base / "output" / "lodestar").glob("report_*")) - before)
        assert new == [".json", ".png"]


def test_a_trimmed_video_is_measured_as_trimmed(file, comfyui_version):
    if comfyui_version == "0.7.0":
        return      # a VIDEO cannot be trimmed there
    trimmed = InputImpl.VideoFromFile(str(file)).as_trimmed(0.5, 1.0)
    assert reported(trimmed)["video"]["frames"] == 16


class Cropped(InputImpl.VideoFromFile):
    """As ComfyUI 0.38 has them: the file as it was, and what is to be cut from it."""

    def get_dimensions(self):
        return 32, 48

    def save_to(self, path, *args, **kwargs):
        with av.open(path, "w", format="mp4") as out:
            stream = out.add_stream("h264", rate=16)
            stream.width, stream.height, stream.pix_fmt = 32, 48, "yuv420p"
            for frame in (scene()[:, :, 16:48] * 255).byte().numpy():
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            out.mux(stream.encode(None))


def test_a_cropped_video_is_measured_as_cropped(file):
    pictures, _ = opened(Cropped(str(file)))
    assert (pictures.width, pictures.height) == (32, 48)
    assert sum(len(piece) for piece in pictures.pieces()) == FRAMES


def test_the_plan_gives_borders_and_another_video_s_plan_is_refused(file):
    video = InputImpl.VideoFromFile(str(file))
    plan = plan_take(Timeline(Fraction(16)), FRAMES, 17, 5, 64, 48)
    assert reported(video, plan=Take(plan, SPEECH))["borders"] == [17, 29]
    with pytest.raises(ValueError, match="plan: it is for 50 frames, the video has 30"):
        reported(video, plan=Take(plan_take(Timeline(Fraction(16)), 50, 17, 5, 64, 48), SPEECH))


def test_bad_input_is_named(server, file):
    video = InputImpl.VideoFromFile(str(file))
    with pytest.raises(ValueError, match="mouth_box: got 'here'"):
        LodestarTakeReport.execute(video, "here")
    with pytest.raises(ValueError, match="reference: got shape"):
        reported(video, reference=torch.rand(1, 4, 4, 3))
    (server.base / "input" / "broken.mp4").write_text("no video")
    prompt = {"load": {"class_type": "LoadVideo", "inputs": {"file": "broken.mp4"}},
              "report": {"class_type": "LodestarTakeReport", "inputs": {"video": ["load", 0], "mouth_box": ""}}}
    with pytest.raises(PromptFailed, match="broken.mp4 cannot be read"):
        server.run(prompt)
