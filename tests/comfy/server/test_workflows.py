"""Every workflow in workflows/api runs on a real server, made short: a video of the right length, size and sound.

Those made for official files run on tiny ones of those names, and without their text encoder, which cannot be tiny.
The puppet's runs as it opens on a fresh install; none of them names a file of the input folder.
"""
import json
import math

import av
import demo
import pytest
from lib import comfy_server, environment

WORKFLOWS = sorted((environment.PACK / "workflows" / "api").glob("*.json"))
SECONDS = 2.5                  # the chunks below make 2 of it at 16 fps where the context is outside, else 3
FPS = {"first_take": 16, "talking_story": 16, "stitched_image_to_video": 16, "longcat_video": 15,
       "longcat_avatar_10": 16, "longcat_avatar_15": 25, "longcat_two_speakers": 25, "puppet": 25}
SHORT = {
    "LodestarPlanTake": {"max_seconds": SECONDS, "width": 64, "height": 64, "chunk_frames": 25},
    "LodestarAudioFeatures": {"layers": "last"},       # the tiny encoder has fewer than S2V asks for
    "BasicScheduler": {"steps": 2},
    "LodestarLookaheadAnchor": {"index": 5.0},
    "LodestarReferenceSkip": {"mode": "hard", "radius": 1},
    "LodestarLongTake": {"filename_prefix": "workflows/take"},
}


def without_text_encoder(prompt: dict) -> dict:
    """The prompt with Blank Prompt for what a text encoder says, and no script for it to read."""
    loaders = {number for number, node in prompt.items() if node["class_type"] == "CLIPLoader"}
    for node in prompt.values():
        if node["class_type"] == "CLIPTextEncode":
            node.update(class_type="LodestarBlankPrompt", inputs={"tokens": 16, "width": 4096})
        node["inputs"] = {name: "" if name == "script" else value for name, value in node["inputs"].items()
                          if not (isinstance(value, list) and value[0] in loaders)}
    return {number: node for number, node in prompt.items() if number not in loaders}


def read(name: str) -> dict:
    return json.loads((environment.PACK / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))


def shortened(name: str) -> dict:
    prompt = without_text_encoder(read(name))
    for node in prompt.values():
        node["inputs"].update(SHORT.get(node["class_type"], {}))
        if node["class_type"] == "LodestarNarrativeKeyframe":
            node["inputs"]["at_seconds"] /= 6
    return prompt


def check_take(server, prompt: dict, name: str, size: int) -> None:
    """Run it: the video is as long as the speech at the model's own rate, and every technique had something to do."""
    told = len(server.log.read_text(encoding="utf-8"))
    entry = server.run(prompt, timeout_seconds=300)
    video = demo.local_path(server, demo.finished_video(entry))
    with av.open(str(video)) as container:
        frames = [frame for frame in container.decode(video=0)]
        assert len(frames) == math.ceil(SECONDS * FPS[name]) and frames[0].width == frames[0].height == size
        assert container.metadata["prompt"]
    with av.open(str(video)) as container:
        sound = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(sound))
        assert samples / sound.rate == pytest.approx(SECONDS, abs=0.1)
    log = server.log.read_text(encoding="utf-8")[told:]
    assert "chunk 2 of" in log and "inactive" not in log
    plan = next(number for number, node in prompt.items() if node["class_type"] == "LodestarPlanTake")
    said, = entry["outputs"][plan]["text"]
    assert f"{len(frames)} frames at {FPS[name]} fps, {size}x{size}" in said and "Taken from " in said


@pytest.mark.parametrize("name", [pytest.param(path.stem, marks=[] if path.stem == "first_take" else pytest.mark.once)
                                  for path in WORKFLOWS if path.stem != "puppet"])
def test_it_runs(name, official):
    check_take(official, shortened(name), name, 64)


def test_the_puppet_runs_as_it_opens_on_a_fresh_install(start_server, tmp_path):
    base = comfy_server.prepare_base(tmp_path / "base")
    prompt = read("puppet")
    demo.set_seconds(prompt, SECONDS)
    with start_server(base=base) as server:
        assert not [path for path in (base / "input").rglob("*") if path.is_file()]
        check_take(server, prompt, "puppet", 96)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_needs_no_file_of_the_user_but_models(path):
    prompt = read(path.stem)
    kinds = [node["class_type"] for node in prompt.values()]
    assert "LodestarSamplePerson" in kinds and not {"LoadImage", "LoadAudio", "LoadVideo"} & set(kinds)
    for node in prompt.values():    # rate, chunk, overlap and size are the model's own
        if node["class_type"] == "LodestarPlanTake":
            assert [node["inputs"][name] for name in ("fps", "chunk_frames", "overlap_frames", "width", "height")] == [
                0, 0, -1, 0, 0]
        if node["class_type"] == "LodestarReferencePicture":
            assert (node["inputs"]["width"], node["inputs"]["height"]) == (0, 0) and "plan" in node["inputs"]


@pytest.mark.parametrize("name", sorted(name for name in FPS if name.startswith(("longcat_avatar", "longcat_two"))))
def test_longcat_avatars_skip_the_reference_as_their_authors_do(name):
    """Every model that samples has the reference at latent 10 and hides it from the 3 frames around, as upstream."""
    prompt = read(name)
    users = [node for node in prompt.values() if node["class_type"] in (
        "BasicGuider", "LodestarSpeechGuidance", "LodestarLongCatSchedule", "LodestarPlanTake")]
    assert len(users) == 3
    for user in users:
        skip = prompt[user["inputs"]["model"][0]]
        anchor = prompt[skip["inputs"]["model"][0]]
        assert (skip["class_type"], skip["inputs"]["mode"], skip["inputs"]["radius"]) == (
            "LodestarReferenceSkip", "upstream", 3)
        assert (anchor["class_type"], anchor["inputs"]["placement"], anchor["inputs"]["index"]) == (
            "LodestarLookaheadAnchor", "in chunk", 10)


def test_every_node_keeps_its_title():
    """Node replacement answers 500 to a prompt whose nodes have no `_meta`."""
    prompts = [json.loads(path.read_text(encoding="utf-8")) for path in WORKFLOWS]
    assert prompts and all(node["_meta"]["title"] for prompt in prompts for node in prompt.values())
