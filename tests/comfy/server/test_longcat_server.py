"""Load LongCat in a real server: samplers, EasyCache, LoRA, int8 and fp8, as users queue them."""
import subprocess
import sys

import pytest
import torch
from lib import environment
from lib.comfy_server import PromptFailed
from lib.graph import Graph
from served_takes import saved_latents


def longcat_graph(model_name, prefix, weight_dtype="default", easycache=False, lora=False, custom=False,
                  width=64) -> Graph:
    """LongCat on 17 frames of 64x64, without a text encoder, its latents saved."""
    graph = Graph()
    model = graph.add("LodestarLoadLongCat", model_name=model_name, weight_dtype=weight_dtype, kv_cache="off")
    text = graph.add("LodestarBlankPrompt", tokens=16, width=4096)
    latent = graph.add("EmptyHunyuanLatentVideo", width=width, height=64, length=17, batch_size=1)
    if lora:
        model = graph.add("LodestarLoadLongCatLora", model=model[0], strength=1.0,
                          lora_name="lodestar_tiny_longcat_avatar15_lora.safetensors")
    if easycache:
        model = graph.add("EasyCache", model=model[0], reuse_threshold=0.5, start_percent=0.1, end_percent=0.95,
                          verbose=True)
    if custom:
        sampled = graph.add(
            "SamplerCustomAdvanced", latent_image=latent[0], noise=graph.add("RandomNoise", noise_seed=5)[0],
            guider=graph.add("CFGGuider", model=model[0], positive=text[0], negative=text[0], cfg=1.0)[0],
            sampler=graph.add("KSamplerSelect", sampler_name="euler")[0],
            sigmas=graph.add("BasicScheduler", model=model[0], scheduler="simple", steps=8, denoise=1.0)[0])
    else:
        sampled = graph.add("KSampler", model=model[0], seed=5, steps=8, cfg=1.0, sampler_name="euler",
                            scheduler="simple", positive=text[0], negative=text[0], latent_image=latent[0],
                            denoise=1.0)
    graph.add("SaveLatent", samples=sampled[0], filename_prefix=prefix)
    return graph


def latents(server, *arguments, **options):
    return saved_latents(server, longcat_graph(*arguments, **options))


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
        server.run(longcat_graph("lodestar_tiny_wan21_t2v.safetensors", "never").prompt())
    with pytest.raises(PromptFailed, match=r"size: got latents of 9x8, wanted even numbers"):
        server.run(longcat_graph(f"{longcat.BASE}.safetensors", "never", width=72).prompt())


def test_the_server_s_flag_for_fp8(start_server, longcat, plain):
    with start_server("--fp8_e4m3fn-unet") as server:
        assert 1e-3 < far(latents(server, f"{longcat.AVATAR15}.safetensors", "fp8"), plain) < 0.2
        assert far(latents(server, longcat.INT8, "int8"), plain) < 0.1


def test_a_converted_lora_samples_alike_with_core_s_loader(server, tiny_models, longcat):
    target = server.base / "models" / "loras" / "converted_for_core.safetensors"
    source = tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors"
    subprocess.run([sys.executable, str(environment.PACK / "scripts" / "convert_longcat_lora.py"), str(source),
                    str(target)], check=True)
    ours = longcat_graph(f"{longcat.AVATAR15}.safetensors", "ours", lora=True)
    theirs = longcat_graph(f"{longcat.AVATAR15}.safetensors", "cores", lora=True)
    lora = theirs.the("LodestarLoadLongCatLora")
    lora.become("LoraLoaderModelOnly", model=lora.inputs["model"], strength_model=1.0, lora_name=target.name)
    assert torch.equal(saved_latents(server, theirs), saved_latents(server, ours))
