"""What other nodes hang into a model acts beside ours as it does alone, or is refused or said by name."""
import importlib.util

import comfy.sample
import pytest
import torch
from comfy_extras.nodes_rope import ScaleROPE
from lodestar.backbones import attach
from lodestar.backbones.patches import never_called
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.rope import rope_frequencies, scaled_axes

SCALED = {"scale_x": 1.0, "shift_x": 0.0, "scale_y": 1.5, "shift_y": 0.0, "scale_t": 0.8, "shift_t": 2.0}


@pytest.fixture(scope="module")
def avatar(tiny_models, longcat):
    return longcat.load(tiny_models, "lodestar_tiny_longcat_avatar15")


@pytest.fixture(scope="module")
def t2v(tiny_models, wan):
    return wan.load(tiny_models, "wan21_t2v")


@pytest.fixture(params=["t2v", "avatar"])
def case(request, wan, longcat):
    """(a MODEL, an anchor of its kind, how it is sampled)."""
    model = request.getfixturevalue(request.param)
    if request.param == "t2v":
        def sample(patched, cfg=1.0):
            latent = torch.zeros_like(wan.noise(model))
            prompts = [[[wan.random(1, 7, 4096, seed=seed), {}]] for seed in (10, 11)]
            with torch.inference_mode():
                return comfy.sample.sample(patched, wan.noise(model), 2, cfg, "euler", "simple", *prompts, latent,
                                           disable_pbar=True)
        return model, LookaheadAnchor(3, latents=wan.picture(model)), sample
    reference = [longcat.noise(1, seed=9)]

    def sample(patched, cfg=1.0):
        prompts = [longcat.prompt(model, seed=seed, reference_latents=reference) for seed in (3, 4)]
        return longcat.sample(patched, prompts[0], prompts[1], cfg=cfg, steps=2)
    return model, LookaheadAnchor(3), sample


def nag(model):
    if importlib.util.find_spec("comfy_extras.nodes_nag") is None:
        pytest.skip("this ComfyUI has no NAGuidance")
    from comfy_extras.nodes_nag import NAGuidance
    return NAGuidance.execute(model, 5.0, 0.5, 1.5).result[0]


def test_scale_rope_acts_alone_and_beside_an_anchor(case):
    model, anchor, sample = case
    for plain in (model, attach.with_technique(model, anchor)):
        assert not torch.allclose(sample(ScaleROPE.execute(plain, **SCALED).result[0]), sample(plain), atol=1e-3)


def test_scaled_rows_are_core_s_own(t2v):
    module, (scale, shift) = t2v.model.diffusion_model, scaled_axes(SCALED)
    core = module.rope_encode(5, 8, 12, dtype=torch.float32, transformer_options={"rope_options": SCALED})
    ours = rope_frequencies(range(5), 4, 6, module.rope_embedder.axes_dim, scale=scale, shift=shift)
    torch.testing.assert_close(ours.flatten(), core.flatten(), atol=1e-5, rtol=0)


def test_nag_acts_on_longcat_alone_and_beside_an_anchor(avatar, longcat):
    text = [longcat.prompt(avatar, seed=seed) for seed in (3, 4)]
    caching = attach.with_technique(avatar, ConditioningCache())
    results = [longcat.sample(model, *text, steps=2) for plain in (avatar, caching) for model in (plain, nag(plain))]
    assert all(result.isfinite().all() for result in results)
    assert not torch.allclose(results[1], results[0], atol=1e-3)
    torch.testing.assert_close(results[2:], results[:2], atol=1e-4, rtol=0)


def test_nag_on_wan_is_refused_before_the_first_step(t2v, wan):
    patched = nag(attach.with_technique(t2v, LookaheadAnchor(3, latents=wan.picture(t2v))))
    with pytest.raises(ValueError, match="NAGuidance.* does nothing on Wan.*, whose .* call attn1_output_patch"):
        comfy.sample.sample(patched, wan.noise(t2v), 2, 1.0, "euler", "simple", *[[[wan.random(1, 7, 4096), {}]]] * 2,
                            torch.zeros_like(wan.noise(t2v)), disable_pbar=True)


def test_a_patch_that_nobody_calls_is_said_once_by_name(case, caplog):
    model, anchor, sample = case
    patched = attach.with_technique(model, anchor)
    patched.set_model_input_block_patch(lambda h, options: h)
    patched.set_model_patch_replace(lambda *args: args[0], "attn1", "middle", 0)
    sample(patched, 3.0)
    said = [record.message for record in caplog.records if "it does nothing" in record.message]
    assert len(said) == 2 and "input_block_patch on the model" in said[0] and "attn1.middle on" in said[1]


PATCHES = ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch", "double_block", "middle_patch")


def test_what_is_said_to_be_called_is_called_and_nothing_else(case):
    model, _, sample = case
    called, patched = set(), model.clone()

    def of(name):
        def patch(values, *_, **__):
            called.add(name)
            return values if torch.is_tensor(values) or name == "double_block" else values["x"]
        return patch

    def block(values, extra):
        called.add("dit.double_block")
        return extra["original_block"](values)

    for name in PATCHES:
        patched.set_model_patch(of(name), name)
    patched.set_model_patch_replace(block, "dit", "double_block", 0)
    options = patched.model_options["transformer_options"]
    silent = set(never_called(patched.model.diffusion_model, options))
    sample(patched)
    assert called == {*PATCHES, "dit.double_block"} - silent and "dit.double_block" in called and silent
