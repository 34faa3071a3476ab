"""LongCat's LoRA files on weights of every kind: the authors' own outputs, and int8 weights that stay exact."""
import subprocess
import sys
from pathlib import Path

import comfy.ldm.modules.attention
import comfy.lora
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.utils
import golden
import pytest
import torch
from golden_longcat import Dit, as_int8, forward, layers_for
from lib import environment
from lodestar.backbones.longcat.lora import LoraFactors, with_lora
from lodestar.backbones.longcat.model import LongCatModelConfig
from lodestar.backbones.longcat.operations import PackedOperations
from lodestar.networks.longcat.config import AudioConfig, LongCatConfig
from lodestar.networks.longcat.lora import DOT, PREFIX, ordinary
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.longcat.versions import AVATAR_15
from lodestar.networks.packed import state_of
from safetensors.torch import load_file, save_file

FIXTURES = golden.Fixtures(Path(__file__).parents[2] / "golden" / "longcat" / "base_dit")
FILE, CASE = "lora_official_layout.safetensors", "t2v_b1_lora"
HOST = golden.Host(comfy.ops.manual_cast, comfy.ldm.modules.attention.optimized_attention)
CPU = torch.device("cpu")


def patcher(weights, dtype=torch.float32):
    """A MODEL around the fixtures' network, as the loader makes one."""
    config = comfy.supported_models.WAN21_T2V({"disable_unet_model_creation": True})
    model = comfy.model_base.BaseModel(config)
    model.diffusion_model = LongCat(Dit(FIXTURES, HOST).config, layers_for(weights, HOST), HOST.attention,
                                    dtype=dtype).eval()
    model.diffusion_model.load_state_dict(weights)
    return comfy.model_patcher.ModelPatcher(model.requires_grad_(False), CPU, CPU)


@pytest.fixture
def weights():
    return dict(FIXTURES.load("model.safetensors"))


@pytest.fixture
def lora():
    return dict(FIXTURES.load(FILE))


def ask(network, dtype=torch.float32, rounded=False):
    """One call of the golden case; `rounded`: at the timestep that a model in bfloat16 sees."""
    call = FIXTURES.call(CASE)
    timestep = call["timestep"].bfloat16().float() if rounded else call["timestep"]
    with torch.no_grad():
        return forward(network, {**call, "hidden_states": call["hidden_states"].to(dtype), "timestep": timestep}, ())


def answer(model, dtype=torch.float32, lowvram_bytes=0):
    """The same through ComfyUI; `lowvram_bytes` is what the model may keep on the device, 0 all of it."""
    model.patch_model(CPU, lowvram_model_memory=lowvram_bytes)
    return ask(model.model.diffusion_model, dtype)


def expected():
    return FIXTURES.load("outputs.safetensors")["t2v_b1_lora.out"]


def merged(weights, lora, strength, rounded=False):
    """The same network with the delta added to float weights by hand, without ComfyUI."""
    weights, pairs = dict(weights), ordinary(lora, prefix="")
    for name in [name for name in weights if name.endswith(".weight_scale")]:
        scale, name = weights.pop(name), name.removesuffix("_scale")
        weights[name] = weights[name].float() * scale[:, None]
    for name in [name for name in pairs if name.endswith(".lora_up.weight")]:
        path, up = name.removesuffix(".lora_up.weight"), pairs[name]
        delta = pairs[f"{path}.alpha"] / up.shape[1] * up @ pairs[f"{path}.lora_down.weight"]
        weights[f"{path}.weight"] = weights[f"{path}.weight"] + strength * delta
    network = LongCat(Dit(FIXTURES, HOST).config, torch.nn, golden.plain_attention)
    network.load_state_dict(weights)
    return ask(network, rounded=rounded)


def far(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


# ---------------------------------------------------------------- float weights

@pytest.mark.parametrize("lowvram_bytes", [0, 1], ids=["whole", "lowvram"])
def test_the_official_file_gives_the_authors_numbers(weights, lora, lowvram_bytes):
    model = with_lora(patcher(weights), lora, 0.8, FILE)
    torch.testing.assert_close(answer(model, lowvram_bytes=lowvram_bytes), expected(), atol=1e-4, rtol=0)


def test_the_model_that_came_in_is_unchanged_and_loras_add_up(weights, lora):
    model = patcher(weights)
    before = answer(model).clone()
    twice = with_lora(with_lora(model, lora, 0.5, FILE), lora, 0.3, FILE)
    model.unpatch_model(CPU)
    torch.testing.assert_close(answer(twice), expected(), atol=1e-4, rtol=0)
    twice.unpatch_model(CPU)
    assert torch.equal(answer(model), before)


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float8_e4m3fn, 0.1)], ids=str)
def test_low_precision_weights_take_it(weights, lora, dtype, error):
    model = with_lora(patcher(weights, dtype), lora, 0.8, FILE)
    assert far(answer(model, torch.bfloat16), merged(weights, lora, 0.8, rounded=True)) < error


def test_an_ordinary_file_is_the_same(weights, lora):
    model = with_lora(patcher(weights), ordinary(lora), 0.8, "ordinary.safetensors")
    assert torch.equal(answer(model), answer(with_lora(patcher(weights), lora, 0.8, FILE)))


# ---------------------------------------------------------------- int8 weights

@pytest.mark.parametrize("lowvram_bytes", [0, 1], ids=["whole", "lowvram"])
@pytest.mark.parametrize("strength", [0.8, -0.3])
def test_int8_weights_stay_int8_and_the_lora_exact(weights, lora, strength, lowvram_bytes):
    model = with_lora(patcher(state_of(as_int8(weights))), lora, strength, FILE)
    got = answer(model, lowvram_bytes=lowvram_bytes)
    torch.testing.assert_close(got, merged(state_of(as_int8(weights)), lora, strength), atol=1e-5, rtol=0)
    assert model.model.diffusion_model.blocks[0].attn.qkv.weight.dtype == torch.int8


def test_int8_without_a_lora_is_as_it_was(weights, lora):
    model = patcher(state_of(as_int8(weights)))
    before = answer(model).clone()
    model.unpatch_model(CPU)
    patched = with_lora(model, lora, 0.8, FILE)
    changed = answer(patched)
    patched.unpatch_model(CPU)
    assert far(changed, before) > 1e-3
    assert torch.equal(answer(model), before)


def test_the_smallest_lora_survives_on_int8(weights, lora):
    """Rounded back to int8 a delta far below one step would vanish, or come back as noise."""
    model, strength = patcher(state_of(as_int8(weights))), 1e-3
    before = answer(model).clone()
    model.unpatch_model(CPU)
    got = answer(with_lora(model, lora, strength, FILE)) - before
    wanted = merged(state_of(as_int8(weights)), lora, strength) - merged(state_of(as_int8(weights)), lora, 0.0)
    assert far(got, wanted) < 0.05


def test_int8_in_bfloat16_is_only_rounding(weights, lora):
    model = with_lora(patcher(state_of(as_int8(weights)), torch.bfloat16), lora, 0.8, FILE)
    assert far(answer(model, torch.bfloat16), merged(state_of(as_int8(weights)), lora, 0.8, rounded=True)) < 0.02


@pytest.mark.parametrize("lowvram_bytes", [0, 1], ids=["whole", "lowvram"])
def test_cores_own_patches_on_int8_are_exact_too(weights, lora, lowvram_bytes):
    model = patcher(state_of(as_int8(weights)))
    before = answer(model).clone()
    model.unpatch_model(CPU)
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    patched = model.clone()
    patched.add_patches(comfy.lora.load_lora(ordinary(lora), keys), 0.8)
    got = answer(patched, lowvram_bytes=lowvram_bytes)
    torch.testing.assert_close(got, merged(state_of(as_int8(weights)), lora, 0.8), atol=1e-5, rtol=0)
    patched.unpatch_model(CPU)
    assert torch.equal(answer(model), before)


def test_core_s_dynamic_loading_adds_a_lora_behind_the_scales_too(weights, lora):
    """What ComfyUI 0.33 sets on a layer when it streams weights, and reads back: it must not touch the int8 rows."""
    model = patcher(state_of(as_int8(weights)))
    layer, key = model.model.diffusion_model.blocks[0].attn.qkv, "diffusion_model.blocks.0.attn.qkv.weight"
    patches = {key: [(0.8, comfy.lora.load_lora(ordinary(lora), {key.removesuffix(".weight"): key})[key], 1.0, None,
                      None)]}
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    plain = layer(x)
    layer.weight_lowvram_function = comfy.model_patcher.LowVramPatch(key, patches)
    layer.weight_function = []
    assert layer.weight_lowvram_function is None
    pairs = ordinary(lora, prefix="")
    up, down = (pairs[f"blocks.0.attn.qkv.lora_{part}.weight"] for part in ("up", "down"))
    delta = 0.8 * pairs["blocks.0.attn.qkv.alpha"] / len(down) * x @ down.T @ up.T
    torch.testing.assert_close(layer(x), plain + delta, atol=1e-5, rtol=0)
    layer.weight_lowvram_function = None
    layer.weight_function = []
    assert torch.equal(layer(x), plain)


def test_the_official_pair_of_int8_and_lora_through_the_loader(tiny_models, longcat):
    """Avatar 1.5 int8 with its LoRA, sampled, against the same weights put together by hand in float32."""
    model = longcat.load(tiny_models, longcat.INT8)
    lora = load_file(tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors")
    network, pairs = longcat.headless(model), ordinary(lora, prefix="")
    for name in [name for name in pairs if name.endswith(".lora_up.weight")]:
        path, up = name.removesuffix(".lora_up.weight"), pairs[name]
        delta = pairs[f"{path}.alpha"] / up.shape[1] * up @ pairs[f"{path}.lora_down.weight"]
        network.get_submodule(path).weight += delta
    without, said = longcat.sample(model, longcat.prompt(model)), longcat.speech(model)
    patched = with_lora(model, lora, 1.0, "lora")
    got = longcat.sample(patched, longcat.prompt(model))
    assert any(isinstance(loaded.model, LoraFactors) for loaded in comfy.model_management.loaded_models())
    wanted = longcat.euler(model, lambda x, sigma: longcat.velocity(network, x, sigma, audio=said))
    assert far(got, wanted) < 0.03 < 0.1 < far(got, without)


def test_comfyui_counts_and_loads_the_factors(weights, lora):
    """A model beside the model, as large as the file: core's book-keeping has every byte, whichever way it loads."""
    model = with_lora(patcher(state_of(as_int8(weights))), lora, 0.8, FILE)
    beside, = model.get_nested_additional_models()
    assert beside.model_size() == sum(part.nbytes for part in lora.values() if part.ndim == 2)
    comfy.model_management.load_models_gpu([beside])
    assert comfy.model_management.loaded_models().count(beside) == 1
    twice = with_lora(model, lora, 0.1, FILE)
    assert len(twice.get_nested_additional_models()) == 2 and len(model.get_nested_additional_models()) == 1


def official_file(config, dtype=torch.float32):
    """The tensors of the authors' distilled files, without values: rank 128, a down matrix for each part."""
    parts = {"attn.qkv": (3, config.hidden, config.hidden), "attn.proj": (1, config.hidden, config.hidden),
             "cross_attn.q_linear": (1, config.hidden, config.hidden),
             "cross_attn.kv_linear": (2, config.hidden, config.hidden), "ffn.w1": (1, config.ffn, config.hidden),
             "ffn.w2": (1, config.hidden, config.ffn), "ffn.w3": (1, config.ffn, config.hidden)}
    file = {}
    for path, (count, rows, width) in parts.items():
        for layer_name in (f"{PREFIX}blocks.{block}.{path}".replace(".", DOT) for block in range(config.depth)):
            ups = ["weight"] if count == 1 else [f"blocks.{part}.weight" for part in range(count)]
            file |= {f"{layer_name}.lora_up.{up}": torch.empty(rows, 128, dtype=dtype, device="meta") for up in ups}
            file |= {f"{layer_name}.lora_down.weight": torch.empty(128 * count, width, dtype=dtype, device="meta"),
                     f"{layer_name}.alpha_scale": torch.tensor(0.5)}
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_official_file_takes_1_26_gb_beside_int8(dtype):
    """2.52 GB in the file, which is float32; in one block-diagonal pair a layer it would be 3.33 GB."""
    config = LongCatModelConfig(LongCatConfig(audio=AudioConfig(6400)), AVATAR_15, PackedOperations)
    config.set_inference_dtype(torch.bfloat16, None)
    model = comfy.model_patcher.ModelPatcher(config.get_model({}, device=torch.device("meta")), CPU, CPU)
    file = official_file(model.model.diffusion_model.config, dtype)
    beside, = with_lora(model, file, 1.0, FILE).get_nested_additional_models()
    assert sum(part.nbytes for part in file.values()) * 2 // dtype.itemsize == pytest.approx(1.2615e9, rel=1e-3)
    assert beside.model_size() == pytest.approx(1.2615e9, rel=1e-3)
    assert {factor.dtype for factor in beside.model.parameters()} == {torch.bfloat16}


def test_factors_are_brought_in_the_dtype_of_the_call(weights, lora):
    """No second copy of them a call: the cast that ComfyUI makes on the way gives back the very tensor."""
    model = with_lora(patcher(state_of(as_int8(weights)), torch.bfloat16), lora, 0.8, FILE)
    factors = list(model.get_nested_additional_models()[0].model.factors)
    held = [comfy.ops.cast_bias_weight(factor, device=CPU, dtype=torch.bfloat16)[0] for factor in factors]
    assert [tensor.data_ptr() for tensor in held] == [factor.weight.data_ptr() for factor in factors]


# ---------------------------------------------------------------- refusals

def test_a_lora_of_another_model_is_refused(weights, lora):
    other = {name.replace(f"{PREFIX}blocks", f"{PREFIX}layers"): tensor for name, tensor in lora.items()
             if name.startswith(f"{PREFIX}blocks")}
    with pytest.raises(ValueError, match=r"other.safetensors: got keys such as .*layers.* no layer of this model fits"):
        with_lora(patcher(weights), other, 1.0, "other.safetensors")


def test_a_lora_of_another_size_is_refused_with_both_sizes(weights, lora):
    wider = {name: torch.cat([tensor, tensor], -1) if name.endswith("lora_down.weight") else tensor
             for name, tensor in lora.items()}
    with pytest.raises(ValueError, match=r"big: got diffusion_model\.\S+ of 64 x 40 \(the model's is 64 x 20\)"):
        with_lora(patcher(weights), {name: wider[name] for name in wider if "final_layer" in name and "adaLN" in name},
                  1.0, "big")


def test_what_fits_in_part_is_named_in_the_log(weights, lora, caplog):
    name = f"{PREFIX}blocks___lorahyphen___0___lorahyphen___attn___lorahyphen___proj"
    lora[f"{name}.lora_down.weight"] = torch.zeros(4, 7)
    extra = f"{PREFIX}blocks___lorahyphen___9___lorahyphen___attn___lorahyphen___proj"
    for part in ("lora_down.weight", "lora_up.weight", "alpha_scale"):
        lora[f"{extra}.{part}"] = lora[f"{name}.{part}"]
    with_lora(patcher(weights), lora, 1.0, "half.safetensors")
    assert "half.safetensors: 1 of" in caplog.text and "diffusion_model.blocks.0.attn.proj.weight" in caplog.text
    assert "diffusion_model.blocks.9.attn.proj.lora_up.weight" in caplog.text


def test_a_scheduled_lora_on_int8_is_refused(weights):
    layer = patcher(state_of(as_int8(weights))).model.diffusion_model.blocks[0].attn.qkv
    with pytest.raises(ValueError, match="quantised weights: a LoRA that is scheduled by hooks"):
        layer.set_weight(torch.zeros(192, 64), inplace_update=True, seed=0)


# ---------------------------------------------------------------- the converter

def convert(source, target):
    script = environment.PACK / "scripts" / "convert_longcat_lora.py"
    return subprocess.run([sys.executable, str(script), str(source), str(target)], capture_output=True, text=True)


def test_cores_lora_loader_takes_the_converted_file(base, weights, lora, tmp_path):
    """The same difference on every weight, through LoraLoaderModelOnly."""
    import nodes
    target = base / "models" / "loras" / "converted.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    done = convert(FIXTURES.folder / FILE, target)
    assert done.returncode == 0 and "layers" in done.stdout, done.stderr
    ours = with_lora(patcher(weights), lora, 0.8, FILE)
    theirs = nodes.LoraLoaderModelOnly().load_lora_model_only(patcher(weights), "converted.safetensors", 0.8)[0]
    assert len(theirs.patches) == len(ours.patches) > 0
    torch.testing.assert_close(answer(theirs), expected(), atol=1e-4, rtol=0)
    answer(ours)
    for name, weight in theirs.model.state_dict().items():
        assert torch.equal(weight, ours.model.state_dict()[name]), name


def test_the_converter_refuses_in_one_line(tmp_path):
    save_file({"diffusion_model.a.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "ordinary.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((FIXTURES.folder / FILE).read_bytes()[:5000])
    for source, says in [("ordinary", "wanted the official LongCat layout"), ("cut", "cut.safetensors: "),
                         ("nothing", "no such file")]:
        refused = convert(tmp_path / f"{source}.safetensors", tmp_path / "out.safetensors")
        assert refused.returncode == 1 and says in refused.stderr and "Traceback" not in refused.stderr
        assert not list(tmp_path.glob("out*"))
    before = (tmp_path / "cut.safetensors").read_bytes()
    assert "new .safetensors file" in convert(FIXTURES.folder / FILE, tmp_path / "cut.safetensors").stderr
    assert (tmp_path / "cut.safetensors").read_bytes() == before


def test_the_file_keeps_its_own_alpha(lora, tmp_path):
    convert(FIXTURES.folder / FILE, tmp_path / "out.safetensors")
    pairs = load_file(tmp_path / "out.safetensors")
    path = "diffusion_model.blocks.0.attn.qkv"
    scale = lora[f"{PREFIX}blocks___lorahyphen___0___lorahyphen___attn___lorahyphen___qkv.alpha_scale"]
    assert pairs[f"{path}.alpha"] / pairs[f"{path}.lora_down.weight"].shape[0] == scale
