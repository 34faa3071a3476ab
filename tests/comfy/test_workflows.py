"""Every workflow in workflows/api runs on a real server, made short: a video of the right length, size and sound.

Those made for official files run on tiny ones of those names, and without their text encoder, which cannot be tiny.
The puppet's is only made short: what it names comes with the pack.
"""
import json
import math

import av
import demo
import environment
import pytest

PUPPET = "puppet"
WORKFLOWS = sorted((environment.PACK / "workflows" / "api").glob("*.json"))
SECONDS = 2.5                  # at 16 fps the chunks below make 2 of it on S2V, 3 where 13 frames overlap
SHORT = {
    "LodestarPlanTake": {"max_seconds": SECONDS, "width": 64, "height": 64, "chunk_frames": 25},
    "LodestarReferencePicture": {"width": 64, "height": 64},
    "BasicScheduler": {"steps": 2},
    "LodestarLookaheadAnchor": {"index": 5.0},
    "LodestarReferenceSkip": {"mode": "hard", "radius": 1},
    "LodestarLongTake": {"filename_prefix": "workflows/take"},
}


def without_text_encoder(prompt: dict) -> dict:
    for number, node in list(prompt.items()):
        if node["class_type"] == "CLIPLoader":
            del prompt[number]
        elif node["class_type"] == "CLIPTextEncode":
            node.update(class_type="LodestarBlankPrompt", inputs={"tokens": 16, "width": 4096})
    return prompt


def shortened(path, server) -> dict:
    prompt = without_text_encoder(json.loads(path.read_text(encoding="utf-8")))
    demo.set_file(prompt, "LoadImage", "image", None, server)
    demo.set_file(prompt, "LoadAudio", "audio", None, server)
    if path.stem == PUPPET:
        demo.set_seconds(prompt, SECONDS)
        return prompt
    for node in prompt.values():
        node["inputs"].update(SHORT.get(node["class_type"], {}))
        if node["class_type"] == "LodestarNarrativeKeyframe":
            node["inputs"]["at_seconds"] /= 6
    return prompt


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_runs(path, official):
    server = official
    told, prompt = len(server.log.read_text(encoding="utf-8")), shortened(path, server)
    entry = server.run(prompt, timeout_seconds=300)
    plan = next(node["inputs"] for node in prompt.values() if node["class_type"] == "LodestarPlanTake")
    video = demo.local_path(server, demo.finished_video(entry))
    with av.open(str(video)) as container:
        frames = [frame for frame in container.decode(video=0)]
        assert len(frames) == math.ceil(SECONDS * plan["fps"]) and frames[0].width == frames[0].height == plan["width"]
        assert container.metadata["prompt"]
    with av.open(str(video)) as container:
        sound = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(sound))
        assert samples / sound.rate == pytest.approx(SECONDS, abs=0.1)
    log = server.log.read_text(encoding="utf-8")[told:]
    assert "chunk 2 of" in log and "inactive" not in log  # every technique in the graph had something to do


def test_every_node_keeps_its_title():
    """Node replacement answers 500 to a prompt whose nodes have no `_meta`."""
    prompts = [json.loads(path.read_text(encoding="utf-8")) for path in WORKFLOWS]
    assert prompts and all(node["_meta"]["title"] for prompt in prompts for node in prompt.values())
