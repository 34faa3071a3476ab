"""Load LongCat in a real server: samplers, EasyCache, LoRA, int8 and fp8, as users queue them."""
import pytest
import torch
from lib.comfy_server import PromptFailed
from safetensors.torch import load_file


def graph(model_name, prefix, weight_dtype="default", easycache=False, lora=False, custom=False, width=64):
    """LongCat on 17 frames of 64x64, without a text encoder, its latents saved."""
    nodes = {
        "load": ("LodestarLoadLongCat", {"model_name": model_name, "weight_dtype": weight_dtype, "kv_cache": "off"}),
        "prompt": ("LodestarBlankPrompt", {"tokens": 16, "width": 4096}),
        "latent": ("EmptyHunyuanLatentVideo", {"width": width, "height": 64, "length": 17, "batch_size": 1}),
        "save": ("SaveLatent", {"samples": ["sample", 0], "filename_prefix": prefix})}
    model = ["load", 0]
    if lora:
        nodes["lora"] = ("LodestarLoadLongCatLora", {"model": model, "strength": 1.0,
                                                     "lora_name": "lodestar_tiny_longcat_avatar15_lora.safetensors"})
        model = ["lora", 0]
    if easycache:
        nodes["easy"] = ("EasyCache", {"model": model, "reuse_threshold": 0.5, "start_percent": 0.1,
                                       "end_percent": 0.95, "verbose": True})
        model = ["easy", 0]
    if custom:
        nodes |= {
            "guider": ("CFGGuider", {"model": model, "positive": ["prompt", 0], "negative": ["prompt", 0], "cfg": 1.0}),
            "sampler": ("KSamplerSelect", {"sampler_name": "euler"}), "noise": ("RandomNoise", {"noise_seed": 5}),
            "sigmas": ("BasicScheduler", {"model": model, "scheduler": "simple", "steps": 8, "denoise": 1.0}),
            "sample": ("SamplerCustomAdvanced", {"noise": ["noise", 0], "guider": ["guider", 0],
                                                 "sampler": ["sampler", 0], "sigmas": ["sigmas", 0],
                                                 "latent_image": ["latent", 0]})}
    else:
        nodes["sample"] = ("KSampler", {"model": model, "seed": 5, "steps": 8, "cfg": 1.0, "sampler_name": "euler",
                                        "scheduler": "simple", "positive": ["prompt", 0], "negative": ["prompt", 0],
                                        "latent_image": ["latent", 0], "denoise": 1.0})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def latents(server, *arguments, **options):
    file, = server.run(graph(*arguments, **options))["outputs"]["save"]["latents"]
    return load_file(server.base / "output" / file["subfolder"] / file["filename"])["latent_tensor"]


def far(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.fixture(scope="module")
def plain(server, longcat):
    return latents(server, f"{longcat.AVATAR15}.safetensors", "plain")


def test_both_kinds_of_sampler_agree(server, longcat, plain):
    assert plain.shape == (1, 16, 5, 8, 8) and plain.isfinite().all()
    assert torch.equal(latents(server, f"{longcat.AVATAR15}.safetensors", "custom", custom=True), plain)


@pytest.mark.parametrize(("name", "options", "least", "most"), [
    ("INT8", {}, 1e-4, 0.1), ("AVATAR15", {"weight_dtype": "fp8_e4m3fn"}, 1e-3, 0.2),
    ("AVATAR15", {"easycache": True}, 1e-4, 0.5), ("AVATAR15", {"lora": True}, 0.01, 2)])
def test_what_changes_the_model_changes_the_latents_as_much_as_it_should(server, longcat, plain, name, options, least,
                                                                         most):
    file = longcat.INT8 if name == "INT8" else f"{longcat.AVATAR15}.safetensors"
    assert least < far(latents(server, file, f"{name}_{'_'.join(options)}", **options), plain) < most


def test_a_lora_on_int8_is_the_lora_on_the_file(server, longcat):
    names = longcat.INT8, f"{longcat.AVATAR15}.safetensors"
    assert far(*(latents(server, name, "lora", lora=True) for name in names)) < 0.1


def test_a_refusal_names_the_input(server, longcat):
    with pytest.raises(PromptFailed, match="model_name: lodestar_tiny_wan21_t2v.safetensors is no LongCat-Video"):
        server.run(graph("lodestar_tiny_wan21_t2v.safetensors", "never"))
    with pytest.raises(PromptFailed, match=r"size: got latents of 9x8, wanted even numbers"):
        server.run(graph(f"{longcat.BASE}.safetensors", "never", width=72))


def test_the_server_s_flag_for_fp8(start_server, longcat, plain):
    with start_server("--fp8_e4m3fn-unet") as server:
        assert 1e-3 < far(latents(server, f"{longcat.AVATAR15}.safetensors", "fp8"), plain) < 0.2
        assert far(latents(server, longcat.INT8, "int8"), plain) < 0.1
