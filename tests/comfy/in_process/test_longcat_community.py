"""Community files of LongCat on a real ComfyUI: scaled fp8, ComfyUI's own marks, GGUF; official names and Wan's.

The expected outputs are those of the same network with every weight unpacked by hand: equal to the last bit in float32.
"""
import itertools
import json

import comfy.model_management
import pytest
import take_values
import tiny_gguf
import torch
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.longcat.lora import with_lora
from lodestar.backbones.longcat.operations import PackedLinear
from lodestar.networks.longcat.lora import parts_of
from lodestar.nodes import load_longcat as node
from safetensors.torch import load_file, safe_open, save_file

pytestmark = pytest.mark.once

SPLIT = {"attn.qkv": ("self_attn", "qkv"), "cross_attn.kv_linear": ("cross_attn", "kv")}
WAN = {"x_embedder.proj.": "patch_embedding.", "y_embedder.y_proj.": "text_embedding.",
       "t_embedder.": "time_embedding.", "audio_proj.": "multitalk_audio_proj.",
       "final_layer.linear.": "head.head.",
       "final_layer.adaLN_modulation.": "head.modulation.", "audio_adaLN_modulation.": "audio_modulation.",
       "adaLN_modulation.": "modulation.", ".attn.proj.": ".self_attn.o.", ".attn.q_norm.": ".self_attn.norm_q.",
       ".attn.k_norm.": ".self_attn.norm_k.", ".cross_attn.q_linear.": ".cross_attn.q.",
       ".cross_attn.proj.": ".cross_attn.o.", ".cross_attn.q_norm.": ".cross_attn.norm_q.",
       ".cross_attn.k_norm.": ".cross_attn.norm_k.", "pre_crs_attn_norm.": "norm3.",
       "pre_video_crs_attn_norm.": "norm_x."}


@pytest.fixture
def weights(tiny_models, longcat):
    return {name: tensor.float() for name, tensor in load_file(longcat.path(tiny_models, longcat.AVATAR15)).items()}


@pytest.fixture
def config(tiny_models, longcat):
    with safe_open(longcat.path(tiny_models, longcat.AVATAR15), "pt") as file:
        return file.metadata()["config"]


def with_wan_names(weights):
    """The layers as WanVideoWrapper calls them: q, k and v apart."""
    found = {}
    for name, tensor in weights.items():
        for whole, (attention, letters) in SPLIT.items():
            if f".{whole}." in name and "audio" not in name:
                prefix, ending = name.split(f"{whole}.")
                found |= {f"{prefix}{attention}.{letter}.{ending}": part
                          for letter, part in zip(letters, tensor.chunk(len(letters)), strict=True)}
                break
        else:
            old = next((old for old in WAN if old in name and "audio_cross_attn" not in name), "")
            found[name.replace(old, WAN[old]) if old else name] = tensor
    return found


def with_official_names(weights):
    return weights


NAMES = {"official names": with_official_names, "Wan's names": with_wan_names}


def matrix(name, tensor):
    return tensor.ndim == 2 and "head.head" not in name and "final_layer.linear" not in name


def answer(model, longcat):
    """What the network says, through ComfyUI's own patching."""
    model.patch_model(torch.device("cpu"))
    with torch.inference_mode():
        return model.model.diffusion_model(longcat.noise(), torch.tensor([700.0]), longcat.text(),
                                           audio=longcat.speech(model))


def save(path, weights, config, **metadata):
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path,
              metadata={"config": config, **metadata})
    return str(path)


# ---------------------------------------------------------------- scaled rows

def quantised(tensor, dtype, rows):
    """(packed, scale, the values it stands for)."""
    most = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    scale = tensor.abs().amax(1, keepdim=True) / most if rows else tensor.abs().max() / most
    packed = (tensor / scale).round().to(dtype) if dtype == torch.int8 else (tensor / scale).to(dtype)
    return packed, scale.squeeze(-1) if rows else scale, packed.float() * scale


def marked(dtype):
    mark = {"format": {torch.int8: "int8_tensorwise"}.get(dtype, str(dtype).removeprefix("torch."))}
    return torch.tensor(list(json.dumps(mark).encode()), dtype=torch.uint8)


def scaled_fp8(weights, dtype, rows=False):
    """A marker, X.scale_weight beside every matrix, and a scale of inputs here and there."""
    found, numbers = {"scaled_fp8": torch.zeros(2, dtype=dtype)}, {}
    for name, tensor in weights.items():
        found[name] = numbers[name] = tensor
        if matrix(name, tensor):
            layer = name.removesuffix(".weight")
            found[name], found[f"{layer}.scale_weight"], numbers[name] = quantised(tensor, dtype, rows)
            found |= {f"{layer}.scale_input": torch.tensor(0.3)} if ".w2" in name else {}
    return found, numbers, {}


def comfy_quant(weights, dtype, rows=False):
    """X.weight_scale and X.comfy_quant."""
    found, numbers, _ = scaled_fp8(weights, dtype, rows)
    found.pop("scaled_fp8")
    layers = [name.removesuffix(".scale_weight") for name in found if name.endswith(".scale_weight")]
    for layer in layers:
        found |= {f"{layer}.weight_scale": found.pop(f"{layer}.scale_weight"), f"{layer}.comfy_quant": marked(dtype)}
    return found, numbers, {}


def listed(weights, dtype, rows=False):
    """X.weight_scale, and the layers in the file's metadata."""
    found, numbers, _ = comfy_quant(weights, dtype, rows)
    layers = {name.removesuffix(".comfy_quant"): json.loads(bytes(found.pop(name).tolist()))
              for name in list(found) if name.endswith(".comfy_quant")}
    return found, numbers, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def authors_int8(weights, dtype, rows=True):
    found, numbers = {}, {}
    for name, tensor in weights.items():
        found[name] = numbers[name] = tensor
        if matrix(name, tensor):
            found[f"{name}_int8"], found[f"{name}_scale"], numbers[name] = quantised(found.pop(name), dtype, True)
    return found, numbers, {}


E4, E5 = torch.float8_e4m3fn, torch.float8_e5m2
PACKINGS = {"scaled_fp8 e4m3fn": (scaled_fp8, E4, False), "scaled_fp8 e5m2": (scaled_fp8, E5, False),
            "a scale for each row": (scaled_fp8, E4, True), "comfy_quant e4m3fn": (comfy_quant, E4, False),
            "comfy_quant int8": (comfy_quant, torch.int8, True), "listed in the metadata": (listed, E4, False),
            "the authors' int8": (authors_int8, torch.int8, True)}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("packing", PACKINGS)
def test_scaled_rows_are_the_unpacked_network(tmp_path, weights, config, longcat, packing, names):
    pack, dtype, rows = PACKINGS[packing]
    found, numbers, metadata = pack(NAMES[names](weights), dtype, rows)
    model = load_longcat(save(tmp_path / "packed.safetensors", found, config, **metadata))
    exact = load_longcat(save(tmp_path / "exact.safetensors", numbers, config))
    assert torch.equal(answer(model, longcat), answer(exact, longcat))
    layers = dict(model.model.diffusion_model.named_modules())
    assert all(layers[f"blocks.1.{path}"].weight.dtype == dtype for path in ("attn.qkv", "ffn.w2", "cross_attn.proj"))
    assert layers["final_layer.linear"].weight.dtype == torch.float32


def test_every_weight_of_a_wan_named_file_finds_its_place(tmp_path, weights, config):
    renamed = with_wan_names(weights)
    assert len(renamed) == len(weights) + 2 * 2 * (2 + 1) and not set(renamed) & {n for n in weights if "attn.qkv" in n}
    state = load_longcat(save(tmp_path / "wan.safetensors", renamed, config)).model.diffusion_model.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[name], weights[name]) for name in weights)


def test_what_cannot_stay_packed_is_unpacked_when_it_is_loaded(tmp_path, weights, config):
    """A convolution, and a layer of which k alone is plain; that one keeps 16 bits."""
    renamed = with_wan_names(weights)
    found, numbers, _ = scaled_fp8(renamed, E4)
    conv, k = "patch_embedding.weight", "blocks.0.self_attn.k."
    found[conv], found["patch_embedding.scale_weight"], numbers[conv] = quantised(renamed[conv], E4, False)
    found[f"{k}weight"] = renamed[f"{k}weight"]
    found.pop(f"{k}scale_weight")
    network = load_longcat(save(tmp_path / "w.safetensors", found, config)).model.diffusion_model
    assert torch.equal(network.x_embedder.proj.weight, numbers[conv])
    q, v = (numbers[f"blocks.0.self_attn.{letter}.weight"] for letter in "qv")
    assert torch.equal(network.blocks[0].attn.qkv.weight, torch.cat([q, renamed[f"{k}weight"], v]).bfloat16().float())
    assert network.blocks[1].attn.qkv.weight.dtype == E4


def test_a_part_that_is_missing_is_named(tmp_path, weights, config):
    renamed = with_wan_names(weights)
    renamed.pop("blocks.1.self_attn.k.weight")
    with pytest.raises(ValueError, match="w.safetensors cannot be read: the weights lack self_attn.k beside"):
        load_longcat(save(tmp_path / "w.safetensors", renamed, config))


@pytest.mark.parametrize(("change", "says"), [
    (lambda found: found.update({"blocks.0.ffn.w1.comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}'),
                                                                            dtype=torch.uint8)}),
     "blocks.0.ffn.w1 is packed as nvfp4, which is not read here"),
    (lambda found: found.update({"blocks.0.ffn.w1.weight_scale": torch.ones(3)}),
     r"blocks.0.ffn.w1 has scales of shape \(3,\) for 256 rows, wanted one, or one for each row"),
    (lambda found: found.update({"blocks.0.ffn.w1.comfy_quant": torch.tensor(
        list(b'{"format": "int8_tensorwise", "convrot": true}'), dtype=torch.uint8)}),
     "blocks.0.ffn.w1 is packed as int8_tensorwise with rotation")])
def test_packings_that_are_not_read_are_refused_by_name(tmp_path, weights, config, change, says):
    found, _, _ = comfy_quant(weights, E4)
    change(found)
    with pytest.raises(ValueError, match=f"model_name: p.safetensors cannot be read: {says}"):
        load_longcat(save(tmp_path / "p.safetensors", found, config))


def test_a_scaled_file_is_not_made_fp8_again(tmp_path, weights, config):
    found, _, _ = scaled_fp8(weights, E4)
    path = save(tmp_path / "packed.safetensors", found, config)
    with pytest.raises(ValueError, match="weight_dtype: got fp8_e5m2, but packed.safetensors is float8_e4m3fn already"):
        load_longcat(path, "fp8_e5m2")


# ---------------------------------------------------------------- GGUF

def gguf_of(weights):
    """Every matrix in one of the types of the longest blocks that fit its rows, in turn; convolutions in F16."""
    stored = {}
    turns = {256: itertools.cycle(["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]),
             32: itertools.cycle(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])}
    for name, tensor in weights.items():
        if tensor.ndim == 1 or name.startswith(("head.head", "final_layer.linear")):
            stored[name] = tiny_gguf.plain(tensor)
        elif tensor.ndim > 2:
            stored[name] = tiny_gguf.plain(tensor, "F16")
        else:
            turn = next((turns[length] for length in turns if tensor.shape[1] % length == 0), None)
            stored[name] = tiny_gguf.drawn(next(turn), tuple(tensor.shape)) if turn else tiny_gguf.plain(tensor, "BF16")
    return stored


def exact_file(path, stored, config):
    return save(path, {name: weight.numbers for name, weight in stored.items()}, config)


@pytest.mark.parametrize("names", NAMES)
def test_a_gguf_file_is_the_unpacked_network(tmp_path, weights, config, longcat, names):
    stored = gguf_of(NAMES[names](weights))
    assert len({weight.kind for weight in stored.values()} - {"F32", "F16", "BF16"}) == 10
    path = tiny_gguf.write_gguf(tmp_path / "model.gguf", stored, {"config": config})
    model, exact = load_longcat(str(path)), load_longcat(exact_file(tmp_path / "e.safetensors", stored, config))
    got = answer(model, longcat)
    assert got.isfinite().all() and torch.equal(got, answer(exact, longcat))
    kept = sum(layer.weight.nbytes for layer in model.model.diffusion_model.modules()
               if isinstance(layer, PackedLinear) and layer.weight.dtype == torch.uint8)
    assert kept == sum(len(weight.data) for weight in stored.values() if weight.kind.startswith("Q"))


def test_the_node_lists_and_loads_gguf_files(base, weights, config):
    path = base / "models" / "diffusion_models" / "more" / "tiny-Q4_K_M.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    tiny_gguf.write_gguf(path, gguf_of(weights), {"config": config})
    try:
        assert "more/tiny-Q4_K_M.gguf" in [name.replace("\\", "/") for name in node.model_names()]
        model = node.LodestarLoadLongCat.execute("more/tiny-Q4_K_M.gguf", "default", "off").result[0]
        assert model.model.version.name == "LongCat-Avatar 1.5"
    finally:
        path.unlink()


# ---------------------------------------------------------------- LoRA and memory

def packed_file(kind, tmp_path, weights, config):
    """(a packed file, the same unpacked)."""
    if kind == "gguf":
        stored = gguf_of(with_wan_names(weights))
        return (str(tiny_gguf.write_gguf(tmp_path / "m.gguf", stored, {"config": config})),
                exact_file(tmp_path / "e.safetensors", stored, config))
    found, numbers, _ = scaled_fp8(weights, E4)
    return save(tmp_path / "p.safetensors", found, config), save(tmp_path / "e.safetensors", numbers, config)


@pytest.mark.parametrize("kind", ["scaled fp8", "gguf"])
def test_a_lora_on_packed_weights_is_exact(tmp_path, tiny_models, weights, config, longcat, kind):
    packed, exact = packed_file(kind, tmp_path, weights, config)
    lora = load_file(tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors")
    model = load_longcat(packed)
    without = answer(model, longcat)
    model.unpatch_model(torch.device("cpu"))
    got = answer(with_lora(model, lora, 0.8, "lora"), longcat)
    wanted = answer(with_lora(load_longcat(exact), lora, 0.8, "lora"), longcat)
    assert (got - wanted).norm() < 1e-5 * wanted.norm() and (got - without).norm() > 1e-4 * wanted.norm()


@pytest.mark.parametrize("file", ["AVATAR15", "INT8"])
def test_a_lora_with_wan_s_names_is_the_official_one(tiny_models, longcat, file):
    """q, k and v are rows of one layer, on plain and on packed weights."""
    lora = load_file(tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors")
    named = {}
    for path, parts in parts_of(lora).items():
        for name, part in zip(wan_layers(path), parts, strict=True):
            layer = f"diffusion_model.{name}"
            named |= {f"{layer}.lora_down.weight": part.down, f"{layer}.lora_up.weight": part.up,
                      f"{layer}.alpha": part.alpha}
    assert any(".self_attn.k." in name for name in named) and any(".cross_attn.v." in name for name in named)
    got, wanted = (answer(with_lora(longcat.load(tiny_models, getattr(longcat, file)), weights, 0.8, "lora"), longcat)
                   for weights in (named, lora))
    assert torch.equal(got, wanted)


def wan_layers(path):
    """The layers of a Wan-named file that one official layer is, by renaming a weight of as many rows."""
    return [name.removesuffix(".weight") for name in with_wan_names({f"{path}.weight": torch.zeros(6, 1)})]


def test_packed_weights_count_as_what_they_take(tmp_path, weights, config):
    stored = gguf_of(weights)
    model = load_longcat(str(tiny_gguf.write_gguf(tmp_path / "m.gguf", stored, {"config": config})))
    plain = sum(weight.numbers.nbytes for weight in stored.values() if not weight.kind.startswith("Q"))
    packed = sum(len(weight.data) for weight in stored.values() if weight.kind.startswith("Q"))
    tables = sum(16 for weight in stored.values() if weight.kind.startswith("Q"))
    assert comfy.model_management.module_size(model.model.diffusion_model) == plain + packed + tables


def test_a_packed_model_and_its_lora_count_by_value(tmp_path, tiny_models, weights, config, longcat):
    """Loaded again they are the same, after a run as well; another strength or file is another model."""
    packed, exact = packed_file("gguf", tmp_path, weights, config)
    lora = load_file(tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors")
    half = {name: part / 2 if "lora_up" in name else part for name, part in lora.items()}
    made = [load_longcat(packed), load_longcat(exact), longcat.load(tiny_models, longcat.INT8)]
    made += [with_lora(made[0], lora, 0.8, "lora"), with_lora(made[0], lora, 0.4, "lora"),
             with_lora(made[0], half, 0.8, "lora")]
    digests = [take_values.digest(model) for model in made]
    assert len(set(digests)) == len(made)
    again = with_lora(load_longcat(packed), lora, 0.8, "lora")
    assert take_values.digest(again) == digests[3]
    longcat.sample(again, longcat.prompt(again))
    assert take_values.digest(again) == digests[3]
