"""OmniAvatar in a real server: a take of three chunks with every technique, to the frame; what does not belong."""
import av
import pytest
from lib import comfy_server
from served_takes import frames_of, video_of, without_text_encoder, workflow

FRAMES = 49     # 25, and 12 more in each further chunk


def short(prefix: str):
    """The workflow of the pack, of three chunks of 64x64 in two steps."""
    graph = without_text_encoder(workflow("omniavatar"))
    graph.the("LodestarPlanTake").set(width=64, height=64, chunk_frames=25, max_seconds=FRAMES / 25)
    graph.the("BasicScheduler").set(steps=2)
    graph.the("LodestarLongTake").set(filename_prefix=prefix)
    return graph


def test_three_chunks_with_every_technique_are_as_long_as_their_speech(official):
    graph = short("omniavatar/all")
    model, person, vae = (graph.the(kind) for kind in ("LodestarLoadOmniAvatar", "LodestarSamplePerson", "VAELoader"))
    readers = graph.readers(model)
    picture = graph.add("LodestarReferencePicture", image=person[0], vae=vae[0], width=64, height=64, fit="crop")
    anchor = graph.add("LodestarLookaheadAnchor", model=model[0], distance=12.0, unit="pixel frames",
                       placement="in chunk", index=2.0, schedule="")
    keyframe = graph.add("LodestarNarrativeKeyframe", model=anchor[0], keyframe=picture[0], at_seconds=1.0)
    skip = graph.add("LodestarReferenceSkip", model=keyframe[0], mode="hard", radius=1, factor=0.5)
    stitch = graph.add("LodestarLatentStitch", model=skip[0], mode="stitch")
    for node in readers:
        node.set(model=stitch[0])
    graph.the("LodestarSpeechGuidance").set(text_scale=4.5, audio_scale=3.0)
    log_length = len(official.log.read_text(encoding="utf-8"))
    video = video_of(official, official.run(graph.prompt(), timeout_seconds=300))
    assert frames_of(video).shape == (FRAMES, 64, 64, 3)
    with av.open(str(video)) as container:
        sound = container.streams.audio[0]
        assert sum(frame.samples for frame in container.decode(sound)) / sound.rate == pytest.approx(1.96, abs=0.1)
    log = official.log.read_text(encoding="utf-8")[log_length:]
    assert "chunk 3 of 3" in log and "inactive" not in log


@pytest.mark.parametrize(("kind", "changes", "says"), [
    ("LodestarPlanTake", {"audio": "LodestarSamplePerson"}, "two recordings"),
    ("LodestarPlanTake", {"fps": 16.0}, "got 16 fps"),
    ("LodestarLongTake", {"reference": None}, "reference: OmniAvatar makes a picture talk"),
    ("LodestarLoadOmniAvatar", {"base_name": "wan2.1_i2v_480p_14B_fp8_scaled.safetensors"}, "takes 36 channels")],
    ids=["another sound", "another rate", "no picture", "image-to-video"])
def test_what_does_not_belong_is_refused_before_any_sampling(official, kind, changes, says):
    graph = short("omniavatar/refused")
    for name, value in changes.items():
        if value is None:
            graph.the(kind).unset(name)
        else:
            graph.the(kind).set(**{name: graph.the(value)[1] if name == "audio" else value})
    with pytest.raises(comfy_server.PromptFailed, match=says):
        official.run(graph.prompt())
    assert not list((official.base / "output").rglob("omniavatar/refused*.mp4"))
