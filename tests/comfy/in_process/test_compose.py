"""Our techniques beside each other and beside what others put on a model, sampled through ComfyUI's own sampler."""
import itertools

import comfy.sample
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from lodestar.backbones import attach
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip

FRAMES = 9


@pytest.fixture(scope="module", params=["wan21_t2v", "wan21_i2v", "wan22_s2v"])
def model(request, tiny_models, wan):
    return wan.load(tiny_models, request.param)


@pytest.fixture(scope="module")
def t2v(tiny_models, wan):
    return wan.load(tiny_models, "wan21_t2v")


def text(model, wan, frames, seed):
    values = {}
    if hasattr(model.model.diffusion_model, "frame_packer"):
        values = {"audio_embed": wan.random(1, 25, 1024, frames * 4, seed=5),
                  "reference_latents": [wan.picture(model)],
                  "control_video": torch.zeros(1, 16, frames, *wan.SIZE)}
    return [[wan.random(1, 7, 4096, seed=seed), values]]


def sample(model, wan, frames=FRAMES, steps=4, cfg=3.0):
    latent = torch.zeros_like(wan.noise(model, frames))
    with torch.inference_mode():
        return comfy.sample.sample(model, wan.noise(model, frames), steps, cfg, "euler", "simple",
                                   text(model, wan, frames, 10), text(model, wan, frames, 11), latent,
                                   disable_pbar=True)


def anchor(model, wan, distance=3.0, seed=2, **options):
    own = hasattr(model.model.diffusion_model, "frame_packer")
    return LookaheadAnchor(distance, latents=None if own else wan.picture(model, seed=seed), **options)


def test_wiring_order_does_not_matter(model, wan):
    techniques = [anchor(model, wan), LookaheadAnchor(0, "in chunk", 4, wan.picture(model, seed=8)), ReferenceSkip(),
                  NarrativeKeyframes().plus(3, wan.picture(model, seed=9))]
    results = []
    for order in itertools.islice(itertools.permutations(techniques), 0, 24, 5):
        clone = model
        for technique in order:
            clone = attach.with_technique(clone, technique)
        results.append(sample(clone, wan, steps=2))
    assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(results[0], sample(model, wan, steps=2))


def test_two_clones_with_different_anchors_do_not_disturb_each_other(model, wan):
    near, far = (attach.with_technique(model, anchor(model, wan, distance)) for distance in (1.0, 60.0))
    plain = sample(model, wan)
    first = sample(near, wan)
    other = sample(far, wan)
    assert torch.equal(sample(near, wan), first) and torch.equal(sample(model, wan), plain)
    assert not torch.equal(first, other) and not torch.equal(first, plain)


@pytest.mark.parametrize("ours_first", [True, False])
def test_lora_keeps_working(model, wan, ours_first):
    key = "diffusion_model.blocks.0.self_attn.q"
    lora = {f"{key}.lora_A.weight": wan.random(4, 128, seed=20), f"{key}.lora_B.weight": wan.random(128, 4, seed=21)}

    def with_lora(patcher):
        return comfy.sd.load_lora_for_models(patcher, None, dict(lora), 1.0, 0.0)[0]

    def with_ours(patcher):
        return attach.with_technique(patcher, anchor(model, wan))

    both = with_lora(with_ours(model)) if ours_first else with_ours(with_lora(model))
    result = sample(both, wan)
    for without in (with_ours(model), with_lora(model)):
        assert not torch.equal(result, sample(without, wan))
    assert torch.equal(result, sample(with_ours(with_lora(model)), wan))


def eased(patcher):
    return EasyCacheNode.execute(patcher, 3.0, 0.0, 1.0, False).args[0]


def test_easycache_skips_steps_beside_us_in_either_order(model, wan):
    calls = []

    def counted(function, *args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    def run(patcher):
        patcher = patcher.clone()
        patcher.model_options["transformer_options"]["optimized_attention_override"] = counted
        calls.clear()
        return sample(patcher, wan, steps=8), len(calls)

    ours = attach.with_technique(model, anchor(model, wan))
    inside, calls_inside = run(eased(ours))
    outside, calls_outside = run(attach.with_technique(eased(model), anchor(model, wan)))
    _, calls_without = run(ours)
    assert calls_inside == calls_outside < calls_without
    assert torch.equal(inside, outside) and not torch.equal(inside, run(eased(model))[0])


def windowed(patcher, frames=21, overlap=8):
    return WanContextWindowsManualNode.execute(patcher, frames, overlap, "standard_static", 1, False, "pyramid",
                                               False).args[0]


def test_context_windows_keep_working_in_either_order(model, wan):
    ours = attach.with_technique(model, anchor(model, wan))
    inside = sample(windowed(ours), wan, frames=15, steps=2)
    outside = sample(attach.with_technique(windowed(model), anchor(model, wan)), wan, frames=15, steps=2)
    assert torch.equal(inside, outside) and torch.isfinite(inside).all()
    assert not torch.equal(inside, sample(windowed(model), wan, frames=15, steps=2))


@pytest.mark.parametrize("ours_first", [True, False])
def test_another_pack_s_attention_override_keeps_running(model, wan, ours_first):
    """Assigned, as such nodes do, without chaining what was there."""
    calls = []

    def theirs(function, q, k, v, *args, **kwargs):
        calls.append(kwargs.get("mask"))
        return function(q, k, v, *args, **kwargs)

    def with_theirs(patcher):
        patcher = patcher.clone()
        patcher.model_options["transformer_options"]["optimized_attention_override"] = theirs
        return patcher

    def with_ours(patcher):
        placed = anchor(model, wan, placement="in chunk", index=3)
        return attach.with_technique(attach.with_technique(patcher, placed), ReferenceSkip())

    both = with_theirs(with_ours(model)) if ours_first else with_ours(with_theirs(model))
    result = sample(both, wan, steps=1)
    assert calls and all(mask is None for mask in calls)
    assert torch.equal(result, sample(with_ours(model), wan, steps=1))
    assert not torch.equal(result, sample(with_theirs(model), wan, steps=1))


def test_a_denoise_mask_and_an_anchor_live_together_on_ti2v(tiny_models, wan):
    model = wan.load(tiny_models, "wan22_ti2v")
    known = wan.picture(model, frames=2)
    latent = torch.zeros_like(wan.noise(model, FRAMES))
    latent[:, :, :2] = known
    mask = torch.ones(1, 1, FRAMES, *wan.SIZE)
    mask[:, :, :2] = 0
    anchored = attach.with_technique(model, anchor(model, wan))
    with torch.inference_mode():
        result = comfy.sample.sample(anchored, wan.noise(model, FRAMES), 3, 1.0, "euler", "simple",
                                     text(model, wan, FRAMES, 10), [], latent, noise_mask=mask, disable_pbar=True)
    assert (result[:, :, :2] - known).abs().max() < 1e-5 and torch.isfinite(result).all()


def test_the_skip_says_that_it_is_inactive_once_per_run(t2v, wan, caplog):
    clone = attach.with_technique(attach.with_technique(t2v, anchor(t2v, wan)), ReferenceSkip())
    sample(clone, wan, steps=4)
    said = [record.message for record in caplog.records if "reference skip is inactive" in record.message]
    assert len(said) == 1 and "stands at 11" in said[0]
