"""Training on quantised weights: each layer has its adapter beside them, or the model is refused by name."""
import json

import comfy.sd
import pytest
import torch
from families import FAMILIES
from lodestar.backbones import find, train_host
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host.recipe_training import plan, train
from lodestar.pipelines.training.flow_recipes import Chunks, Silence, Stitching
from lodestar.pipelines.training.run import Settings
from safetensors.torch import load_file, save_file
from training_clips import make_clips

CHUNKS = Chunks(chunk_latents=3, context_latents=2)
SETTINGS = Settings(steps=4, rank=2, rate=5e-2)
LARGEST = {torch.float8_e4m3fn: 448, torch.int8: 127}


def quantise(file, out, dtype, marks):
    """The large matrices of the blocks, each with a scale beside it, under core's names."""
    weights = dict(marks)
    for name, weight in load_file(file).items():
        if "blocks." in name and weight.ndim == 2:
            scale, layer = weight.abs().amax().float() / LARGEST[dtype], name.removesuffix(".weight")
            weight = weight / scale
            weight = weight.round().to(dtype) if dtype == torch.int8 else weight.to(dtype)
            if marks:
                weights[f"{layer}.scale_weight"] = scale
            else:
                weights[f"{layer}.weight_scale"] = scale
                weights[f"{layer}.comfy_quant"] = torch.tensor(
                    list(json.dumps({"format": "int8_tensorwise"}).encode()), dtype=torch.uint8)
        weights[name] = weight
    save_file(weights, out)
    return comfy.sd.load_diffusion_model(str(out))


def base(kind, tiny_models, folder):
    """The model, and the same in full precision."""
    models = tiny_models / "models"
    if kind.startswith("core"):
        file = models / "diffusion_models" / "lodestar_tiny_wan21_t2v.safetensors"
        marks = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)} if kind == "core_fp8" else {}
        dtype = torch.float8_e4m3fn if marks else torch.int8
        return quantise(file, folder / "base.safetensors", dtype, marks), FAMILIES["wan21_t2v"].load(models)
    file = str(models / "diffusion_models" / "lodestar_tiny_longcat_avatar15.safetensors")
    if kind == "longcat_int8":
        return load_longcat(str(models / "longcat" / "lodestar_tiny_longcat_avatar15_int8")), load_longcat(file)
    return load_longcat(file, "fp8_e4m3fn"), load_longcat(file)


@pytest.mark.parametrize("kind", ["core_fp8", "core_int8", "longcat_int8", "longcat_fp8"])
def test_a_quantised_base_learns_or_is_refused_by_name(kind, tiny_models, tmp_path, comfyui_version):
    if kind == "core_int8" and comfyui_version == "0.7.0":
        pytest.skip("this ComfyUI cannot load it")
    with torch.inference_mode():    # as a node loads it
        model, whole = base(kind, tiny_models, tmp_path)
    backbone = find(model)
    clips = make_clips(backbone.latent_channels(model.model), speech=backbone.audio_shape)
    recipe = Stitching(clips, CHUNKS) if backbone.audio_shape is None else Silence(clips, CHUNKS)
    one = recipe.example(1)
    recipe.example = lambda step: one
    if not train_host.stands_beside():
        with pytest.raises(ValueError, match=r"model: .* is quantised \(.*no adapters beside the weights.*in bf16"):
            train(model, recipe, SETTINGS, tmp_path / "run", clips.digest)
        return
    made = train(model, recipe, SETTINGS, tmp_path / "run", clips.digest)
    assert made.losses[-1] < made.losses[0]
    layers = {path for path, _ in train_host.trained_layers(whole.model, ())}
    assert {name.removesuffix(".alpha") for name in made.lora if name.endswith(".alpha")} == layers
    assert all(made.lora[f"{path}.lora_up.weight"].any() for path in layers if "blocks.0." in path)
    counted, full = plan(model, recipe, SETTINGS), plan(whole, recipe, SETTINGS)
    assert counted.adapters == full.adapters and counted.weights < full.weights
