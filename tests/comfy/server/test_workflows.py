"""Every workflow in workflows/api runs on a real server, made short: a video of the right length, size and sound.

Those made for official files run on tiny ones of those names, and without their text encoder, which cannot be tiny.
The puppet's runs as it opens on a fresh install; none of them names a file of the input folder.
"""
import math
from fractions import Fraction

import av
import demo
import pytest
import torch
from lib import comfy_server, environment
from lib.graph import Graph
from lodestar.pipelines.take.video_writer import VideoWriter
from safetensors.torch import load_file
from served_takes import without_text_encoder, workflow

WORKFLOWS = sorted((environment.PACK / "workflows" / "api").glob("*.json"))
LORA = "train_puppet_lora"
PUPPETS = "puppet", "streaming_puppet", "video_reference_puppet", LORA
REFINE = "longcat_refine"      # of a video that is there already
H3 = "minimax_h3"              # its VAEs are of the size that small_h3 gives their classes
SECONDS = 2.5                  # the chunks below make 2 of it at 16 fps where the context is outside, else 3
FPS = {"first_take": 16, "talking_story": 16, "stitched_image_to_video": 16, "wan22_pair": 16, "longcat_video": 15,
       "longcat_avatar_10": 16, "longcat_avatar_15": 25, "longcat_two_speakers": 25, "omniavatar": 25,
       "cogvideox": 16, "hunyuan_video": 24, "ltx": 24, H3: 24, "infinitetalk": 25, "humo": 25, "puppet": 25,
       "streaming_puppet": 25, "video_reference_puppet": 25, LORA: 25,
       "wan_animate": 30, "everanimate": 30, "streaming_student": 25}
SHORT = {
    "LodestarPlanTake": {"max_seconds": SECONDS, "width": 64, "height": 64, "chunk_frames": 25},
    "LodestarAudioFeatures": {"layers": "last"},       # the tiny encoder has fewer than S2V asks for
    "BasicScheduler": {"steps": 2},
    "ManualSigmas": {"sigmas": "1.0, 0.5, 0.0"},
    "LodestarInfiniteTalkSampler": {"steps": 2},
    "LodestarHuMoSampler": {"steps": 2},
    "LodestarLookaheadAnchor": {"index": 5.0},
    "LodestarReferenceSkip": {"mode": "hard", "radius": 1},
    "LodestarLongTake": {"filename_prefix": "workflows/take"},
}


def shortened(name: str) -> Graph:
    graph = without_text_encoder(workflow(name))
    for node in graph.nodes():
        node.set(**SHORT.get(node.kind, {}))
    for driving in graph.all("LodestarDrivingVideo"):
        driving.unset("face")       # its encoder has but one size, of a second for a few frames
    for keyframe in graph.all("LodestarNarrativeKeyframe"):
        keyframe.set(at_seconds=keyframe.inputs["at_seconds"] / 6)
    if name == H3:
        graph.the("LodestarPlanTake").set(chunk_frames=39, overlap_frames=5)
    return without_speech(graph) if name == "humo" else graph


def without_speech(graph: Graph) -> Graph:
    """HuMo's whisper is as wide as its input, which no tiny model changes, and it may do without speech."""
    graph.the("LodestarLongTake").unset("audio_features")
    graph.remove(graph.the("LodestarAudioFeatures"), graph.the("LodestarLoadAudioEncoder"))
    return graph


def check_take(server, graph: Graph, name: str, size: int) -> dict:
    """Run it: the video is as long as the speech at the model's own rate, and every technique had something to do."""
    log_length = len(server.log.read_text(encoding="utf-8"))
    entry = server.run(graph.prompt(), timeout_seconds=300)
    video = demo.local_path(server, comfy_server.finished_video(entry))
    with av.open(str(video)) as container:
        frames = [frame for frame in container.decode(video=0)]
        assert len(frames) == math.ceil(SECONDS * FPS[name]) and frames[0].width == frames[0].height == size
        assert container.metadata["prompt"]
    with av.open(str(video)) as container:
        sound = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(sound))
        assert samples / sound.rate == pytest.approx(SECONDS, abs=0.1)
    log = server.log.read_text(encoding="utf-8")[log_length:]
    assert "chunk 2 of" in log and "inactive" not in log
    said, = entry["outputs"][graph.the("LodestarPlanTake").id]["text"]
    assert f"{len(frames)} frames at {FPS[name]} fps, {size}x{size}" in said and "Taken from " in said
    return entry["outputs"]


@pytest.mark.parametrize("name", [pytest.param(path.stem, marks=[] if path.stem == "first_take" else pytest.mark.once)
                                  for path in WORKFLOWS
                                  if path.stem not in (*PUPPETS, "live_puppet", REFINE)])
def test_it_runs(name, official):
    if name == H3 and not environment.newest_comfyui().joinpath("comfy", "ldm", "minimax").is_dir():
        pytest.skip("this ComfyUI has no MiniMax H3")
    graph = shortened(name)
    check_take(official, graph, name, 64)


@pytest.fixture(scope="module")
def fresh(start_server, tmp_path_factory):
    """A fresh install: no model and no file but the pack's own."""
    base = comfy_server.prepare_base(tmp_path_factory.mktemp("fresh") / "base")
    with start_server(base=base) as server:
        yield server


@pytest.mark.parametrize("name", [PUPPETS[0], *(pytest.param(other, marks=pytest.mark.once) for other in PUPPETS[1:])])
def test_the_puppet_runs_as_it_opens_on_a_fresh_install(fresh, name):
    graph = workflow(name)
    demo.set_seconds(graph, SECONDS)
    for node in graph.all("LodestarTrainRecipe"):
        node.set(steps=2)
        graph.the("LodestarLongCatSchedule").set(steps=4)
    assert not [path for path in (fresh.base / "input").rglob("*") if path.is_file()]
    outputs = check_take(fresh, graph, name, 96)
    if name == LORA:
        assert outputs[graph.the("LossGraphNode").id]["images"]
        lora = load_file(fresh.base / "output" / "loras" / "lodestar_training" / "puppet_lora.safetensors")
        assert any(weight.any() for key, weight in lora.items() if key.endswith("lora_up.weight"))
        assert "1 clips made, 0 were there" in outputs[graph.the("LodestarMakeTrainingClips").id]["text"][0]


@pytest.mark.once
def test_a_finished_video_is_refined(official, tmp_path):
    """A second of noise, at 64x64 and twice the frames."""
    clip = tmp_path / "take.mp4"
    writer = VideoWriter(48, 48, Fraction(10))
    with writer.segment(tmp_path / "0.mp4") as segment:
        segment.write(torch.rand(10, 48, 48, 3))
    writer.finish([tmp_path / "0.mp4"], {"waveform": torch.rand(1, 1, 16000) - 0.5, "sample_rate": 16000}, {}, clip)
    graph = without_text_encoder(workflow(REFINE))
    sample = graph.the("LodestarSampleVideo")
    graph.replace(sample[0], graph.add("LoadVideo", file=official.upload(clip))[0])
    graph.remove(sample)
    graph.the("LodestarRefineTake").set(width=64, height=64, chunk_frames=9, overlap_frames=3)
    entry = official.run(graph.prompt(), timeout_seconds=300)
    with av.open(str(demo.local_path(official, comfy_server.finished_video(entry)))) as container:
        pictures = container.streams.video[0]
        assert (pictures.frames, pictures.average_rate, pictures.width, pictures.height) == (20, 20, 64, 64)
        assert container.streams.audio and container.metadata["prompt"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_needs_no_file_of_the_user_but_models(path):
    graph = Graph.read(path)
    assert graph.all("LodestarSamplePerson", "LodestarSampleVideo")
    assert not graph.all("LoadImage", "LoadAudio", "LoadVideo")
    for plan in graph.all("LodestarPlanTake"):      # rate, chunk, overlap and size are the model's own
        assert [plan.inputs[name] for name in ("fps", "chunk_frames", "overlap_frames", "width", "height")] == [
            0, 0, -1, 0, 0]
    for picture in graph.all("LodestarReferencePicture"):
        assert (picture.inputs["width"], picture.inputs["height"]) == (0, 0) and "plan" in picture.inputs


@pytest.mark.parametrize("name", sorted(name for name in FPS if name.startswith(("longcat_avatar", "longcat_two"))))
def test_longcat_avatars_skip_the_reference_as_their_authors_do(name):
    """Every model that samples has the reference at latent 10 and hides it from the 3 frames around, as upstream."""
    users = workflow(name).all("BasicGuider", "LodestarSpeechGuidance", "LodestarLongCatSchedule", "LodestarPlanTake")
    assert len(users) == 3
    for user in users:
        skip = user.source("model")
        skip = skip.source("model") if skip.kind == "LodestarNegativePrompt" else skip
        anchor = skip.source("model")
        assert (skip.kind, skip.inputs["mode"], skip.inputs["radius"]) == ("LodestarReferenceSkip", "upstream", 3)
        assert (anchor.kind, anchor.inputs["placement"], anchor.inputs["index"]) == (
            "LodestarLookaheadAnchor", "in chunk", 10)


def test_every_node_keeps_its_title():
    """Node replacement answers 500 to a prompt whose nodes have no `_meta`."""
    prompts = [Graph.read(path).prompt() for path in WORKFLOWS]
    assert prompts and all(node["_meta"]["title"] for prompt in prompts for node in prompt.values())
