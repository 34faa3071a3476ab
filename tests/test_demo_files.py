"""demo.py fills a workflow in: whose picture and speech it takes, where they go, and how long the take is."""
from pathlib import Path

import demo
import pytest

pytestmark = pytest.mark.once


class Uploads:
    """Stands where the client stands and remembers what was sent."""

    def __init__(self):
        self.sent = []

    def upload(self, path):
        self.sent.append(path)
        return f"{path.stem} (1){path.suffix}"


def loader(picture):
    return {"class_type": "LoadImage", "inputs": {"image": picture}}


def set_picture(prompt, chosen=None):
    client = Uploads()
    demo.set_file(prompt, "LoadImage", "image", chosen, client)
    return client.sent, [node["inputs"]["image"] for node in prompt.values()]


def test_the_bundled_file_goes_where_it_is_named():
    assert set_picture({"1": loader("portrait.png"), "2": loader("mine.png")}) == (
        [demo.ASSETS / "portrait.png"], ["portrait (1).png", "mine.png"])
    assert set_picture({"1": loader("mine.png"), "2": loader("../README.md")}) == ([], ["mine.png", "../README.md"])


def test_a_chosen_file_replaces_the_bundled_or_the_only_one():
    chosen = Path("a face.jpg")
    assert set_picture({"1": loader("portrait.png"), "2": loader("x.png")}, chosen)[1] == ["a face (1).jpg", "x.png"]
    assert set_picture({"1": loader("x.png")}, chosen)[1] == ["a face (1).jpg"]
    for prompt in ({}, {"1": loader("x.png"), "2": loader("y.png")}):
        with pytest.raises(ValueError, match=f"--image .* has {len(prompt)}"):
            set_picture(prompt, chosen)


def test_loaders_stand_where_a_sample_person_stood():
    """Of its files and with all its links, and none that nothing asks for."""
    prompt = {"3": {"class_type": "LodestarSamplePerson", "inputs": {"person": "portrait", "seconds": 0.0}},
              "4": {"class_type": "LodestarSamplePerson", "inputs": {"person": "drawn character", "seconds": 0.0}},
              "5": {"class_type": "Take", "inputs": {"reference": ["3", 0], "audio": ["3", 1], "second": ["4", 1]}}}
    own = demo.with_loaders(prompt)
    assert {name: node["inputs"] for name, node in own.items()} == {
        "5": {"reference": ["3_image", 0], "audio": ["3_audio", 0], "second": ["4_audio", 0]},
        "3_image": {"image": "portrait.png"}, "3_audio": {"audio": "speech.flac"},
        "4_audio": {"audio": "speech_human.flac"}}
    assert all(demo.bundled(*node["inputs"].values()) for node in own.values() if node["class_type"] != "Take")
    assert demo.with_loaders(own) == own


def test_seconds_need_a_plan():
    prompt = {"1": {"class_type": "LodestarPlanTake", "inputs": {"max_seconds": 0.0}}}
    demo.set_seconds(prompt, 2.5)
    assert prompt["1"]["inputs"]["max_seconds"] == 2.5
    with pytest.raises(ValueError, match="LodestarPlanTake"):
        demo.set_seconds({}, 2.5)
