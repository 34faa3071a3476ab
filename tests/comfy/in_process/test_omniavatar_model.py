"""OmniAvatar as a ComfyUI MODEL: the authors' outputs, through the network alone and through loader and sampler; files
that belong to something else."""
from pathlib import Path

import comfy.latent_formats
import comfy.ldm.modules.attention
import comfy.ops
import comfy.samplers
import golden
import golden_omniavatar
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler
from lib import environment
from lodestar.backbones.omniavatar import loader
from lodestar.backbones.omniavatar.model import AUDIO
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "omniavatar"
HOST = golden.Host(comfy.ops.manual_cast, comfy.ldm.modules.attention.optimized_attention,
                   comfy.latent_formats.Wan21())
OMNI = golden_omniavatar.OmniAvatar(golden.Fixtures(FOLDER), HOST)
ON_WAN = [name for name in OMNI.cases() if name.startswith(("dit", "lora_case", "sample"))]
LATENTS = comfy.latent_formats.Wan21()


@pytest.fixture(scope="module")
def theirs(omni, tmp_path_factory, comfyui_version):
    if comfyui_version == environment.FLOOR:
        pytest.skip("it reads the number of heads from the width alone, and theirs are narrower")
    return omni.of_fixture(OMNI, tmp_path_factory.mktemp("omniavatar"))


@pytest.fixture(scope="module")
def model(omni, tiny_models):
    return omni.load(tiny_models)


@pytest.mark.parametrize("name", ON_WAN)
def test_a_golden_case(name):
    with torch.no_grad():
        result = golden.judge(name, OMNI.cases()[name]())
    assert result.passed, result.row(0)


# ---------------------------------------------------------------- loader and sampler

@pytest.mark.parametrize(("name", "cfg"), [("c0", 4.5), ("c1", 4.5), ("c1_nocfg", 1.0)])
def test_a_sampler_s_run_of_loaded_files_has_the_authors_latents(omni, theirs, name, cfg):
    """Noise mask, reference, speech, guidance and schedule as core's nodes hand them over."""
    case, (inputs, *_, given) = OMNI.load("sample.safetensors"), golden_omniavatar.LOOPS[name]
    latent, mask = LATENTS.process_out(case[f"{name}.lat"]), torch.ones(1, 1, 4, 8, 12)
    mask[:, :, :given] = 0
    values = {"reference_latents": [LATENTS.process_out(case[f"y_{inputs}"][:, :16, :1])]}
    positive = [[case["context"], {**values, AUDIO: omni.audio_condition(case[f"audio_{inputs}"])}]]
    made = omni.sample(theirs, case["noise"], positive, [[case["negative_context"], values]], cfg=cfg, steps=4,
                       latent=latent, mask=mask)
    result = golden.judge(name, {"latents": (LATENTS.process_in(made), case[f"{name}.latents"])})
    assert result.passed, result.row(0)


@pytest.mark.parametrize("steps", [4, 25, 50])
def test_core_s_simple_schedule_is_the_authors(model, steps):
    expected = OMNI.load("scheduler.safetensors")[f"sigmas.n{steps}.shift5"]
    sigmas, = BasicScheduler.execute(model, "simple", steps, 1.0).args
    assert torch.allclose(sigmas[:-1], expected, atol=1e-6) and sigmas[-1] == 0


def test_strength_scales_the_lora_alone(omni, tiny_models, model):
    """Half of it is half of each pair; speech and patch embedding stay whole."""
    path = "diffusion_model.blocks.3.self_attn.q.weight"
    published = loader.read(omni.paths(tiny_models)[1])
    down, up = published.pairs["blocks.3.self_attn.q"]
    base = load_file(omni.paths(tiny_models)[0])["blocks.3.self_attn.q.weight"]
    for strength, loaded in ((1.0, model), (0.5, omni.load(tiny_models, strength=0.5))):
        state = loaded.model.state_dict()
        assert torch.allclose(state[path], base + strength * 0.5 * up @ down, atol=1e-6)
        assert torch.equal(state["diffusion_model.audio_proj.proj.weight"], published.whole["audio_proj.proj.weight"])


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_float_8_weights_take_the_lora_too(omni, tiny_models, model, weight_dtype):
    coarse = omni.sample(omni.load(tiny_models, weight_dtype=weight_dtype), omni.noise(), omni.prompt())
    fine = omni.sample(model, omni.noise(), omni.prompt())
    assert 0 < (coarse - fine).norm() / fine.norm() < 0.3


def test_a_base_in_scaled_float_8_loads(omni, tiny_models, model, tmp_path):
    """As Comfy-Org publishes it: a marker, and a scale beside each large matrix."""
    base, file = omni.paths(tiny_models)
    weights = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    for name, weight in load_file(base).items():
        if name.startswith("blocks.") and weight.ndim == 2:
            scale = weight.abs().amax() / 448
            weights[name.replace(".weight", ".scale_weight")], weight = scale, (weight / scale).to(torch.float8_e4m3fn)
        weights[name] = weight
    save_file(weights, tmp_path / "base.safetensors")
    coarse = omni.sample(loader.load_omniavatar(tmp_path / "base.safetensors", file), omni.noise(), omni.prompt())
    fine = omni.sample(model, omni.noise(), omni.prompt())
    assert 0 < (coarse - fine).norm() / fine.norm() < 0.1


# ---------------------------------------------------------------- conditioning

def test_speech_and_reference_and_mask_each_count(omni, model):
    plain, latent = omni.sample(model, omni.noise(), omni.prompt()), omni.random(1, 16, 5, *omni.SIZE, seed=8)
    mask = torch.ones(1, 1, 5, *omni.SIZE)
    mask[:, :, :2] = 0
    others = {"speech": omni.sample(model, omni.noise(), omni.prompt(**{AUDIO: omni.speech(seed=6)})),
              "silence": omni.sample(model, omni.noise(), omni.prompt(**{AUDIO: None})),
              "reference": omni.sample(model, omni.noise(), omni.prompt(
                  reference_latents=[omni.random(1, 16, 1, *omni.SIZE, seed=9)])),
              "known frames": omni.sample(model, omni.noise(), omni.prompt(), latent=latent, mask=mask)}
    assert all((other - plain).abs().max() > 1e-3 for other in others.values())
    assert torch.allclose(others["known frames"][:, :, :2], latent[:, :, :2], atol=1e-5)


def test_conditions_of_a_batch_do_not_mix(omni, model):
    """Positive and negative go in one call; speech of each goes to its own."""
    negative = omni.prompt(seed=4, **{AUDIO: None})
    one, other = (omni.sample(model, omni.noise(), conds, steps=1) for conds in (omni.prompt(), negative))
    both = omni.sample(model, omni.noise(), omni.prompt(), negative, cfg=3.0, steps=1)
    assert torch.allclose(both, other + 3.0 * (one - other), atol=1e-3)


@pytest.mark.parametrize(("values", "says"), [
    ({"reference_latents": None}, "a picture talk, and none came"),
    ({"reference_latents": [torch.zeros(1, 16, 1, 4, 8)]}, "got a latent of 16 channels, 8x4, wanted 16, 8x8"),
    ({"reference_latents": [torch.zeros(1, 48, 1, 8, 8)]}, "reference: got a latent of 48 channels"),
    ({AUDIO: torch.zeros(1, 3584, 4, 1, 1)}, "got 3584 numbers for each of 4 latents, wanted 3584 for each of 5"),
    ({AUDIO: torch.zeros(1, 12, 5, 1, 1)}, "got 12 numbers")],
    ids=["no reference", "other size", "other VAE", "too short", "other encoder"])
def test_conditioning_that_does_not_fit_is_refused(omni, model, values, says):
    with pytest.raises(ValueError, match=says):
        omni.sample(model, omni.noise(), omni.prompt(**values))


# ---------------------------------------------------------------- files

def test_a_checkpoint_s_prefix_and_safetensors_load_alike(omni, tiny_models, model, tmp_path):
    base, file = omni.paths(tiny_models)
    save_file({f"model.diffusion_model.{name}": weight for name, weight in load_file(base).items()},
              tmp_path / "base.safetensors")
    save_file(torch.load(file, weights_only=True), tmp_path / "omniavatar.safetensors")
    again = loader.load_omniavatar(tmp_path / "base.safetensors", tmp_path / "omniavatar.safetensors")
    assert torch.equal(omni.sample(again, omni.noise(), omni.prompt()), omni.sample(model, omni.noise(), omni.prompt()))


@pytest.mark.parametrize(("base", "file", "says"), [
    ("omniavatar_wan21_t2v", "wan21_t2v", "omniavatar_name: lodestar_tiny_wan21_t2v.safetensors is not OmniAvatar's"),
    ("wan21_t2v", "omniavatar", "the base is 128 wide with 2 blocks, OmniAvatar's file is 128 wide with speech in 2"),
    ("wan21_i2v", "omniavatar", "the base takes 36 channels, wanted 16: Wan 2.1 text-to-video"),
    ("longcat_video", "omniavatar", "base_name, omniavatar_name: lodestar_tiny_longcat_video.safetensors and "),
    ("omniavatar_wan21_t2v", "longcat_video", "omniavatar_name: lodestar_tiny_longcat_video.safetensors is not")])
def test_files_of_something_else_are_refused(tiny_models, base, file, says):
    folder = tiny_models / "models" / "diffusion_models"
    found = {path.stem: path for path in folder.iterdir()}
    with pytest.raises(ValueError, match=says):
        loader.load_omniavatar(found[f"lodestar_tiny_{base}"], found[f"lodestar_tiny_{file}"])


def test_files_cut_short_and_code_in_a_file_are_refused(omni, tiny_models, tmp_path):
    base, file = omni.paths(tiny_models)
    weights = load_file(base)
    del weights["blocks.3.cross_attn.norm_q.weight"]
    save_file(weights, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match="base_name: base.safetensors lacks 1 weights of Wan 2.1 text-to-video, "
                                         "blocks.3.cross_attn.norm_q.weight first"):
        loader.load_omniavatar(tmp_path / "base.safetensors", file)
    torch.save({"patch_embedding.weight": FOLDER}, tmp_path / "code.pt")
    (tmp_path / "half.pt").write_bytes(file.read_bytes()[:5000])
    for name in ("code.pt", "half.pt"):
        with pytest.raises(ValueError, match=f"omniavatar_name: {name} cannot be read"):
            loader.load_omniavatar(base, tmp_path / name)
