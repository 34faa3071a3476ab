"""The whole report: of files, of frames, of what is missing; its picture, its files and its command."""
import io
import json
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.pipelines.metrics.faces import Detection
from lodestar.pipelines.metrics.report import evaluate
from lodestar.pipelines.metrics.report_files import beside, save_report
from lodestar.pipelines.metrics.report_picture import (
    NOTE_LETTERS,
    drift_in_words,
    figures_of,
    missing_of,
    report_picture,
    steps,
)
from lodestar.pipelines.metrics.video_reader import Clip, VideoFile
from lodestar.pipelines.take.video_writer import VideoWriter
from PIL import Image

pytestmark = pytest.mark.once

FPS, WIDTH, HEIGHT, FRAMES, RATE = 25, 80, 64, 110, 16000
MOUTH = "0.4, 0.5, 0.7, 0.8"    # pixels 32 to 51 down, 32 to 56 across
SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "report.py"


def syllables():
    made = np.random.default_rng(0)
    return np.clip(np.convolve(made.normal(size=FRAMES), np.hanning(7), "same"), 0, 2) / 2


def talking(late=0):
    """A calm picture that sways by pixels and opens its mouth `late` frames after the sound."""
    across = torch.arange(WIDTH) / WIDTH
    stripes = torch.sin(across * 25)[None, :, None] * torch.linspace(0.2, 1, HEIGHT)[:, None, None]
    picture = (0.5 + 0.2 * stripes).expand(-1, -1, 3)
    video = torch.stack([picture.roll(round(3 * np.sin(frame / 9)), 1) for frame in range(FRAMES)])
    for frame, opening in zip(video, np.roll(syllables(), late), strict=True):
        frame[34:34 + round(14 * opening), 36:52] = 0.05
    return video


def voice():
    noise = np.random.default_rng(1).normal(size=FRAMES * RATE // FPS)
    wave = np.repeat(syllables(), RATE // FPS) * noise * 0.2
    return {"waveform": torch.from_numpy(wave).float()[None, None], "sample_rate": RATE}


def write(folder, frames, speech, name="take.mp4"):
    writer = VideoWriter(WIDTH, HEIGHT, Fraction(FPS))
    with writer.segment(folder / "part.mp4") as segment:
        segment.write(frames)
    return writer.finish([folder / "part.mp4"], speech, {}, folder / name)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("video"), talking(late=3), voice())


@pytest.fixture(scope="module")
def report(file):
    return evaluate(VideoFile(file), borders=[50, 100], reference=talking()[0], mouth_box=MOUTH)


# ---------------------------------------------------------------- what is measured

def test_a_file_is_measured_with_its_own_sound(report):
    assert report["video"] == {"name": "take.mp4", "frames": FRAMES, "fps": 25.0, "seconds": 4.4, "width": WIDTH,
                               "height": HEIGHT}
    lips = report["measures"]["lip_sync"]
    assert lips["lag_frames"] == 3 and lips["correlation"] > 0.7
    assert report["measures"]["colour_drift"]["most"] < 2 and report["measures"]["freeze"]["count"] == 0
    assert report["measures"]["seams"]["score"] < 2 and set(report["measures"]["seams"]["jumps"]) == {"50", "100"}
    assert report["measures"]["likeness"]["most"] > 0.95
    assert set(report["left_out"]) == {"identity", "syncnet"} and "syncnet_v2.model" in report["left_out"]["syncnet"]
    assert report["left_out"]["identity"].startswith("faces need face_detection_yunet_2023mar.onnx and face_recog")
    assert json.loads(json.dumps(report, allow_nan=False)) == json.loads(json.dumps(report))


def test_every_track_has_a_drift(report):
    found = report["measures"] | {"change": report["measures"]["seams"]["change"]}
    for name in ("colour_drift", "sharpness", "flicker", "motion", "likeness", "frechet", "mouth", "change"):
        assert isinstance(found[name]["slope_per_minute"], float) and len(found[name]["curve"]["values"]) >= 4, name


def test_frames_that_are_there_are_measured_alike(report):
    found = evaluate(Clip(talking(late=3).mul(255).byte(), FPS), speech=voice(), borders=[50, 100], mouth_box=MOUTH)
    assert found["measures"]["lip_sync"]["lag_frames"] == 3
    for name in ("sharpness", "motion"):
        assert found["measures"][name]["mean"] == pytest.approx(report["measures"][name]["mean"], rel=0.1)
    assert found["left_out"]["likeness"] == "no reference picture was given"


def test_bytes_of_a_file_will_do(file, report):
    source = io.BytesIO(file.read_bytes())
    source.seek(100)
    assert evaluate(VideoFile(source), mouth_box=MOUTH)["measures"]["lip_sync"] == report["measures"]["lip_sync"]


def test_the_sound_keeps_its_place_when_it_begins_late(tmp_path):
    import av
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        picture, sound = container.add_stream("ffv1", rate=FPS), container.add_stream("pcm_s16le", rate=RATE)
        picture.width, picture.height, picture.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number, frame in enumerate(talking()):
            shown = av.VideoFrame.from_ndarray(frame.mul(255).byte().numpy(), "rgb24")
            shown.pts, shown.time_base = number, Fraction(1, FPS)
            container.mux(picture.encode(shown))
        samples = (voice()["waveform"][0].numpy() * 32767).clip(-32768, 32767).astype(np.int16)
        sound_frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        sound_frame.sample_rate, sound_frame.pts, sound_frame.time_base = RATE, 5 * RATE // FPS, Fraction(1, RATE)
        container.mux([*sound.encode(sound_frame), *picture.encode(), *sound.encode()])
    lips = evaluate(VideoFile(path), mouth_box=MOUTH)["measures"]["lip_sync"]
    assert lips["lag_frames"] == -5 and lips["correlation"] > 0.7


def test_a_look_of_ones_own_gives_identity_and_mouth():
    angles = iter(torch.linspace(0, 1, FRAMES))
    sound = iter(np.roll(syllables(), 2))

    def look(frames):
        turned = torch.tensor([float(next(angles)) for _ in frames])
        return Detection(torch.stack([turned.cos(), turned.sin()], 1), torch.tensor([next(sound) for _ in frames]))

    found = evaluate(Clip(talking(), FPS), speech=voice(), detect=look, identity=torch.tensor([1.0, 0]))
    assert found["measures"]["identity"]["least"] == pytest.approx(np.cos(1), abs=1e-3)
    assert found["measures"]["identity"]["slope_per_minute"] < -1
    assert found["measures"]["lip_sync"]["lag_frames"] == 2 and "identity" not in found["left_out"]


def test_faces_are_looked_at_where_opencv_and_its_files_are(tmp_path):
    pytest.importorskip("cv2", reason="opencv-python, which requirements.txt names, is not installed here")
    from lodestar.tests.tiny_onnx import write_detector, write_recogniser
    write_detector(tmp_path / "face_detection_yunet_2023mar.onnx")
    write_recogniser(tmp_path / "face_recognition_sface_2021dec.onnx")
    frames = torch.full((12, 160, 192, 3), 0.4)
    frames[:, 80:88, 96:104] = 1
    measured = evaluate(Clip(frames, FPS), models=[tmp_path], reference=frames[0])["measures"]
    assert measured["identity"]["mean"] == pytest.approx(1) and measured["mouth"]["frames"] == 12
    without = evaluate(Clip(frames, FPS), models=[tmp_path], reference=frames[0] * 0.5)
    assert without["left_out"]["identity"] == "no face was found in the reference picture"
    assert without["measures"]["mouth"]["frames"] == 12


def test_what_cannot_be_measured_is_left_out_with_a_reason():
    found = evaluate(Clip(talking()[:10], FPS))
    assert set(found["left_out"]) == {"likeness", "seams", "frechet", "identity", "mouth", "lip_sync", "syncnet"}
    assert "seams" in found["measures"] and found["measures"]["seams"]["score"] is None
    assert "no sound" in evaluate(Clip(talking(), FPS), mouth_box=MOUTH)["left_out"]["lip_sync"]
    still = evaluate(Clip(talking()[:1].expand(30, -1, -1, -1), FPS), speech=voice(), mouth_box=MOUTH)
    assert "never changes" in still["left_out"]["lip_sync"]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_videos_have_a_report(frames):
    report = evaluate(Clip(talking()[:frames], FPS), reference=torch.rand(9, 30, 3))
    assert report["video"]["frames"] == frames and report_picture(report).shape[1] == 1280


# ---------------------------------------------------------------- what is refused

def test_bad_input_is_refused(tmp_path, file):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="text.mp4 cannot be read"):
        VideoFile(tmp_path / "text.mp4")
    with pytest.raises(ValueError, match="nowhere.mp4 cannot be read"):
        VideoFile(tmp_path / "nowhere.mp4")
    (tmp_path / "half.mp4").write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match="half.mp4"):
        evaluate(VideoFile(tmp_path / "half.mp4"))
    with pytest.raises(ValueError, match="borders: got 50 to 200, but take.mp4 has 110 frames"):
        evaluate(VideoFile(file), borders=[50, 200])
    with pytest.raises(ValueError, match="mouth_box: got"):
        evaluate(VideoFile(file), mouth_box="1,2,3")


def test_sound_without_a_picture_is_no_video(tmp_path):
    import av
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 400), np.int16), "s16", "mono")
        silence.sample_rate = RATE
        container.mux([*stream.encode(silence), *stream.encode()])
    with pytest.raises(ValueError, match="sound.wav has no video track"):
        VideoFile(tmp_path / "sound.wav")


# ---------------------------------------------------------------- memory and cancelling

class Endless(Clip):
    """Pieces that are made when asked for; whether earlier ones are gone by then."""

    def pieces(self):
        alive = []
        for _ in range(12):
            assert sum(reference() is not None for reference in alive[:-1]) == 0, "an earlier piece is still held"
            piece = torch.rand(16, 32, 32, 3)
            alive.append(weakref.ref(piece))
            yield piece
            del piece


def test_frames_are_forgotten():
    assert evaluate(Endless(torch.zeros(1, 32, 32, 3), FPS), reference=torch.rand(32, 32, 3))["video"]["frames"] == 192


def test_the_callback_may_stop_it():
    record = []

    def stop(frames):
        record.append(frames)
        if frames >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Clip(talking(), FPS), on_frames=stop)
    assert record == [16, 32]


# ---------------------------------------------------------------- picture, files, command

def test_the_picture_shows_every_track_and_every_gap(report):
    picture = report_picture(report)
    assert picture.ndim == 3 and picture.dtype == torch.float32 and 0 <= picture.min() and picture.max() <= 1
    blue = torch.tensor([0x25, 0x63, 0xb0]) / 255
    assert int(((picture - blue).abs().amax(-1) < 0.1).sum()) > 3000
    fewer = evaluate(Clip(talking()[:10], FPS))
    assert report_picture(fewer).shape[0] < picture.shape[0]


def test_figures_are_said_in_words(report):
    figures = dict(figures_of(report))
    assert figures["Lip sync"].endswith("the mouth is 3 frames late") and figures["Frozen"] == "0.0% of the frames"
    assert missing_of(report)[0].startswith("Not measured: identity. Faces need face_detection_yunet_2023mar.onnx")
    assert all(len(line) <= NOTE_LETTERS for line in missing_of(report)), "one line for each reason"


def test_the_drift_of_a_short_clip_is_said_over_its_length():
    assert drift_in_words(21.0, 6.0) == "+2.1 in 6 s" and drift_in_words(-3.0, 90.0) == "-3 / min"
    assert drift_in_words(0.5, 60.0) == "+0.5 / min" and drift_in_words(None, 6.0) == "unknown / min"


@pytest.mark.parametrize(("low", "high", "known"), [
    (0, 10, [0, 2.5, 5, 7.5, 10]), (0.93, 0.994, [0.92, 0.94, 0.96, 0.98, 1]), (0, 137, [0, 50, 100, 150])])
def test_axes_have_round_numbers(low, high, known):
    assert steps(low, high, 4, outward=True) == pytest.approx(known)


def test_files_are_written_whole(report, tmp_path):
    base = beside(tmp_path / "new" / "take_00001_.mp4")
    paths = save_report(report, report_picture(report), base)
    assert [path.name for path in paths] == ["take_00001_.report.json", "take_00001_.report.png"]
    assert json.loads(paths[0].read_text())["video"]["frames"] == FRAMES
    assert Image.open(paths[1]).size[0] == 1280 and len(list(base.parent.iterdir())) == 2


def command(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True,
                          timeout=120)


def test_the_command_writes_beside_the_video(file, tmp_path):
    picture = tmp_path / "face.png"
    Image.new("RGBA", (50, 70), "gray").save(picture)
    done = command(file, "--reference", picture, "--borders", "50,100", "--mouth", MOUTH)
    assert done.returncode == 0, done.stderr
    assert "Lip sync: correlation 0." in done.stdout and "3 frames late" in done.stdout
    lines = done.stdout.splitlines()
    assert [Path(line).name for line in lines[-2:]] == ["take.report.json", "take.report.png"]
    assert json.loads(Path(lines[-2]).read_text())["borders"] == [50, 100]


@pytest.mark.parametrize(("arguments", "says"), [
    (["nowhere.mp4"], "nowhere.mp4 is no file"), ([SCRIPT], "report.py"), ([SCRIPT, "--borders", "5,2"], "ascending")])
def test_the_command_refuses_in_one_line(arguments, says):
    done = command(*arguments)
    assert done.returncode and says in done.stderr and "Traceback" not in done.stderr
