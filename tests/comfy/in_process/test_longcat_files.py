"""Load LongCat: what it reads, how it reads it, and what it refuses in one line."""
import json
import shutil
from pathlib import Path

import folder_paths
import pytest
import torch
from lodestar.backbones.longcat.loader import config_of, find_version, load_longcat
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.versions import AVATAR_10, AVATAR_15, BASE
from lodestar.nodes import load_longcat as node
from safetensors.torch import load_file, safe_open, save_file

VERSIONS = {"BASE": (BASE, 12), "AVATAR": (AVATAR_10, 12), "AVATAR15": (AVATAR_15, 7), "INT8": (AVATAR_15, 7)}


@pytest.fixture
def weights(tiny_models, longcat):
    return load_file(longcat.path(tiny_models, longcat.AVATAR15))


@pytest.fixture
def config(tiny_models, longcat):
    with safe_open(longcat.path(tiny_models, longcat.AVATAR15), "pt") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture
def folder(tiny_models, longcat, tmp_path):
    """A copy of the official int8 folder, to be broken."""
    return shutil.copytree(longcat.path(tiny_models, longcat.INT8), tmp_path / longcat.INT8)


def save(tmp_path, weights, config=None, name="model.safetensors"):
    save_file(weights, tmp_path / name, metadata=config and {"config": json.dumps(config)})
    return str(tmp_path / name)


def answer(model, longcat):
    with torch.inference_mode():
        return model.model.diffusion_model(longcat.noise(), torch.tensor([700.0]), longcat.text(),
                                           audio=longcat.speech(model))


# ---------------------------------------------------------------- what it reads

@pytest.mark.parametrize("kind", VERSIONS)
def test_the_weights_say_what_they_are(tiny_models, longcat, kind):
    model = load_longcat(longcat.path(tiny_models, getattr(longcat, kind)))
    assert (model.model.version, model.model.model_sampling.shift) == VERSIONS[kind]
    assert all(name.startswith("diffusion_model.") for name, _ in model.model.named_parameters())
    assert model.model.device == model.offload_device and not any(p.is_meta for p in model.model.parameters())


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_prefix_and_a_whole_checkpoint_around_it_are_taken_off(tmp_path, weights, config, longcat, prefix):
    around = {"vae.conv1.weight": torch.zeros(3)} if prefix else {}
    path = save(tmp_path, {f"{prefix}{name}": tensor for name, tensor in weights.items()} | around, config)
    model = load_longcat(path)
    assert torch.equal(model.model.diffusion_model.blocks[1].ffn.w2.weight, weights["blocks.1.ffn.w2.weight"].float())


def test_a_folder_of_float_shards_is_the_file(tmp_path, weights, config, tiny_models, longcat):
    import tiny_longcat
    folder = tiny_longcat.write_folder(tmp_path / "shards", weights, config, shards=3)
    (folder / "quantized_model.safetensors.index.json").rename(folder / "other.safetensors.index.json")
    whole = load_longcat(longcat.path(tiny_models, longcat.AVATAR15))
    assert torch.equal(answer(load_longcat(str(folder)), longcat), answer(whole, longcat))


def test_official_widths_need_no_config(tmp_path, weights):
    for width, version in ((12 * 768, AVATAR_10), (5 * 1280, AVATAR_15)):
        assert find_version("x", LongCatConfig(audio=AudioConfig(width)), None) == version
    with pytest.raises(ValueError, match=r"takes 320 speech features per step .* wanted 9216 or 6400"):
        load_longcat(save(tmp_path, weights))


def test_the_config_says_what_weights_cannot_show(weights, config):
    record = {**config, "class_range": 30, "text_tokens_zero_pad": False}
    assert config_of("x", weights, record).audio.class_range == 30 and not config_of("x", weights, record).keep_padding
    assert config_of("x", weights, config) == config_of("x", weights, None)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float32])
def test_stored_in_another_precision(tmp_path, weights, config, longcat, dtype):
    kept = {name: tensor.to(dtype) if tensor.ndim > 1 else tensor for name, tensor in weights.items()}
    model = load_longcat(save(tmp_path, kept, config))
    assert {parameter.dtype for parameter in model.model.parameters()} == {torch.float32}    # the CPU's
    exact = save(tmp_path, {name: tensor.float() for name, tensor in kept.items()}, config, "exact.safetensors")
    assert torch.equal(answer(model, longcat), answer(load_longcat(exact), longcat))
    if dtype == torch.float8_e4m3fn:
        stays = load_longcat(save(tmp_path, kept, config), "fp8_e4m3fn").model.diffusion_model.blocks[0].ffn.w1.weight
        assert torch.equal(stays.view(torch.uint8), kept["blocks.0.ffn.w1.weight"].view(torch.uint8))


def test_what_need_not_change_stays_mapped_from_the_file(tmp_path, weights, config):
    """Every weight lies as far from the others in memory as it does in the file."""
    path = save(tmp_path, {name: tensor.float() for name, tensor in weights.items()}, config)
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    network = load_longcat(path).model.diffusion_model
    assert len({parameter.data_ptr() - header[name]["data_offsets"][0]
                for name, parameter in network.named_parameters()}) == 1


def test_comfyui_can_make_another_of_it(tiny_models, longcat):
    model = load_longcat(longcat.path(tiny_models, longcat.AVATAR15), "fp8_e4m3fn")
    make, arguments = model.cached_patcher_init
    other = make(*arguments, disable_dynamic=True)
    assert other.model is not model.model and torch.equal(answer(other, longcat), answer(model, longcat))


# ---------------------------------------------------------------- the node

def test_a_folder_is_one_entry_and_every_file_another(base, longcat):
    names = node.model_names()
    assert {longcat.BASE + ".safetensors", longcat.AVATAR15 + ".safetensors", longcat.INT8} <= set(names)
    assert not any("-of-0000" in name or name.endswith(".json") for name in names)
    assert folder_paths.get_folder_paths("longcat") == [str(base / "models" / "longcat")]
    model = node.LodestarLoadLongCat.execute(longcat.INT8, "default", "off").result[0]
    assert model.model.version == AVATAR_15
    with pytest.raises(ValueError, match="model_name: got 'gone.safetensors', wanted one of"):
        node.LodestarLoadLongCat.execute("gone.safetensors", "default", "off")


# ---------------------------------------------------------------- what it refuses

def change_index(folder, **changes):
    file = folder / "quantized_model.safetensors.index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def cut(file, share):
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * share)])


def without(folder, *patterns):
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


BROKEN = {
    "a cut shard": (lambda folder: cut(folder / "quantized_model-00002-of-00002.safetensors", 0.6),
                    "quantized_model-00002-of-00002.safetensors cannot be read: it is cut short"),
    "a shard of 5 bytes": (lambda folder: (folder / "quantized_model-00001-of-00002.safetensors").write_bytes(b"<html"),
                           "quantized_model-00001-of-00002.safetensors cannot be read"),
    "a missing shard": (lambda folder: without(folder, "*-00001-of*"),
                        "lacks 1 of 2 shards that its index names, quantized_model-00001-of-00002.safetensors first"),
    "no index": (lambda folder: without(folder, "*.index.json"), r"has 0 files \*.safetensors.index.json, wanted one"),
    "an index of nothing": (lambda folder: change_index(folder, weight_map={}), "index.json has no weight_map"),
    "an index of files elsewhere": (lambda folder: change_index(folder, weight_map={
        "x": "../other.safetensors"}), "names '../other.safetensors', which is no file of its own folder"),
    "an index of no names": (lambda folder: change_index(folder, weight_map={"x": ["a"]}), r"names \['a'\], which is"),
    "an index that is no JSON": (lambda folder: cut(folder / "quantized_model.safetensors.index.json", 0.5),
                                 "index.json is not readable JSON"),
    "an index of more": (lambda folder: change_index(folder, weight_map={
        "blocks.7.ffn.w1.weight_int8": "quantized_model-00001-of-00002.safetensors"}),
        "lack 1 weights that the index names, blocks.7.ffn.w1.weight_int8 in quantized_model-00001"),
    "another config": (lambda folder: (folder / "config.json").write_text(json.dumps({
        **json.loads((folder / "config.json").read_text()), "hidden_size": 4096})),
        "says hidden 4096, its weights have 64: they belong to different models"),
    "another version's config": (lambda folder: (folder / "config.json").write_text(json.dumps({
        **json.loads((folder / "config.json").read_text()), "audio_block": 12})),
        "says width 768, its weights have 320"),
    "a config of another model": (lambda folder: (folder / "config.json").write_text('{"model_type": "umt5"}'),
                                  "no 'hidden_size', wanted a LongCat-Video config"),
    "a config that is no object": (lambda folder: (folder / "config.json").write_text("[1]"), "holds a list, wanted"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_folder_is_refused(folder, how):
    damage, says = BROKEN[how]
    damage(folder)
    with pytest.raises(ValueError, match=says) as caught:
        load_longcat(str(folder))
    assert str(caught.value).startswith("model_name: ") and len(str(caught.value)) < 500


CHANGED = {
    "a missing weight": (lambda kept: kept.pop("blocks.1.ffn.w2.weight"),
                         "lacks 1 of 90 weights, blocks.1.ffn.w2.weight first"),
    "no blocks": (lambda kept: [kept.pop(name) for name in list(kept) if name.startswith("blocks.")], "no 'blocks.0"),
    "an unknown weight": (lambda kept: kept.update({"blocks.0.ffn.w9.weight": torch.ones(1)}),
                          "has 1 weights that LongCat-Video has not, blocks.0.ffn.w9.weight first"),
    "a scale too many": (lambda kept: kept.update({"blocks.0.ffn.w1.scale_weight": torch.tensor(0.5)}),
                         "blocks.0.ffn.w1 has a scale of its own and a weight in torch.bfloat16"),
    "a wrong shape": (lambda kept: kept.update({"blocks.1.attn.qkv.weight": torch.zeros(192, 32)}),
                      r"blocks.1.attn.qkv.weight in shape \(192, 32\), wanted \(192, 64\)"),
    "a flat embedder": (lambda kept: kept.update({"x_embedder.proj.weight": torch.zeros(64, 64)}),
                        "got 0 kernel sizes"),
}


@pytest.mark.parametrize("how", CHANGED)
def test_weights_that_do_not_fit_are_refused(tmp_path, weights, how):
    change, says = CHANGED[how]
    change(weights)
    with pytest.raises(ValueError, match=says) as caught:
        load_longcat(save(tmp_path, weights))
    assert str(caught.value).startswith("model_name: ")


@pytest.mark.parametrize("name", ["diffusion_models/lodestar_tiny_wan21_t2v", "vae/lodestar_tiny_wan_vae",
                                  "loras/lodestar_tiny_longcat_video_lora"])
def test_another_model_s_file_is_refused_by_what_is_in_it(tiny_models, name):
    path = tiny_models / "models" / f"{name}.safetensors"
    first = next(iter(load_file(path)))
    with pytest.raises(ValueError, match="is no LongCat-Video checkpoint") as caught:
        load_longcat(str(path))
    assert first in str(caught.value) and path.name in str(caught.value)


@pytest.mark.parametrize(("share", "says"), [
    (0, "it is no safetensors file: it begins with b''"), (0.0005, "it is cut short within its header"),
    (0.3, r"it is cut short: 511.7 kB of 1.706 MB are here; download it again"), (0.999, "it is cut short: 1.704 MB")])
def test_a_file_cut_anywhere_is_refused(tiny_models, longcat, tmp_path, share, says):
    file = tmp_path / "cut.safetensors"
    shutil.copy(longcat.path(tiny_models, longcat.AVATAR), file)
    cut(file, share)
    with pytest.raises(ValueError, match=f"model_name: cut.safetensors cannot be read: {says}"):
        load_longcat(str(file))


def test_bytes_after_the_end_of_a_file_are_left_out(tiny_models, longcat, tmp_path, caplog):
    """As a download manager or a disk leaves them: said once, and the same model."""
    whole = longcat.path(tiny_models, longcat.AVATAR)
    file = tmp_path / "padded.safetensors"
    file.write_bytes(Path(whole).read_bytes() + bytes(4096))
    assert torch.equal(answer(load_longcat(str(file)), longcat), answer(load_longcat(whole), longcat))
    assert "padded.safetensors: 4.096 kB after the end of its weights are left out" in caplog.text


def test_an_int8_checkpoint_is_not_made_fp8(tiny_models, longcat, monkeypatch):
    path = longcat.path(tiny_models, longcat.INT8)
    with pytest.raises(ValueError, match="weight_dtype: got fp8_e4m3fn, but .* is int8 already; choose default"):
        load_longcat(path, "fp8_e4m3fn")
    import comfy.cli_args
    monkeypatch.setattr(comfy.cli_args.args, "fp8_e4m3fn_unet", True)
    network = load_longcat(path).model.diffusion_model
    assert {parameter.dtype for parameter in network.parameters()} == {torch.int8, torch.float32}
