"""HunyuanVideo in a real server: a take of three chunks with every technique, to the frame, with the speech's sound."""
import av
import pytest
from served_takes import frames_of, log_since, video_of, without_text_encoder, workflow

FRAMES = 48     # 25, and at most 12 more in each further chunk


def test_three_chunks_with_every_technique_are_as_long_as_their_sound(official):
    graph = without_text_encoder(workflow("hunyuan_video"))
    graph.the("LodestarPlanTake").set(width=64, height=64, chunk_frames=25, max_seconds=FRAMES / 24)
    graph.the("BasicScheduler").set(steps=2)
    graph.the("HunyuanImageToVideo").set(width=64, height=64)
    graph.the("LodestarLongTake").set(filename_prefix="hunyuan/all")
    anchor, person, vae = (graph.the(kind) for kind in ("LodestarLookaheadAnchor", "LodestarSamplePerson", "VAELoader"))
    readers = graph.readers(anchor)
    anchor.set(placement="in chunk", index=5.0)
    picture = graph.add("LodestarReferencePicture", image=person[0], vae=vae[0], width=64, height=64, fit="crop")
    keyframe = graph.add("LodestarNarrativeKeyframe", model=anchor[0], keyframe=picture[0], at_seconds=1.0)
    skip = graph.add("LodestarReferenceSkip", model=keyframe[0], mode="hard", radius=1, factor=0.5)
    stitch = graph.add("LodestarLatentStitch", model=skip[0], mode="stitch")
    for node in readers:
        node.set(model=stitch[0])
    start = official.log.stat().st_size
    video = video_of(official, official.run(graph.prompt(), timeout_seconds=300))
    assert frames_of(video).shape == (FRAMES, 64, 64, 3)
    with av.open(str(video)) as container:
        sound = container.streams.audio[0]
        seconds = sum(frame.samples for frame in container.decode(sound)) / sound.rate
    assert seconds == pytest.approx(FRAMES / 24, abs=0.1)
    log = log_since(official, start)
    assert "chunk 3 of 3" in log and "inactive" not in log and "for anchors alone" not in log
