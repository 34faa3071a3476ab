"""OpenCV's own face classes, run on tiny networks of YuNet's and SFace's interface; and what is said without them."""
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from lodestar.pipelines.metrics.faces import FacesMissing, OpenCvFaces
from lodestar.pipelines.metrics.live_traces import ColourTrace, IdentityTrace
from lodestar.tests.tiny_onnx import FACE, write_detector, write_recogniser

HEIGHT, WIDTH = 160, 192


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("cv2", reason="opencv-python, which requirements.txt names, is not installed here")
    made = tmp_path_factory.mktemp("models")
    write_detector(made / "face_detection_yunet_2023mar.onnx")
    write_recogniser(made / "face_recognition_sface_2021dec.onnx")
    return made


def portrait(x, y, colour=(0.5, 0.4, 0.3), opening=0.0):
    """A frame whose face is at cell (x, y) of 8 pixels: a white square, as write_detector sees it, and a mouth."""
    frame = torch.tensor(colour).expand(HEIGHT, WIDTH, 3).clone()
    frame[8 * y:8 * y + 8, 8 * x:8 * x + 8] = 1
    top, middle = 8 * y + 10, 8 * x + 4
    frame[top:top + round(12 * opening), middle - 6:middle + 6] = 0
    return frame


def test_the_face_is_found_and_known_again(folder):
    faces = OpenCvFaces([folder / "nowhere", folder], fps=5)
    empty = torch.full((HEIGHT, WIDTH, 3), 0.5)
    frames = torch.stack([portrait(10, 8), portrait(15, 6), portrait(12, 9, (0.1, 0.5, 0.9)), empty])
    look = faces(frames)
    assert look.embeddings.shape == (4, 48) and look.embeddings.isfinite().all(1).tolist() == [True, True, True, False]
    person = faces.of_picture(portrait(6, 10))
    alike = torch.cosine_similarity(look.embeddings[:3], person[None])
    assert (alike[:2] > 0.999).all() and alike[2] < 0.95
    assert look.openings.isnan().tolist() == [False, False, False, True] and faces.of_picture(empty) is None


def test_the_mouth_is_looked_at_where_the_face_is(folder):
    faces = OpenCvFaces([folder], fps=25)
    openings = faces(torch.stack([portrait(10, 8), portrait(14, 5, opening=0.4), portrait(9, 9, opening=0.8)])).openings
    assert openings[0] < 0.02 and 0.1 < openings[1] < openings[2] - 0.1


def test_the_box_is_that_of_the_face(folder):
    boxes = OpenCvFaces([folder], fps=25)(torch.stack([portrait(10, 8), torch.zeros(HEIGHT, WIDTH, 3)])).boxes
    half = FACE * 8 / 2
    assert boxes[0].tolist() == pytest.approx([84 - half, 68 - half, 84 + half, 68 + half], abs=0.5)
    assert boxes.shape == (2, 4) and boxes[1].isnan().all()


def test_who_it_is_is_looked_at_five_times_a_second(folder):
    faces, frame = OpenCvFaces([folder], fps=25), portrait(10, 8)[None]
    known = [bool(faces(frame).embeddings.isfinite().all()) for _ in range(11)]
    assert known == [place % 5 == 0 for place in range(11)]
    assert faces(frame.expand(4, -1, -1, -1)).openings.isfinite().all()


def test_missing_files_are_named(tmp_path):
    wanted = ("^faces need face_detection_yunet_2023mar.onnx and face_recognition_sface_2021dec.onnx of OpenCV's "
              "model zoo")
    with pytest.raises(FacesMissing, match=f"{wanted} in {re.escape(str(tmp_path))}$"):
        OpenCvFaces([tmp_path, tmp_path / "nowhere"], fps=25)
    with pytest.raises(FacesMissing, match=f"{wanted}$"):
        OpenCvFaces([], fps=25)


def test_a_missing_opencv_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(FacesMissing, match=r"^faces need OpenCV \(cv2\) in this Python: install one of opencv-p"):
        OpenCvFaces([tmp_path], fps=25)


def test_any_build_of_opencv_will_do_but_no_old_one(tmp_path, monkeypatch):
    """A build is what can be imported as cv2, whatever the package's name; those before 4.5.4 know no faces."""
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.2.0"))
    with pytest.raises(FacesMissing, match="^faces need a newer OpenCV than 4.2.0: install one of .*headless"):
        OpenCvFaces([tmp_path], fps=25)


def test_a_file_that_is_no_network_is_refused(folder, tmp_path):
    for name in ("face_detection_yunet_2023mar.onnx", "face_recognition_sface_2021dec.onnx"):
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FacesMissing, match="Get them again"):
        OpenCvFaces([tmp_path], fps=25)


def test_a_running_take_says_how_alike_each_chunk_is(folder, tmp_path):
    """To the first face of the run, one frame of each group; frames without a face tell nothing."""
    trace, empty = IdentityTrace([folder]), torch.full((HEIGHT, WIDTH, 3), 0.5)
    trace.add(3, empty[None])
    assert trace.note == "no face is found in it" and not trace.found
    for chunk, frame in ((4, portrait(10, 8)), (4, portrait(15, 6)), (5, empty), (6, portrait(12, 9, (0.1, 0.5, 0.9)))):
        trace.add(chunk, torch.stack([empty, frame]))
    assert trace.note == "" and trace.found[4] > 0.999 > 0.95 > trace.found[6] and set(trace.found) == {4, 6}
    without = IdentityTrace([tmp_path])
    without.add(0, empty[None])
    assert not without.found and without.note.startswith("faces need face_detection_yunet_2023mar.onnx")


def test_a_running_take_says_how_far_its_colours_are():
    trace, red = ColourTrace(), torch.tensor([0.6, 0.2, 0.2]).expand(2, 16, 16, 3)
    for chunk, frames in ((2, red), (3, red), (4, red.flip(-1)), (4, red.flip(-1))):
        trace.add(chunk, frames)
    assert trace.found[2] == trace.found[3] == 0 and trace.found[4] > 20
