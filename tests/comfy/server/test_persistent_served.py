"""EverAnimate's workflow through a real server: killed in its third clip, and resumed with the same pictures."""
import pytest
import torch
from served_takes import frames_of, latents_of, log_since, take_folders, video_of, without_text_encoder, workflow

SECONDS, FPS, CLIP = 2.5, 16, 13        # clips of 13 frames repeat 4: 4 clips


class Killed(Exception):
    pass


def take(prefix):
    graph = without_text_encoder(workflow("everanimate"))
    driving = graph.the("LodestarDrivingVideo")
    face = next(node for node in graph.all("LodestarSampleVideo") if node.inputs["video"] == "face")
    driving.unset("face")       # its encoder has but one size, of a second for a few frames
    graph.remove(face)
    graph.the("LodestarPlanTake").set(width=64, height=64, chunk_frames=CLIP, fps=float(FPS), max_seconds=SECONDS)
    graph.the("BasicScheduler").set(steps=4)
    graph.the("LodestarLongTake").set(filename_prefix=prefix, keep_chunks=True)
    return graph


def test_a_take_that_was_killed_has_the_frames_of_a_whole_one(official, start_server, tmp_path):
    """Another server goes on with it."""
    begun = []

    def kill_in_third_clip(kind, data):
        if kind == "lodestar.chunk":
            begun.append(data["chunk"])
        if kind == "progress" and 2 in begun:
            first.kill()
            raise Killed

    with start_server(beside=official) as first:
        graph = take("persistent_killed/take")
        with pytest.raises(Killed):
            first.run(graph.prompt(), kill_in_third_clip)
    folder, = take_folders(official, "persistent_killed_take")
    assert len(list(folder.glob("state_*.safetensors"))) == 1       # the pictures, once
    start = official.log.stat().st_size
    video = video_of(official, official.run(graph.prompt()))
    kept = folder.rename(tmp_path / "kept")         # or its chunks would be used again
    whole = video_of(official, official.run(take("persistent_whole/take").prompt()))
    log = log_since(official, start)
    assert "resuming at chunk 3 of 4" in log and "20 layers have the LoRA" in log
    frames = frames_of(video)
    assert len(frames) == SECONDS * FPS and (frames == frames_of(whole)).all()
    killed, calm = latents_of(kept), latents_of(take_folders(official, "persistent_whole_take")[0])
    assert len(killed) == 4 and all(torch.equal(one, other) for one, other in zip(killed, calm, strict=True))
