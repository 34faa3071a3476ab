"""A whole take through an unmodified ComfyUI server: its length, its file, and what a crash or a cancel costs."""
import json
import re
import types

import av
import numpy as np
import pytest
import torch
from served_takes import (
    CHUNKS,
    MANY_STEPS,
    UNITS,
    cancel_in_second_chunk,
    frames_of,
    latents_of,
    log_since,
    take_folders,
    tiny_take,
    video_of,
    without_speech,
)


def assert_same_take(server, name, path, uninterrupted):
    """Latents to the bit. Frames too, but for what x264 itself does not repeat: on rare occasions the same pictures
    are encoded a little differently (tests/test_take.py compares frames to the bit, without loss)."""
    (folder,), (calm,) = take_folders(server, name), uninterrupted.folders
    pairs = list(zip(latents_of(folder), latents_of(calm), strict=True))
    assert len(pairs) == CHUNKS and all(torch.equal(*pair) for pair in pairs)
    found, expected = frames_of(path).astype(int), frames_of(uninterrupted.path).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).mean() < 0.5


def texts(events):
    """The lines that the take's node showed, in order."""
    return [data["text"] for kind, data in events if kind == "progress_text"]


@pytest.fixture(scope="module")
def uninterrupted(server):
    """The take as it comes out when nothing happens, and what the server said on the way.

    Its chunks go where no other take finds them: they would be the same.
    """
    events = []
    graph = tiny_take(server, "calm/take", steps=MANY_STEPS, keep_chunks=True)
    history = server.run(graph.prompt(), lambda kind, data: events.append((kind, data)))
    folders = [folder.rename(server.base / folder.name) for folder in take_folders(server, "calm_take")]
    return types.SimpleNamespace(path=video_of(server, history), events=events, folders=folders)


def test_the_video_is_as_long_as_the_speech(uninterrupted):
    path = uninterrupted.path
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.frames == 64 and video.average_rate == 16 and (video.width, video.height) == (64, 64)
        samples = sum(frame.samples for frame in container.decode(audio))
        assert abs(samples / audio.rate - 4.0) < 0.1      # AAC fills its last frame of 1024 samples
    frames = frames_of(path)
    moves = np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert len(frames) == 64 and frames.std() > 5 and (moves > 0).all()


def test_the_workflow_travels_in_the_file(server):
    graph = tiny_take(server, "tagged/take")
    workflow = {"nodes": [], "links": [], "version": 0.4}
    history = server.run(graph.prompt(), workflow=workflow)
    with av.open(str(video_of(server, history))) as container:
        saved = json.loads(container.metadata["prompt"])      # ComfyUI adds "is_changed" to the nodes that load files
        assert {key: {**node, "is_changed": None} for key, node in saved.items()} == {
            key: {**node, "is_changed": None} for key, node in graph.prompt().items()}
        assert json.loads(container.metadata["workflow"]) == workflow


def test_progress_counts_the_take_and_events_count_the_chunks(uninterrupted):
    events = uninterrupted.events
    steps = [(data["value"], data["max"]) for kind, data in events if kind == "progress"]
    chunks = [data for kind, data in events if kind == "lodestar.chunk"]
    assert steps[-1] == (CHUNKS * UNITS,) * 2 and steps == sorted(steps)
    assert [data["chunk"] for data in chunks] == [0, 1, 2, 3, 4] and chunks[-1]["frames_done"] == 64
    assert {data["chunks"] for data in chunks} == {4} and {data["frames_total"] for data in chunks} == {64}
    left = [data["seconds_left"] for data in chunks]
    assert left[0] is None and left[-1] == 0 and left[1] >= left[3] >= 0


def test_the_node_says_what_is_done_and_how_long_it_will_take(uninterrupted):
    said = texts(uninterrupted.events)
    assert said[0] == "Preparing" and said[1] == "Starting with chunk 1 of 4"
    assert said[2] == "Chunk 1 of 4, 0 of 64 frames"
    assert said[-2:] == ["All 4 chunks are finished: writing the video", "Finished: 64 of 64 frames"]
    assert any(re.fullmatch(r"Chunk 3 of 4, 33 of 64 frames, \d+ s left", line) for line in said)
    assert any(re.fullmatch(r"Chunk 3 of 4: decoding, 4\d of 64 frames, \d+ s left", line) for line in said)


def test_a_finished_take_leaves_no_working_files_unless_asked(server, uninterrupted):
    server.run(tiny_take(server, "tidy/take").prompt())
    assert take_folders(server, "tidy_take") == [] and len(uninterrupted.folders) == 1


def test_kill_in_mid_chunk_costs_that_chunk_only(server, start_server, uninterrupted, tmp_path):
    """Another server goes on with it."""
    class Killed(Exception):
        pass

    with start_server(beside=server) as first:
        graph = tiny_take(first, "killed/take", steps=MANY_STEPS, keep_chunks=True)

        def kill_in_third_chunk(kind, data):
            if kind == "progress" and data["value"] > 2.2 * UNITS:
                first.kill()
                raise Killed

        with pytest.raises(Killed):
            first.run(graph.prompt(), kill_in_third_chunk)
    start, events = server.log.stat().st_size, []
    history = server.run(graph.prompt(), lambda kind, data: events.append((kind, data)))
    assert "resuming at chunk 3 of 4" in log_since(server, start)
    assert [data["chunk"] for kind, data in events if kind == "lodestar.chunk"] == [2, 3, 4]
    assert_same_take(server, "killed_take", video_of(server, history), uninterrupted)
    assert not list((server.base / "output").rglob("*.part"))
    take_folders(server, "killed_take")[0].rename(tmp_path / "killed")     # or its chunks would be used again


def test_cancel_and_queue_again_gives_the_same_frames(server, uninterrupted, tmp_path):
    graph = tiny_take(server, "cancelled/take", steps=MANY_STEPS, keep_chunks=True)
    start = server.log.stat().st_size
    said = texts(cancel_in_second_chunk(server, graph))
    assert said[-1] == "Cancelled: 1 of 4 chunks are safe, queue again to go on"
    (folder,) = take_folders(server, "cancelled_take")
    assert re.search(rf"They are in {re.escape(str(folder))}, \d\.\d MB; delete that folder", log_since(server, start))
    assert not list((server.base / "output" / "cancelled").glob("*"))
    start = server.log.stat().st_size
    events = []
    history = server.run(graph.prompt(), lambda kind, data: events.append((kind, data)))
    assert "resuming at chunk 2 of 4" in log_since(server, start)
    assert texts(events)[:3] == ["Preparing", "Resuming at chunk 2 of 4",
                                 "Resuming at chunk 2 of 4: the decoder is at latent 0 of 5"]
    assert_same_take(server, "cancelled_take", video_of(server, history), uninterrupted)
    folder.rename(tmp_path / "cancelled")       # as above


def test_a_changed_seed_starts_a_new_take_says_so_and_loses_nothing(server):
    graph = tiny_take(server, "reseeded/take", steps=MANY_STEPS, noise_seed=6)   # 7 is kept under another name
    cancel_in_second_chunk(server, graph)
    start = server.log.stat().st_size
    changed = tiny_take(server, "reseeded/take", noise_seed=8)
    server.run(changed.prompt())
    assert "sigmas, noise " in log_since(server, start).split("changed: this is a fresh take")[0]
    assert len(take_folders(server, "reseeded_take")) == 1           # the unfinished one, as it was
    start = server.log.stat().st_size
    server.run(graph.prompt())
    assert "resuming at chunk 2 of 4" in log_since(server, start) and take_folders(server, "reseeded_take") == []


def test_longer_speech_keeps_the_chunks_before_it(server):
    """The features are those of the whole recording, so the first chunks get the same features as before."""
    graph = tiny_take(server, "longer/take", keep_chunks=True)
    server.run(graph.prompt())
    start = server.log.stat().st_size
    graph.the("LodestarPlanTake").set(max_seconds=5.0)
    history = server.run(graph.prompt())
    said = log_since(server, start)
    assert "chunk layout, speech changed: chunks from 4 on are made again" in said
    assert len(frames_of(video_of(server, history))) == 80


@pytest.mark.parametrize(("name", "loader"), [("wan21_t2v", "latents as tokens"), ("wan21_i2v", "latents as channels")])
def test_takes_without_speech_features(server, name, loader):
    """T2V gets its context as clean tokens, I2V as known channels; both are stitched without a VAE round trip."""
    graph = tiny_take(server, f"{name}/take", unet_name=f"lodestar_tiny_{name}.safetensors")
    without_speech(graph)
    frames = frames_of(video_of(server, server.run(graph.prompt())))
    assert len(frames) == 64 and frames.std() > 5


@pytest.mark.parametrize("mode", ["stitch", "re-encode"])
def test_both_hand_overs_make_a_whole_take(server, mode):
    graph = tiny_take(server, f"{mode}/take", mode=mode, unet_name="lodestar_tiny_wan21_t2v.safetensors")
    without_speech(graph)
    assert len(frames_of(video_of(server, server.run(graph.prompt())))) == 64


def test_a_take_goes_on_from_a_clip_of_the_user_s(server, uninterrupted):
    """Here from a finished take: its frames come first, then those of all of the speech but one."""
    graph = tiny_take(server, "onward/take", max_seconds=2.0)
    clip = graph.add("LoadVideo", file=server.upload(uninterrupted.path))
    for node in ("LodestarPlanTake", "LodestarLongTake"):
        graph.the(node).set(continue_from=clip[0])
    history = server.run(graph.prompt())
    frames, before = frames_of(video_of(server, history)), frames_of(uninterrupted.path)
    assert len(before) == 64 and len(frames) == 64 + 31
    assert np.abs(frames[:64].astype(int) - before.astype(int)).mean() < 8
    said = " ".join(history["outputs"][graph.the("LodestarPlanTake").id]["text"])
    assert "clip of 64 frames at this rate (4.00 s): 95 frames (5.94 s) in all" in said
    assert take_folders(server, "onward_take") == []
