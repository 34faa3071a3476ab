"""The tiny models are what they say: every key is one that ComfyUI's loader wants, and what comes out is sane."""
import comfy.model_base
import comfy.sd
import comfy.utils
import make_tiny_models
import pytest
import torch

KINDS = {"wan21_t2v": "WAN21", "wan21_i2v": "WAN21", "wan22_ti2v": "WAN22", "wan22_s2v": "WAN22_S2V"}


def shapes(weights):
    return {name: tensor.shape for name, tensor in weights.items()}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_diffusion_model_is_complete_and_recognised(tiny_models, name, kind):
    path = tiny_models / "models" / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"
    written = comfy.utils.load_torch_file(str(path))
    model = comfy.sd.load_diffusion_model(str(path)).model
    wanted = model.diffusion_model.state_dict()
    assert type(model) is getattr(comfy.model_base, kind)
    assert shapes(written) == shapes(wanted)
    assert all(torch.equal(wanted[key], tensor) for key, tensor in written.items())


@pytest.mark.parametrize("name", KINDS)
def test_a_forward_is_finite_and_depends_on_every_condition(tiny_models, wan, name):
    model = wan.load(tiny_models, name)
    noise, conditions = wan.noise(model), wan.conditions(model)
    answer = wan.apply(model, noise)
    assert torch.isfinite(answer).all() and 0.3 < answer.std() < 3
    for key, condition in conditions.items():
        other = wan.apply(model, noise, **{key: condition + 0.5})
        assert (other - answer).abs().mean() > 1e-3, key


def test_the_vae_is_complete(tiny_models):
    written = comfy.utils.load_torch_file(str(tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"))
    wanted = comfy.sd.VAE(sd=dict(written)).first_stage_model.state_dict()
    assert shapes(written) == shapes(wanted)


def test_the_vae_decodes_to_coloured_areas(tiny_models):
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(
        str(tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors")))
    with torch.inference_mode():
        latents = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        frames = vae.decode(latents)[0]
        encoded = vae.encode(frames)
    assert ((frames == 0) | (frames == 1)).float().mean() < 0.1
    assert frames.std() > 0.1 and frames.std(dim=-1).mean() > 0.05
    assert frames.diff(dim=2).abs().mean() < 0.5 * frames.std()
    assert 0.1 < encoded.std() < 3


def test_the_same_bytes_on_every_run(tmp_path):
    first, second = (make_tiny_models.write_model(tmp_path / run, "vae/lodestar_tiny_wan_vae") for run in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
