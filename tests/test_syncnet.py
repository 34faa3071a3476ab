"""SyncNet's layers, file and report, with random weights of the official names and shapes: the real ones cannot be had
here. The oracle below is written from the network's sizes alone."""
import json

import numpy as np
import pytest
import torch
from lodestar.networks.syncnet import SyncNetMissing, load_syncnet
from lodestar.pipelines.metrics.faces import Detection
from lodestar.pipelines.metrics.mfcc import SpeechMfcc
from lodestar.pipelines.metrics.report import NO_FACE_BOX, NO_SYNC_WINDOW, evaluate
from lodestar.pipelines.metrics.report_picture import figures_of, missing_of, report_picture
from lodestar.pipelines.metrics.syncnet import face_crop
from lodestar.pipelines.metrics.video_reader import Clip
from torch.nn import functional

FPS, HEIGHT, WIDTH = 25, 160, 192
CONVOLUTIONS = {
    "netcnnaud": {0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3),
                  14: (256, 256, 3, 3), 18: (512, 256, 5, 4)},
    "netcnnlip": {0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3),
                  14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6)},
    "netfcaud": {0: (512, 512), 3: (1024, 512)}, "netfclip": {0: (512, 512), 3: (1024, 512)}}


def official_shapes():
    """The keys and shapes of the authors' file."""
    shapes = {}
    for part, layers in CONVOLUTIONS.items():
        for place, shape in layers.items():
            shapes |= {f"{part}.{place}.weight": shape, f"{part}.{place}.bias": shape[:1]}
            if part.startswith("netcnn") or place == 0:
                shapes |= {f"{part}.{place + 1}.{name}": shape[:1]
                           for name in ("weight", "bias", "running_mean", "running_var")}
    return shapes


@pytest.fixture(scope="module")
def state():
    made = torch.Generator().manual_seed(0)

    def value(name, shape):
        if len(shape) > 1:
            return torch.randn(shape, generator=made) * (2 / np.prod(shape[1:])) ** 0.5
        positive = name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight"))
        return torch.rand(shape, generator=made) + 0.5 if positive else torch.randn(shape, generator=made) * 0.2

    made_of = {name: value(name, shape) for name, shape in official_shapes().items()}
    made_of["netcnnlip.1.running_var"] *= 150 ** 2      # pixels and coefficients come in the size that they have
    made_of["netcnnaud.1.running_var"] *= 20 ** 2
    return made_of


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory):
    """As the authors' file is: torch's old format, no counters of batches."""
    made = tmp_path_factory.mktemp("models")
    torch.save(state, made / "syncnet_v2.model", _use_new_zipfile_serialization=False)
    return made


@pytest.fixture(scope="module")
def network(folder):
    return load_syncnet([folder / "nowhere", folder])


# ---------------------------------------------------------------- the layers

def convolved(x, state, name, place, **how):
    weight = state[f"{name}.{place}.weight"]
    convolve = functional.conv2d if weight.ndim == 4 else functional.conv3d
    return relu_of_norm(convolve(x, weight, state[f"{name}.{place}.bias"], **how), state, f"{name}.{place + 1}")


def relu_of_norm(x, state, name):
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, var, scale, shift = (state[f"{name}.{part}"].view(shape)
                               for part in ("running_mean", "running_var", "weight", "bias"))
    return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)


def headed(x, state, name):
    x = relu_of_norm(x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"], state, f"{name}.1")
    return x @ state[f"{name}.3.weight"].T + state[f"{name}.3.bias"]


def sound_oracle(mfcc, state):
    """(13, 20) -> (1024,)"""
    x = mfcc[None, None]
    for place in (0, 4):
        x = convolved(x, state, "netcnnaud", place, padding=1)
    x = functional.max_pool2d(x, 3, (1, 2))
    for place in (8, 11, 14):
        x = convolved(x, state, "netcnnaud", place, padding=1)
    x = convolved(functional.max_pool2d(x, 3, 2), state, "netcnnaud", 18)
    return headed(x.reshape(1, 512), state, "netfcaud")[0]


def lips_oracle(window, state):
    """Five frames (5, 3, 224, 224) -> (1024,)"""
    x = window.permute(1, 0, 2, 3)[None]
    x = convolved(x, state, "netcnnlip", 0, stride=(1, 2, 2))
    x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2))
    x = convolved(x, state, "netcnnlip", 4, stride=(1, 2, 2), padding=(0, 1, 1))
    x = functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
    for place in (8, 11, 14):
        x = convolved(x, state, "netcnnlip", place, padding=(0, 1, 1))
    x = convolved(functional.max_pool3d(x, (1, 3, 3), (1, 2, 2)), state, "netcnnlip", 18)
    return headed(x.reshape(1, 512), state, "netfclip")[0]


def test_names_and_shapes_are_the_official_ones(network):
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()
             if not name.endswith("num_batches_tracked")}
    assert found == official_shapes() and not network.training


def test_sound_goes_through_the_official_layers(network, state):
    mfcc = torch.randn(3, 13, 20, generator=torch.Generator().manual_seed(1)) * 8
    expected = torch.stack([sound_oracle(one, state) for one in mfcc])
    assert torch.allclose(network.of_sound(mfcc), expected, rtol=1e-4, atol=1e-4)


def test_a_strip_of_frames_is_its_windows_through_the_official_layers(network, state):
    frames = torch.rand(7, 3, 224, 224, generator=torch.Generator().manual_seed(2)) * 255
    expected = torch.stack([lips_oracle(frames[first:first + 5], state) for first in range(3)])
    assert torch.allclose(network.of_lips(frames), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# ---------------------------------------------------------------- the file

def test_newer_files_with_counters_load_as_well(state, tmp_path):
    counted = state | {f"{name[:-12]}num_batches_tracked": torch.tensor(7) for name in state if "running_mean" in name}
    torch.save(counted, tmp_path / "syncnet_v2.model")
    assert torch.equal(load_syncnet([tmp_path]).netfclip[3].weight, state["netfclip.3.weight"])


def test_bytes_after_the_end_of_the_file_do_no_harm(state, tmp_path):
    torch.save(state, tmp_path / "syncnet_v2.model")
    with open(tmp_path / "syncnet_v2.model", "ab") as file:
        file.write(bytes(4096))
    assert torch.equal(load_syncnet([tmp_path]).netfclip[3].weight, state["netfclip.3.weight"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SyncNetMissing, match=r"syncnet_v2.model of github.com/joonson/syncnet_python in .*named$"):
        load_syncnet([tmp_path / "named", tmp_path / "nowhere"])


@pytest.mark.parametrize(("changed", "says"), [
    ({"netcnnlip.0.weight": torch.zeros(96, 3, 7, 7)}, r"weight has shape \(96, 3, 7, 7\), not \(96, 3, 5, 7, 7\)"),
    ({"netfcaud.3.bias": None}, "netfcaud.3.bias is missing"), ({"face_encoder.0": torch.zeros(1)}, "no part of"),
    ({"netfcaud.3.bias": "text"}, "not a dict of tensors")])
def test_another_network_s_file_is_refused(state, tmp_path, changed, says):
    small = {name: value.expand(1).expand(official_shapes()[name]) if value.ndim == 0 else value
             for name, value in ((name, torch.zeros(())) for name in state)}
    torch.save({name: value for name, value in (small | changed).items() if value is not None},
               tmp_path / "syncnet_v2.model")
    with pytest.raises(SyncNetMissing, match=f"another network: .*{says}.*Wanted: syncnet_v2.model"):
        load_syncnet([tmp_path])


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<html>",
                                     b"PK\3\4" + b"0" * 99])
def test_what_torch_cannot_read_is_refused(tmp_path, content):
    (tmp_path / "syncnet_v2.model").write_bytes(content)
    with pytest.raises(SyncNetMissing, match="cannot be read .*Get it again"):
        load_syncnet([tmp_path])


def test_a_file_that_runs_code_is_refused(tmp_path):
    torch.save(Unsafe(), tmp_path / "syncnet_v2.model")
    with pytest.raises(SyncNetMissing, match="cannot be read"):
        load_syncnet([tmp_path])


class Unsafe:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


# ---------------------------------------------------------------- in the report

def speaker(frames=20):
    """A grey picture in which the tiny detector sees a face, with a mouth that moves; and sound for it."""
    video = torch.full((frames, HEIGHT, WIDTH, 3), 0.4)
    video[:, 64:72, 80:88] = 1
    for number, frame in enumerate(video):
        frame[78:78 + number % 7, 76:92] = torch.tensor([0.5, 0.1, 0.1])
    made = torch.Generator().manual_seed(3)
    return video, {"waveform": torch.randn(1, 1, frames * 640, generator=made) * 0.1, "sample_rate": 16000}


@pytest.fixture(scope="module")
def models(folder):
    pytest.importorskip("cv2", reason="opencv-python, which requirements.txt names, is not installed here")
    from lodestar.tests.tiny_onnx import write_detector, write_recogniser
    write_detector(folder / "face_detection_yunet_2023mar.onnx")
    write_recogniser(folder / "face_recognition_sface_2021dec.onnx")
    return folder


def test_the_report_has_the_scores_of_the_face_that_opencv_sees(models, state):
    video, speech = speaker()
    report = evaluate(Clip(video, FPS), speech=speech, models=[models])
    scores = report["measures"]["syncnet"]
    crops = [face_crop(frame.mul(255).round().byte(), 84, 68, 16) for frame in video]
    rows = torch.from_numpy(SpeechMfcc().add(speech["waveform"][0, 0].numpy())).float()
    lips = torch.stack([lips_oracle(torch.stack(crops[first:first + 5]), state) for first in range(15)])
    sound = torch.stack([sound_oracle(rows[4 * first:4 * first + 20].T, state) for first in range(15)])
    sound = functional.pad(sound, (0, 0, 15, 15))
    mean = torch.stack([(lips - sound[place:place + 15] + 1e-6).norm(dim=1).mean() for place in range(31)])
    assert scores["windows"] == 15 and scores["skipped"] == 0
    assert scores["by_offset"]["distances"] == pytest.approx(mean.flip(0).tolist(), rel=1e-4)
    assert scores["distance"] == pytest.approx(float(mean.min()), rel=1e-4)
    assert scores["confidence"] == pytest.approx(float(mean.median() - mean.min()), rel=1e-3, abs=1e-3)
    assert scores["offset_frames"] == 15 - int(mean.argmin()) and "syncnet" not in report["left_out"]
    assert f"LSE-C {scores['confidence']:.2f}, LSE-D {scores['distance']:.2f}, " in dict(figures_of(report))[
        "SyncNet, at 25 fps"]
    assert report_picture(report).shape[1] == 1280 and json.dumps(report, allow_nan=False)


def test_what_is_missing_is_said(models, tmp_path):
    def reason(video, **how):
        found = evaluate(Clip(video, FPS), **how)
        assert "syncnet" not in found["measures"]
        return found["left_out"]["syncnet"]

    video, speech = speaker(8)
    assert "need syncnet_v2.model" in reason(video, speech=speech)
    assert reason(video, models=[models]) == "the clip has no sound: give the speech"
    assert reason(video * 0, speech=speech, models=[models]) == NO_SYNC_WINDOW
    assert reason(video[:5], speech=speech, models=[models]) == NO_SYNC_WINDOW
    (tmp_path / "syncnet_v2.model").hardlink_to(models / "syncnet_v2.model")
    assert "faces need face_detection_yunet_2023mar.onnx" in reason(video, speech=speech, models=[tmp_path])
    found = evaluate(Clip(video, FPS), speech=speech, models=[tmp_path])
    assert any(line.startswith("Not measured: identity, syncnet. Faces need") for line in missing_of(found))


def test_a_look_of_ones_own_may_say_where_the_face_is(folder):
    video, _ = speaker(8)
    speech = {"waveform": torch.rand(1, 2, 8 * 320) - 0.5, "sample_rate": 8000}
    box = torch.tensor([68.0, 52, 100, 84])
    looked = evaluate(Clip(video, FPS), speech=speech, models=[folder],
                      detect=lambda frames: Detection(boxes=box.expand(len(frames), 4)))
    assert looked["measures"]["syncnet"]["windows"] == 3
    blind = evaluate(Clip(video, FPS), speech=speech, detect=lambda frames: Detection())
    assert blind["left_out"]["syncnet"] == NO_FACE_BOX
