"""What a user can get wrong, each through a real server: one clear error or a good video, and the server goes on.

What can be known before running is HTTP 400, the rest fails in the node at fault. A take that fails leaves nothing
behind but its finished chunks, and the same server makes a good take right after it.
"""
import contextlib
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from bad_files import hum, latent, peak_megabytes, png, small_disk, wav, write_bad_models
from lib import comfy_server
from lib.graph import Graph
from served_takes import frames_of, tiny_take, video_of

PLAN, TAKE = "LodestarPlanTake", "LodestarLongTake"
ANCHOR, FEATURES = "LodestarLookaheadAnchor", "LodestarAudioFeatures"
RATE, SECONDS, FRAMES = 16000, 0.5, 8     # at 16 fps; a chunk would be 21 frames
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory, tiny_models):
    """A server of its own, whose models folder also holds broken and foreign models."""
    base = comfy_server.prepare_base(tmp_path_factory.mktemp("bad_input"), tiny_models)
    write_bad_models(base / "models")
    with start_server(base=base) as running:
        yield running


def take(server, changed=None, **inputs) -> Graph:
    """The tiny take, small and short, with a name and seed of its own; `inputs` of the node `changed`."""
    graph = tiny_take(server, f"take{next(numbers)}/take", chunk_frames=21, max_seconds=SECONDS,
                      noise_seed=next(numbers))
    if changed:
        graph.the(changed).set(**inputs)
    return graph


def linked(server, changed, name, kind, **inputs) -> Graph:
    """A good take, but for input `name` of node `changed`, which comes from one more node."""
    graph = take(server)
    graph.the(changed).set(**{name: graph.add(kind, **inputs)[0]})
    return graph


def files_under(folder: Path):
    return {path for path in folder.rglob("*") if path.name != "server.log"}


def makes(server, graph, frames=FRAMES) -> Path:
    """The graph must make a video of that many frames, which are pictures."""
    path = video_of(server, server.run(graph.prompt(), timeout_seconds=120))
    found = frames_of(path)
    assert found.shape == (frames, 64, 64, 3) and found.std() > 5
    return path


def fails(server, graph, node_class, *words):
    """The graph must fail in a node of that class, say all of `words`, leave no file, and the server must go on."""
    before = files_under(server.base / "output")
    with pytest.raises(comfy_server.PromptFailed) as failure:
        server.run(graph.prompt(), timeout_seconds=120)
    said = str(failure.value)
    assert failure.value.node_type == node_class and all(word in said for word in words), said
    assert files_under(server.base / "output") - before <= {server.base / "output" / "lodestar_takes"}
    makes(server, take(server))


def refused(server, graph, node_class, *words):
    """POST /prompt must answer 400 with one sentence, on a node of that class, that says all of `words`."""
    before = files_under(server.base)
    with pytest.raises(comfy_server.PromptRefused) as refusal:
        server.queue(graph.prompt())
    (node, found), = refusal.value.node_errors.items()
    assert found["class_type"] == node_class and node in {one.id for one in graph.all(node_class)}
    assert not [error for error in found["errors"] if error["type"].startswith("exception")], found["errors"]
    # ComfyUI repeats what a node's own check says, under the name of every input that the check reads
    sentence, = {f"{error['message']}: {error['details'].split(' - ', 1)[-1]}" for error in found["errors"]}
    assert all(word in sentence for word in words), sentence
    assert files_under(server.base) == before


# ---------------------------------------------------------------- sound

@pytest.mark.parametrize(("sound", "rate", "frames"), [
    (np.zeros((RATE, 1)), RATE, 16),
    (hum(8000, 1, 8000), 8000, 16),
    (hum(192000, 2, 192000), 192000, 16),
    (hum(48000, 7, 48000), 48000, 16),
    (hum(44100, 1, 44099), 44099, 17),
    (hum(1, 1, RATE), RATE, 1),
    (hum(1000, 1, RATE), RATE, 1),
    (hum(1001, 1, RATE), RATE, 2),
    (hum(RATE * 2 + 1, 1, RATE), RATE, 33),
], ids=["silence", "8 kHz mono", "192 kHz stereo", "7 channels", "an odd rate", "one sample", "one frame",
        "one sample more than a frame", "one sample more than 2 s"])
def test_unusual_sound_makes_a_video_of_its_length(server, tmp_path, sound, rate, frames):
    """Most of it is shorter than one chunk."""
    graph = take(server, "LoadAudio", audio=server.upload(wav(tmp_path, sound, rate)))
    graph.the(PLAN).set(max_seconds=0.0)
    with av.open(str(makes(server, graph, frames))) as container:
        audio = container.streams.audio[0]
        audio_in = sum(frame.samples for frame in container.decode(audio)) / audio.rate
    seconds = len(sound) / rate
    assert seconds - 0.001 <= audio_in < seconds + 3 * 1024 / audio.rate     # AAC comes in frames of 1024


listeners = pytest.mark.parametrize("listener", [PLAN, FEATURES])


@listeners
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_sound_that_is_not_finite(server, tmp_path, listener, value):
    sound = hum(RATE, 1, RATE)
    sound[500] = value
    graph = linked(server, listener, "audio", "LoadAudio", audio=server.upload(wav(tmp_path, sound, RATE)))
    fails(server, graph, listener, "audio: got NaN or infinite samples, wanted finite ones", "export it again")


@listeners
def test_sound_of_no_samples(server, listener):
    graph = linked(server, listener, "audio", "EmptyAudio", duration=0.0, sample_rate=RATE, channels=1)
    fails(server, graph, listener, "audio: got 0 samples, wanted sound", "check the trim")


@listeners
def test_sound_at_a_rate_below_speech(server, listener):
    graph = linked(server, listener, "audio", "EmptyAudio", duration=2.0, sample_rate=4000, channels=1)
    fails(server, graph, listener, "audio: got a sample rate of 4000 Hz, wanted 8000 to 192000", "resample it")


# ---------------------------------------------------------------- pictures and latents

def test_a_picture_with_alpha(server):
    graph = take(server)
    mask = graph.add("SolidMask", value=0.5, width=64, height=64)
    graph.the(TAKE).set(reference=graph.add("JoinImageWithAlpha", image=graph.the("LoadImage")[0], alpha=mask[0])[0])
    makes(server, graph)


def test_a_picture_one_pixel_wide(server, tmp_path):
    graph = take(server, "LoadImage", image=server.upload(png(tmp_path, 1, 300)))
    fails(server, graph, TAKE, "reference: got shape (1, 300, 1, 3), wanted", "at least 8 pixels each way",
          "Load a picture")


def test_a_picture_16k_wide(server, tmp_path):
    """It is fitted without copies of the whole: 201 MB of it are ComfyUI's own IMAGE."""
    graph = take(server, "LoadImage", image=server.upload(png(tmp_path, 16384, 1024)))
    with peak_megabytes(server) as grown:
        makes(server, graph)
    assert not grown or grown[0] < 1000


def test_an_anchor_from_another_models_latent_space(server):
    graph = linked(server, ANCHOR, "anchor", "EmptyLatentImage", width=64, height=64, batch_size=1)
    fails(server, graph, ANCHOR, "anchor: got latents of shape (1, 4, 1, 8, 8), this model's are (1, 16, ",
          "another model's VAE", "Encode with the one that belongs to it")


def test_an_anchor_that_is_not_finite(server):
    latent(server.base / "input" / "broken.latent", torch.full((1, 16, 1, 8, 8), torch.nan))
    fails(server, linked(server, ANCHOR, "anchor", "LoadLatent", latent="broken.latent"), ANCHOR,
          "anchor: got NaN or infinite latents", "encode the picture again")


def test_an_anchor_of_another_size(server):
    latent(server.base / "input" / "wide.latent", torch.zeros(1, 16, 1, 8, 16))
    fails(server, linked(server, ANCHOR, "anchor", "LoadLatent", latent="wide.latent"), TAKE,
          "anchor: got latents of 16x8, the take's are 8x8", "Encode the picture at the take's width and height")


# ---------------------------------------------------------------- the plan

@pytest.mark.parametrize(("name", "size"), [("width", 65), ("height", 72), ("width", 1000)])
def test_a_size_off_the_grid(server, name, size):
    """Known at the node: ComfyUI would say it under every input that a check before the run reads."""
    fails(server, take(server, PLAN, **{name: size}), PLAN, f"{name}: got {size}, wanted a multiple of 16 from 0 to")


@pytest.mark.parametrize(("fps", "limit"), [(-25, "0.0"), (1000, "240.0")])
def test_an_impossible_frame_rate(server, fps, limit):
    refused(server, take(server, PLAN, fps=fps), PLAN, f"Value {float(fps)}", "than m", f"of {limit}", "fps")


def test_a_frame_rate_below_one(server):
    """0 is the model's own."""
    fails(server, take(server, PLAN, fps=0.5), PLAN, "fps", "0.5", "wanted 1 to 240")


def test_a_size_of_one_side(server):
    fails(server, take(server, PLAN, width=0), PLAN, "width, height: got 0 and 64; give both, or 0 for both")


def test_a_picture_without_a_size(server):
    graph = take(server)
    fitted = graph.add("LodestarReferencePicture", image=graph.the("LoadImage")[0], vae=graph.the("VAELoader")[0],
                       width=0, height=0, fit="crop")
    graph.the(ANCHOR).set(anchor=fitted[0])
    fails(server, graph, "LodestarReferencePicture", "width, height: got 0 and 0", "connect the plan of Plan Take")


@pytest.mark.parametrize(("chunk", "overlap", "own"), [(9, -1, 13), (5, 9, 9)])
def test_a_chunk_shorter_than_its_overlap(server, chunk, overlap, own):
    """That of a T2V model is known only when the model is there."""
    graph = take(server, "UNETLoader", unet_name="lodestar_tiny_wan21_t2v.safetensors")
    graph.the(PLAN).set(chunk_frames=chunk, overlap_frames=overlap)
    fails(server, graph, PLAN, f"chunk_frames: a chunk of {chunk} frames", f"overlap of {own} frames",
          f"make the chunk at least {own + 4} frames")


def test_an_overlap_where_the_model_keeps_its_context_outside(server):
    graph = take(server, PLAN, overlap_frames=5)
    fails(server, graph, PLAN, "overlap_frames: got 5", "Wan 2.2 S2V", "Set it to -1 or 0")


@pytest.mark.parametrize(("script", "words"), [
    ("0:10 she smiles\n0:05 she laughs", ("line 2 ('0:05 she laughs')", "not after", "put the lines in order of time")),
    ("0:00 she smiles\nlater she laughs", ("line 2 ('later she laughs')", "must begin with a time such as 0:12.5")),
    ("0:00 she smiles\n0:75 she laughs", ("line 2 ('0:75 she laughs')", "seconds must be below 60")),
    ("0:05", ("line 1 ('0:05')", "a time but no prompt")),
], ids=["unsorted", "no time", "no such time", "no prompt"])
def test_a_script_that_cannot_be_read(server, script, words):
    refused(server, take(server, PLAN, script=script), PLAN, "script, line", *words)


def test_a_script_that_comes_by_a_link(server):
    graph = linked(server, PLAN, "script", "PrimitiveStringMultiline", value="0:10 she smiles\n0:05 she laughs")
    fails(server, graph, PLAN, "script, line 2", "put the lines in order of time")


def test_a_script_without_a_text_encoder(server):
    fails(server, take(server, PLAN, script="0:00 she smiles"), TAKE, "clip: the plan has a script", "Connect clip")


@pytest.mark.parametrize(("node_class", "name", "value"), [
    (PLAN, "height", 16400), (PLAN, "width", -64), (PLAN, "width", "wide"),
    (PLAN, "overlap_frames", -2), (PLAN, "chunk_frames", 5000), (PLAN, "max_seconds", -1),
    (ANCHOR, "distance", 5000), (ANCHOR, "distance", "far"), (ANCHOR, "placement", "behind"),
    ("LodestarLatentStitch", "mode", "glue"), (FEATURES, "layers", "some"), (FEATURES, "window_seconds", 1)])
def test_a_value_out_of_range(server, node_class, name, value):
    """ComfyUI checks no limit of an input that a node's own check reads: that check must."""
    refused(server, take(server, node_class, **{name: value}), node_class, name)


def test_an_anchor_that_would_stand_in_the_chunk(server):
    fails(server, take(server, ANCHOR, distance=2), ANCHOR, "distance: got 0 latent frames, wanted at least 1")


def test_a_number_that_is_none(server):
    """JSON has no NaN, but Python's reader takes it."""
    fails(server, take(server, ANCHOR, distance=float("nan")), ANCHOR, "distance: got nan, wanted a number from 0 to")


@pytest.mark.parametrize(("node_class", "name"), [
    (PLAN, "script"), (PLAN, "width"), (TAKE, "filename_prefix"), (ANCHOR, "distance"), (ANCHOR, "placement"),
    (FEATURES, "layers")])
def test_an_input_left_out(server, node_class, name):
    """ComfyUI calls a node's own check nevertheless: it must not break what ComfyUI says."""
    graph = take(server)
    graph.the(node_class).unset(name)
    refused(server, graph, node_class, f"Required input is missing: {name}")


def test_nothing_that_says_how_long_the_take_is(server):
    graph = take(server)
    graph.the(PLAN).unset("audio")
    fails(server, graph, PLAN, "audio: nothing says how long the take is", "Connect the speech, or a Driving Video")


# ---------------------------------------------------------------- names and disk

@pytest.mark.parametrize(("prefix", "words"), [
    *((prefix, "leaves ComfyUI's output folder; use a name such as lodestar/take")
      for prefix in ("../evil", "a/../../evil", "..\\evil", "/evil")),
    *((prefix, "it must name a file, such as lodestar/take")
      for prefix in ("", "  ", "lodestar/", "..", "a/ ", "a\0b", "a\nb")),
    *((prefix, "too long for a file name; use a shorter one") for prefix in ("a" * 300, "b/" + "\u5149" * 80)),
    ("/".join(["folder"] * 999), "too long for a file name; use a shorter one"),
    ("there.txt/take", "there.txt is a file, no folder; use another name"),
    ("loop/take", "a path that cannot be followed"),
    *((prefix, f"Windows cannot have {prefix[1]!r} in a file name") for prefix in ("C:/take", "a|b", "a?", "a*b")),
    *((prefix, "is a device on Windows. Use another name, such as lodestar/take")
      for prefix in ("con/take", "lodestar/NUL.", "lpt1.x/take")),
    *((prefix, "Windows drops the dot or space at the end of") for prefix in ("a./take", "a /take"))])
def test_a_name_that_is_no_file_below_output(server, prefix, words):
    (server.base / "output" / "there.txt").touch()
    with contextlib.suppress(FileExistsError):
        (server.base / "output" / "loop").symlink_to("loop")
    refused(server, take(server, TAKE, filename_prefix=prefix), TAKE, f"filename_prefix is {prefix[:9]!r}"[:-1], words)


@pytest.mark.parametrize("prefix", ["../evil", "/evil"])
def test_such_a_name_by_a_link(server, prefix):
    fails(server, linked(server, TAKE, "filename_prefix", "PrimitiveString", value=prefix), TAKE,
          f"filename_prefix is {prefix!r}, which leaves ComfyUI's output folder")
    assert not list(server.base.glob("evil*")) and not list(Path("/").glob("evil*"))


@pytest.mark.parametrize(("disk_kilobytes", "file_kilobytes", "said"), [
    (120, 20, r"lodestar_takes\S+ could not be written .* [02] of 3 chunks are safe in \S+lodestar_takes"),
    (224, 60, r"final\.mp4 could not be written .* All 3 video segments are safe in \S+lodestar_takes"),
], ids=["in a chunk", "in the final file"])
def test_a_full_disk(server, disk_kilobytes, file_kilobytes, said):
    """Once there is room, the same queue goes on after the last finished chunk."""
    graph = take(server, PLAN, max_seconds=4.0)
    name = graph.the(TAKE).inputs["filename_prefix"]
    with small_disk(server, disk_kilobytes, file_kilobytes) as make_room:
        with pytest.raises(comfy_server.PromptFailed, match=said):
            server.run(graph.prompt(), timeout_seconds=120)
        assert not list((server.base / "output" / name).parent.glob("*"))
        kept = sorted((server.base / "output").rglob("chunk_*.safetensors"))
        make_room()
        start = server.log.stat().st_size
        makes(server, graph, 64)
    note = "starting with chunk 1" if not kept else f"resuming at chunk {len(kept) + 1}" if len(kept) < 3 else "all 3"
    assert note.encode() in server.log.read_bytes()[start:]
    makes(server, take(server))


# ---------------------------------------------------------------- models

@pytest.mark.parametrize("cut", ["cut", "stub"])
@pytest.mark.parametrize(("node_class", "name", "file", "words"), [
    ("UNETLoader", "unet_name", "lodestar_tiny_wan22_s2v.safetensors", "deserializing header"),
    ("VAELoader", "vae_name", "lodestar_tiny_wan_vae.safetensors", "deserializing header"),
    ("LodestarLoadAudioEncoder", "audio_encoder_name", "lodestar_tiny_wav2vec2.safetensors",
     "safetensors cannot be read: it is cut short"),
], ids=["model", "VAE", "audio encoder"])
def test_a_truncated_model_file(server, node_class, name, file, words, cut):
    """The first two are ComfyUI's own loaders, in its own words."""
    fails(server, take(server, node_class, **{name: f"{cut}_{file}"}), node_class, words)


def test_a_model_that_makes_nan(server):
    graph = take(server, "UNETLoader", unet_name="nan.safetensors")
    fails(server, graph, TAKE, "chunk 1 came out of the sampler with NaN", "check the model file and its precision")


@pytest.mark.parametrize(("user", "node_class"), [(PLAN, PLAN), (ANCHOR, ANCHOR), ("BasicGuider", TAKE)])
def test_a_model_that_is_not_supported(server, user, node_class):
    graph = linked(server, user, "model", "UNETLoader", unet_name="vace.safetensors", weight_dtype="default")
    fails(server, graph, node_class, "model: got WAN21_Vace", "Lodestar does not support. Supported: ", "Wan 2.1 T2V",
          "Wan 2.2 S2V")


@pytest.mark.parametrize("other", ["wan21_t2v", "wan22_ti2v"])
def test_a_plan_for_another_model(server, other):
    graph = linked(server, PLAN, "model", "UNETLoader", unet_name=f"lodestar_tiny_{other}.safetensors",
                    weight_dtype="default")
    graph.the(PLAN).set(max_seconds=3.0)
    fails(server, graph, TAKE, "plan: 64x64, chunks that repeat 4 latents, was made for another model",
          "the guider's Wan 2.2 S2V", "Connect that model to Plan Take")


def test_a_vae_of_another_model(server):
    fails(server, take(server, "VAELoader", vae_name="pixel_space"), TAKE,
          "vae: it makes latents of 3 channels, Wan 2.2 S2V wants 16", "Load the VAE that belongs to the model")


def test_no_speech_features(server):
    graph = take(server)
    graph.the(TAKE).unset("audio_features")
    fails(server, graph, TAKE, "audio_features: Wan 2.2 S2V is driven by speech. Connect Audio Features")


def test_speech_features_of_another_width(server):
    fails(server, take(server, "LodestarLoadAudioEncoder", audio_encoder_name="narrow.safetensors"), TAKE,
          "audio_features: got 1 layers of width 768 (wav2vec2), wanted 25 of 1024", "Use wav2vec2-large")


def test_speech_features_that_end_before_the_take(server):
    graph = linked(server, FEATURES, "audio", "EmptyAudio", duration=0.5, sample_rate=RATE, channels=1)
    graph.the(PLAN).set(max_seconds=1.25)
    fails(server, graph, TAKE, "audio_features: they cover 0.48 s of a take of 1.25 s", "Encode the same audio")


def test_a_schedule_without_steps(server):
    fails(server, take(server, "BasicScheduler", denoise=0.0), TAKE, "sigmas: got 0 values, wanted at least 2")


def test_the_server_goes_on_after_all_of_it(server):
    makes(server, take(server))
    assert server.get("/queue") == {"queue_running": [], "queue_pending": []}
