"""CogVideoX's published files through Load CogVideoX: names, shards, and what their weights do not show."""
import comfy.model_base
import comfy.model_management
import pytest
import tiny_cogvideox
import torch
from lodestar.backbones.cogvideox import loader
from safetensors.torch import load_file, save_file

rig = pytest.importorskip("cogvideox_models", reason="this ComfyUI has no CogVideoX", exc_type=ImportError)


@pytest.fixture
def folder(tiny_models):
    return tiny_models / "models" / "diffusion_models"


def of(folder, name):
    return folder / f"{tiny_cogvideox.PREFIX}_{name}.safetensors"


def weights_of(folder, name="5b"):
    return tiny_cogvideox.as_published(load_file(of(folder, name)))


def test_published_names_load_as_comfyui_s(tiny_models, folder):
    ours, core = loader.load_cogvideox(of(folder, "published")), rig.load(tiny_models, "15_i2v")
    comfy.model_management.load_models_gpu([ours])
    assert torch.equal(rig.apply(ours, rig.noise()), rig.apply(core, rig.noise()))
    assert set(weights_of(folder)) & set(load_file(of(folder, "5b"))) == {
        name for name in load_file(of(folder, "5b")) if not name.startswith(("blocks.", "time_", "ofs_"))}


def test_shards_are_one_model(folder, tmp_path):
    weights = weights_of(folder)
    names = sorted(weights)
    for shard, part in ((1, names[:9]), (2, names[9:])):
        save_file({name: weights[name] for name in part}, tmp_path / f"model-0000{shard}-of-00002.safetensors")
    whole = loader.read(tmp_path)
    assert whole.keys() == weights.keys() and loader.load_cogvideox(tmp_path).model.diffusion_model.in_channels == 16
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="model_name: .* has 1 of 2 shards"):
        loader.load_cogvideox(tmp_path)


def test_rotary_positions_are_one_apart(folder):
    """ComfyUI spreads the 5B's by 1.875, which its authors do to the 2B's table alone."""
    network = loader.load_cogvideox(of(folder, "5b")).model.diffusion_model
    cosine, _ = network._get_rotary_emb(2, 3, 1, torch.device("cpu"))
    assert torch.allclose(cosine[2, 40:], torch.cos(2.0 * 10000.0 ** -(torch.arange(0, 24, 2) / 24)
                                                    ).repeat_interleave(2), atol=1e-6)


def test_the_5b_i2v_has_a_table_and_rotary_positions(tiny_models, folder, tmp_path):
    weights = {**weights_of(folder, "5b_i2v"), loader.TABLE: load_file(of(folder, "2b"))[loader.TABLE].float()}
    save_file(weights, tmp_path / "both.safetensors")
    network = loader.load_cogvideox(tmp_path / "both.safetensors").model.diffusion_model
    assert network.use_rotary_positional_embeddings and network.patch_embed.use_learned_positional_embeddings


def test_the_2b_gets_its_table_and_its_schedule(folder, monkeypatch):
    monkeypatch.setattr(loader, "WIDTH_2B", tiny_cogvideox.DIM)
    model = loader.load_cogvideox(of(folder, "5b")).model
    network = model.diffusion_model
    assert not network.use_rotary_positional_embeddings
    assert torch.allclose(network.patch_embed.pos_embedding.float(), tiny_cogvideox.table().float(), atol=1e-4)
    betas = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    alphas = (alphas / (3 - 2 * alphas)).sqrt()
    alphas = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])) ** 2
    wanted = ((1 - alphas) / alphas).sqrt()[:-1]
    assert torch.allclose(model.model_sampling.sigmas[:-1].double(), wanted, rtol=1e-3)


def test_what_is_not_cogvideox_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="model_name: .*wan21_t2v.* is not CogVideoX's transformer"):
        loader.load_cogvideox(folder / "lodestar_tiny_wan21_t2v.safetensors")
    weights = weights_of(folder)
    del weights["transformer_blocks.1.attn1.to_v.bias"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights, blocks.1.v.bias first"):
        loader.load_cogvideox(tmp_path / "cut.safetensors")
    monkeypatch.delattr(comfy.model_base, "CogVideoX")
    with pytest.raises(ValueError, match="this ComfyUI has no CogVideoX"):
        loader.load_cogvideox(of(folder, "5b"))


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_float_8_is_a_little_coarser(folder, weight_dtype):
    fine, coarse = (loader.load_cogvideox(of(folder, "published"), dtype) for dtype in ("default", weight_dtype))
    comfy.model_management.load_models_gpu([fine, coarse])
    made, wanted = (rig.apply(model, rig.noise()) for model in (coarse, fine))
    assert 0 < (made - wanted).norm() / wanted.norm() < 0.3
