"""Take Report on every kind of VIDEO that a graph can hand over."""
import io
import json
from fractions import Fraction

import av
import pytest
import torch
from comfy_api.latest import InputImpl, Types
from lodestar.host.measured_video import open_video
from lodestar.host.who_stands_where import TAG
from lodestar.nodes.compare_takes import LodestarCompareTakes
from lodestar.nodes.take_report import LodestarTakeReport
from lodestar.pipelines.take.plan import Take, plan_take
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.timeline import Timeline

pytestmark = pytest.mark.once

FRAMES = 30
SPEECH = {"waveform": torch.zeros(1, 1, 16000 * 30 // 16), "sample_rate": 16000}


@pytest.fixture(scope="module")
def file(base):
    """A video of 30 frames in the output folder."""
    writer = VideoWriter(64, 48, Fraction(16))
    folder = base / "output" / "made"
    folder.mkdir(parents=True, exist_ok=True)
    with writer.segment(folder / "part.mp4") as segment:
        segment.write(scene())
    stood = [{"node": "Style Anchor", "shows": "the take's picture", "times": [-1.0]}]
    return writer.finish([folder / "part.mp4"], SPEECH, {TAG: json.dumps(stood)}, folder / "clip.mp4")


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
    assert found["references"] == ["Style Anchor: the take's picture, at -1"]
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
    pictures, _ = open_video(Cropped(str(file)))
    assert (pictures.width, pictures.height) == (32, 48)
    assert sum(len(piece) for piece in pictures.pieces()) == FRAMES


def test_the_plan_gives_borders_and_another_video_s_plan_is_refused(file):
    video = InputImpl.VideoFromFile(str(file))
    plan = plan_take(Timeline(Fraction(16)), FRAMES, 17, 5, 64, 48)
    assert reported(video, plan=Take(plan, SPEECH))["borders"] == [17, 29]
    with pytest.raises(ValueError, match="plan: it is for 50 frames, the video has 30"):
        reported(video, plan=Take(plan_take(Timeline(Fraction(16)), 50, 17, 5, 64, 48), SPEECH))


def test_bad_input_is_named(file):
    video = InputImpl.VideoFromFile(str(file))
    with pytest.raises(ValueError, match="mouth_box: got 'here'"):
        LodestarTakeReport.execute(video, "here")
    with pytest.raises(ValueError, match="reference: got shape"):
        reported(video, reference=torch.rand(1, 4, 4, 3))


def test_the_node_shows_five_figures_and_where_the_full_report_is(file):
    made = LodestarTakeReport.execute(InputImpl.VideoFromFile(str(file)), "")
    opens, = map(json.loads, made.ui["lodestar_report"])
    assert opens["picture"] == {"filename": "clip.report.png", "subfolder": "made", "type": "output"}
    assert opens["video"]["filename"] == "clip.mp4" and 0 <= opens["worst"] <= FRAMES / 16
    assert len(made.ui["images"]) == 1 and json.loads(made.args[1])["verdict"]


def test_the_puppet_is_known_by_its_own_graph(file, base):
    folder = base / "output" / "made"
    for name, known in (("puppet_null_silence.safetensors", True), ("wan2.2_s2v.safetensors", False)):
        prompt = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": name}}, "2": {"class_type": "Note"}}
        path = VideoWriter(64, 48, Fraction(16)).finish([folder / "part.mp4"], SPEECH, {"prompt": json.dumps(prompt)},
                                                        folder / f"{name}.mp4")
        reasons = json.loads(LodestarTakeReport.execute(InputImpl.VideoFromFile(str(path)), "").args[1])["left_out"]
        assert ("a drawing" in reasons["identity"]) == known


def test_two_takes_are_compared(file):
    video = InputImpl.VideoFromFile(str(file))
    picture, text = LodestarCompareTakes.execute(video, video, "no anchor", "anchor").args
    found = json.loads(text)
    assert picture.ndim == 4 and found["first"] == found["second"] and found["first"]
