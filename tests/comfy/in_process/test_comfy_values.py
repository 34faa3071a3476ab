"""What counts of a model for its frames: the same in every process and in every state, another for every change."""
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import comfy.controlnet
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import take_values as values
import torch
from lodestar.backbones.comfy_values import ComfyValues
from lodestar.pipelines.take.fingerprint import Fingerprints

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
IN_ANOTHER_PROCESS = """
import runpy, sys
sys.path.insert(0, {benchmarks!r})
import in_process, utils.extra_config
runpy.run_path({script!r}, run_name="__main__")
"""


def path_of(tiny_models, name="wan21_t2v"):
    return tiny_models / "models" / "diffusion_models" / f"lodestar_tiny_{name}.safetensors"


def loaded(tiny_models, name="wan21_t2v"):
    return comfy.sd.load_diffusion_model(str(path_of(tiny_models, name)), model_options={"dtype": torch.float32})


@pytest.fixture(scope="module")
def model(tiny_models):
    return loaded(tiny_models)


def test_the_same_graph_in_another_process_counts_as_the_same(model, tiny_models, comfyui):
    script = IN_ANOTHER_PROCESS.format(benchmarks=str(BENCHMARKS), script=values.__file__)
    done = subprocess.run([sys.executable, "-c", script, str(path_of(tiny_models))], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "COMFYUI_PATH": str(comfyui), "PYTHONHASHSEED": "7"}, check=True)
    here = {what: values.digest(value) for what, value in values.everything(model).items()}
    assert json.loads(done.stdout.splitlines()[-1]) == here
    alike = [pair for pair in itertools.combinations(here, 2) if here[pair[0]] == here[pair[1]]]
    assert len(here) > 50 and alike == []


@pytest.mark.parametrize("what", ["model", "guider"])
def test_what_a_sampling_run_leaves_behind_counts_for_nothing(model, what):
    noise, sampler = values.random(1, 16, 5, 8, 8), comfy.samplers.sampler_object("euler")
    made = values.models(model) if what == "model" else values.guiders(model)
    for name, value in made.items():
        if name in ("compiled", "fp16"):     # a compiler, or a processor without such a dtype
            continue
        guider = values.run(values.custom.CFGGuider, value, values.text(), values.text(1), 2.0) if what == "model" \
            else value
        before = values.digest(guider)
        sigmas = comfy.samplers.calculate_sigmas(guider.model_patcher.get_model_object("model_sampling"), "simple", 2)
        if name not in ("anchor", "skip", "anchor farther", "anchor behind", "much"):  # which want a picture to sample
            with torch.inference_mode():
                guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=1)
        assert values.digest(guider) == before, name


def test_what_a_run_leaves_in_a_newer_control_net_counts_for_nothing():
    control = comfy.controlnet.ControlBase()
    control.cond_hints, control.control_inputs, control.multigpu_clones = {}, {}, {}    # ComfyUI 0.38
    before = values.digest(control)
    control.cond_hints[8, 8], control.control_inputs["hint"] = values.random(1, 3, 8, 8), values.random(1)
    control.multigpu_clones["cuda:1"] = comfy.controlnet.ControlBase()
    assert values.digest(control) == before
    control.strength = 0.5
    assert values.digest(control) != before


def test_weights_count_as_they_were_loaded_in_every_state_of_the_model(tiny_models):
    model = loaded(tiny_models)
    patched = values.run(values.advanced.ModelSamplingSD3, values.with_lora(model), 8.0)
    other = values.run(values.advanced.ModelSamplingSD3, values.with_lora(model, seed=2), 5.0)
    all_of_them = (model, patched, other)
    before = [values.digest(one) for one in all_of_them]
    device = torch.device("cpu")

    def same() -> bool:
        return [values.digest(one) for one in all_of_them] == before

    for one in all_of_them:
        key = next(iter(patched.patches))
        plain = model.model.state_dict()[key].clone()
        one.patch_model(device)
        assert torch.equal(model.model.state_dict()[key], plain) == (one is model) and same()
        one.unpatch_model(device)
        one.patch_model(device, lowvram_model_memory=1)     # patches are applied while the weights are used
        assert same()
        one.unpatch_model(device)
    assert same() and len(set(before)) == 3


def negated(weights, name):
    weights[name].neg_()


def one_layer_retrained(weights, name):
    weights[name] += 1e-3 * torch.randn(weights[name].shape)


def one_number(weights, name):
    weights[name].view(-1)[7] += 1e-6


def swapped(weights, name):
    other = name.replace(".q.", ".k.")
    weights[name][:], weights[other][:] = weights[other].clone(), weights[name].clone()


def forward_replaced(network):
    layer, forward = network.blocks[0], network.blocks[0].forward
    layer.forward = lambda *inputs, **given: forward(*inputs, **given) * 2


def hooked_by_pytorch(network):
    network.blocks[0].register_forward_hook(lambda layer, inputs, out: out * 2)


def list_replaced(network):
    network.rope_embedder.axes_dim = network.rope_embedder.axes_dim[::-1]


def tensor_beside_the_weights(network):
    network.steering = torch.ones(2)


@pytest.mark.parametrize("change", [forward_replaced, hooked_by_pytorch, list_replaced, tensor_beside_the_weights])
def test_what_was_put_into_a_network_by_hand_counts(model, tiny_models, change):
    other = loaded(tiny_models)
    change(other.model.diffusion_model)
    assert values.digest(other) != values.digest(model)


def test_the_order_of_wrappers_counts(model):
    def scaled(factor):
        return lambda executor, *inputs, **given: executor(*inputs, **given) * factor

    one, other = model.clone(), model.clone()
    for patcher, keys in ((one, "ab"), (other, "ba")):
        for key in keys:
            patcher.add_wrapper_with_key("diffusion_model", key, scaled(key))
    assert values.digest(one) != values.digest(other)


def test_a_vae_that_ran_is_the_same(tiny_models):
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(
        str(tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors")), dtype=torch.float32)
    before = values.digest(vae)
    vae.decode(vae.encode(torch.zeros(1, 32, 32, 3)))
    assert values.digest(vae) == before


@pytest.mark.parametrize("change", [negated, one_layer_retrained, one_number, swapped])
def test_another_model_of_the_same_kind_is_another(model, tiny_models, change):
    other = loaded(tiny_models)
    assert values.digest(other) == values.digest(model)
    change(other.model.state_dict(), "diffusion_model.blocks.0.self_attn.q.weight")
    assert values.digest(other) != values.digest(model)


def test_a_model_in_another_number_format_is_another(model, tiny_models):
    others = [comfy.sd.load_diffusion_model(str(path_of(tiny_models)), model_options={"dtype": dtype})
              for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)]
    assert len({values.digest(one) for one in (model, *others)}) == 4


def test_what_has_no_fingerprint_is_named_and_never_the_same_again(model):
    class Walking:
        def __init__(self):
            self.steps = iter(range(3))

        def __call__(self, args):
            return args["denoised"]

    def made_by_us(args):
        return args["denoised"]

    marked_model, unmarked_model = model.clone(), model.clone()
    marked_model.set_model_sampler_post_cfg_function(made_by_us)
    unmarked_model.set_model_sampler_post_cfg_function(i for i in range(3))
    for other, fresh in ((marked_model, False), (unmarked_model, True)):
        first, second = Fingerprints(ComfyValues()), Fingerprints(ComfyValues())
        assert (first.of(other, "model") != second.of(other, "model")) == fresh
        assert bool(first.unreadable) == fresh and all("model (a generator" in line for line in first.unreadable)
    assert values.digest(marked_model) != values.digest(model)


def test_a_closed_over_value_of_another_pack_counts(model):
    def node(strength):
        other = model.clone()
        other.set_model_sampler_post_cfg_function(lambda args: args["denoised"] * strength)
        return values.digest(other)

    assert node(1.0) == node(1.0) != node(1.5)


def test_longcat_counts_the_same_before_and_after_a_run(longcat, tiny_models):
    """With its KV cache, its speech, a schedule of anchors, and in its official int8."""
    digests = set()
    for name in (longcat.AVATAR15, longcat.INT8):
        plain = longcat.load(tiny_models, name)
        for model in (plain, values.anchor(plain), values.anchor(plain, schedule="10, 30")):
            reference = {"reference_latents": [longcat.random(1, 16, 1, *longcat.SIZE)]}
            guider = values.run(values.custom.BasicGuider, model, longcat.prompt(model, **reference))
            before = values.digest(guider)
            with torch.inference_mode():
                longcat.sample(model, longcat.prompt(model, **reference), steps=1)
            assert values.digest(guider) == before
            digests.add(before)
    assert len(digests) == 6
