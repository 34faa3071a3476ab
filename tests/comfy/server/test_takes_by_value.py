"""A take is made of what was loaded: through a server, with models that no prompt names and a file that changes."""
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from served_takes import (
    MANY_STEPS,
    cancel_in_second_chunk,
    frames_of,
    latents_of,
    log_since,
    take_folders,
    tiny_take,
    write_video,
)

TINY = "lodestar_tiny_wan22_s2v.safetensors"
def negated(weights):
    return {**weights, "head.head.weight": -weights["head.head.weight"]}


@pytest.fixture(scope="module")
def models(server):
    """Their folder, with models of one size and age in files that are nobody else's: one of TINY's values, another."""
    models = server.base / "models" / "diffusion_models"
    weights = load_file(models / TINY)
    save_file(weights, models / "one.safetensors", metadata=metadata_of(models / TINY))
    save_file(weights, models / "changed.safetensors", metadata=metadata_of(models / TINY))
    save_file(negated(weights), models / "two.safetensors", metadata=metadata_of(models / TINY))
    return models


def metadata_of(path):
    from safetensors import safe_open
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def small(server, prefix, **changes):
    """Two chunks that no other test has."""
    return tiny_take(server, prefix, steps=1, max_seconds=2.0, noise_seed=71, **changes)


def looped(server, prefix, names):
    """The first take without its techniques, once per model."""
    graph = small(server, prefix)
    take, guider = graph.the("LodestarLongTake"), graph.the("BasicGuider")
    take.become("LoopOverModels", **{name: value for name, value in take.inputs.items() if name != "guider"},
                names=names, conditioning=guider.inputs["conditioning"])
    take.set(keep_chunks=True)
    graph.remove(guider)
    return graph.prompt()


def listed(server, prefix, names):
    graph = small(server, prefix, keep_chunks=True)
    graph.the("BasicGuider").set(model=graph.add("ListOfModels", names=names)[0])
    return graph.prompt()


def test_models_of_a_loop_and_of_a_list_make_takes_of_their_own(server, models):
    names = "one.safetensors two.safetensors"
    server.run(looped(server, "loop/take", names))
    folders = take_folders(server, "loop_take")
    first, second = (latents_of(folder) for folder in folders)
    assert len(first) == len(second) == 2 and not any(map(torch.equal, first, second))
    start = server.log.stat().st_size
    server.run(listed(server, "list/take", names))     # the same values under another name, by other nodes
    assert log_since(server, start).count("all 2 chunks are finished") == 2
    assert take_folders(server, "list_take") == [] and take_folders(server, "loop_take") == folders
    videos = [frames_of(path) for path in sorted((server.base / "output" / "list").glob("*.mp4"))]
    assert len(videos) == 2 and (videos[0] != videos[1]).any()


@pytest.mark.once
@pytest.mark.parametrize(("kind", "name", "said"), [("LoadAudio", "audio", "speech"),
                                                    ("LoadImage", "image", "reference")])
def test_speech_or_a_picture_that_changes_under_its_name_makes_another_take(server, tmp_path, kind, name, said):
    graph = tiny_take(server, f"swapped_{name}/take", steps=MANY_STEPS, max_seconds=2.0, unet_name=TINY,
                      noise_seed=len(kind + said))
    own = server.base / "input" / f"{name}{graph.the(kind).inputs[name]}"
    own.write_bytes((server.base / "input" / graph.the(kind).inputs[name]).read_bytes())
    graph.the(kind).set(**{name: own.name})
    cancel_in_second_chunk(server, graph)
    (old,) = take_folders(server, f"swapped_{name}_take")
    other = server.base / "input" / "other.png"
    if kind == "LoadImage":
        Image.linear_gradient("L").convert("RGB").save(other)
    else:
        other = write_video(tmp_path / "other.mp4", 2.0)
    age = own.stat()
    own.write_bytes(other.read_bytes())
    os.utime(own, ns=(age.st_atime_ns, age.st_mtime_ns))
    start = server.log.stat().st_size
    server.run(graph.prompt())
    log = log_since(server, start)
    assert "resuming" not in log and said in log.split("changed: this is a fresh take")[0]
    assert take_folders(server, f"swapped_{name}_take") == [old]      # as it was, and gone on with when asked for


def replace_within_the_second(path, weights):
    """Another file under the same name, of the same size and time."""
    before, draft = path.stat(), path.with_suffix(".new")
    save_file(weights, draft, metadata=metadata_of(path))
    os.replace(draft, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_file_that_changes_under_its_name_makes_no_take_of_two_models(server, start_server, models):
    path = models / "changed.safetensors"
    with start_server(beside=server) as earlier:
        graph = tiny_take(earlier, "changed/take", steps=MANY_STEPS, unet_name=path.name, noise_seed=72)
        earlier.run(small(earlier, "before/take", unet_name=path.name).prompt())
        replace_within_the_second(path, negated(load_file(path)))
        cancel_in_second_chunk(earlier, graph)      # with the weights that the server still holds
    (old,) = take_folders(server, "changed_take")
    start = server.log.stat().st_size
    graph.the("LodestarLongTake").set(keep_chunks=True)
    server.run(graph.prompt())
    assert "resuming" not in log_since(server, start)
    assert "model changed: this is a fresh take" in log_since(server, start)
    (new,) = set(take_folders(server, "changed_take")) - {old}
    assert len(latents_of(new)) == 4 and not torch.equal(latents_of(new)[0], latents_of(old)[0])
    start = server.log.stat().st_size
    same_weights = tiny_take(server, "renamed/take", steps=MANY_STEPS, unet_name="two.safetensors", noise_seed=72)
    server.run(same_weights.prompt())
    assert "all 4 chunks are finished" in log_since(server, start)
    assert len(list((server.base / "output" / "renamed").glob("*.mp4"))) == 1
    assert new in take_folders(server, "changed_take") and take_folders(server, "renamed_take") == []
