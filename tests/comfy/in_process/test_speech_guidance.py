"""Speech Guidance against the naive formula on separate predictions, and beside everything that hooks into guidance."""
import copy
import logging

import comfy.hooks
import comfy.samplers
import comfy_extras.nodes_custom_sampler as core_samplers
import node_helpers
import pytest
import torch
from comfy_extras.nodes_apg import APG
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_slg import SkipLayerGuidanceDiTSimple
from lodestar.backbones import attach
from lodestar.backbones.omniavatar.guider import TextFirstGuider
from lodestar.backbones.speech_guider import SpeechGuider
from lodestar.nodes.speech_guidance import LodestarSpeechGuidance
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.projected_guidance import Projection
from lodestar.techniques.speech_guidance import zero_guided
from lodestar.techniques.technique import ChunkPosition

SIGMA = 0.7
SCALES = [(4.0, 4.0), (4.0, 3.0), (3.0, 5.0), (4.0, 1.0), (1.0, 4.0), (0.0, 2.0), (2.0, 0.0), (1.0, 1.0), (0.0, 0.0)]
KEY = "audio_embed"


@pytest.fixture(scope="module")
def s2v(tiny_models, wan):
    return wan.load(tiny_models, "wan22_s2v")


@pytest.fixture(scope="module")
def t2v(tiny_models, wan):
    return wan.load(tiny_models, "wan21_t2v")


@pytest.fixture
def speech(wan):
    return wan.random(1, 25, 1024, wan.FRAMES * 4, seed=5) * 3   # the tiny model's answer to it is faint


def prompt(wan, seed, audio=None, rows=7):
    values = {"reference_latents": [wan.random(1, 16, 1, *wan.SIZE, seed=6)]}
    return [[wan.random(1, rows, 4096, seed=seed), values if audio is None else {**values, KEY: audio}]]


def with_speech(conditioning, audio):
    return node_helpers.conditioning_set_values(conditioning, {KEY: audio})


def sampled(guider, wan, sigmas=(SIGMA, 0.0), seed=1):
    """One Euler step to 0 gives the guided prediction itself, in model space."""
    noise = wan.noise(guider.model_patcher, seed=seed)
    with torch.inference_mode():
        out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"),
                            torch.tensor(sigmas), disable_pbar=True)
        return guider.model_patcher.model.process_latent_in(out)


def core(model, positive, negative, scale):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(scale)
    return guider


def naive(model, wan, positive, negative, audio, scales):
    """u + text * (c - u_t) + audio * (u_t - u) of three predictions that ComfyUI makes one by one."""
    alone = [sampled(core(model, one, one, 1.0), wan)
             for one in (positive, with_speech(negative, audio), with_speech(negative, torch.zeros_like(audio)))]
    assert not torch.equal(alone[1], alone[2])
    c, t, u = alone
    return u + scales[0] * (c - t) + scales[1] * (t - u)


def counted(model):
    """A clone, and the number of predictions in each of its calls."""
    clone, calls = model.clone(), []

    def count(apply_model, args):
        calls.append(len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(count)
    return clone, calls


def one_at_a_time(model, monkeypatch):
    """As on a full card: ComfyUI finds no room for two predictions in one call."""
    monkeypatch.setattr(model.model, "memory_usage_factor", 1e15)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("scales", SCALES)
def test_it_is_the_naive_formula(s2v, wan, speech, scales, batched, monkeypatch):
    positive, negative = prompt(wan, 10, speech), prompt(wan, 11)
    expected = naive(s2v, wan, positive, negative, speech, scales)
    if not batched:
        one_at_a_time(s2v, monkeypatch)
    guided = sampled(SpeechGuider(s2v, positive, negative, *scales, False), wan)
    assert torch.allclose(guided, expected, atol=1e-4)


@pytest.mark.parametrize(("scales", "made"), list(zip(SCALES, [2, 3, 3, 2, 3, 2, 3, 1, 1], strict=True)))
def test_no_prediction_too_many_in_one_call(s2v, wan, speech, scales, made, monkeypatch):
    model, calls = counted(s2v)
    guider = SpeechGuider(model, prompt(wan, 10, speech), prompt(wan, 11), *scales, False)
    sampled(guider, wan)
    assert calls == [made]
    one_at_a_time(s2v, monkeypatch)
    sampled(guider, wan)
    assert calls[1:] == [1] * made


def scheduled(wan, speech):
    """Two prompts, each for a part of the steps, a third for one area, and a LoRA hook on the first."""
    key = "diffusion_model.blocks.0.self_attn.q"
    lora = {f"{key}.lora_A.weight": wan.random(4, 128, seed=20), f"{key}.lora_B.weight": wan.random(128, 4, seed=21)}
    early, late, area = (node_helpers.conditioning_set_values(prompt(wan, seed, speech), values) for seed, values in (
        (10, {"start_percent": 0.0, "end_percent": 0.5, "hooks": comfy.hooks.create_hook_lora(lora, 1.0, 0.0)}),
        (12, {"start_percent": 0.5, "end_percent": 1.0}), (13, {"area": (4, 8, 2, 0), "strength": 0.8})))
    return early + late + area


@pytest.mark.parametrize("sigma", [0.99, 0.2])
def test_hooks_areas_and_timestep_ranges_work_as_in_cores_guidance(s2v, wan, speech, sigma):
    positive, negative, sigmas = scheduled(wan, speech), prompt(wan, 11), (sigma, 0.0)
    audio_in, silent = with_speech(negative, speech), with_speech(negative, torch.zeros_like(speech))
    dual = core_samplers.Guider_DualCFG(s2v)
    dual.set_conds(positive, audio_in, silent)
    dual.set_cfg(4.0, 3.0)
    guided = sampled(SpeechGuider(s2v, positive, negative, 4.0, 3.0, False), wan, sigmas)
    assert torch.allclose(guided, sampled(dual, wan, sigmas), atol=1e-4)
    alike = sampled(SpeechGuider(s2v, positive, negative, 4.0, 4.0, False), wan, sigmas)
    assert torch.equal(alike, sampled(core(s2v, positive, silent, 4.0), wan, sigmas))
    for part in (positive[:1], positive[1:2], positive[2:]):
        assert not torch.equal(alike, sampled(core(s2v, part, silent, 4.0), wan, sigmas))


def test_a_negative_without_speech_gets_the_positives(s2v, wan, speech):
    """Core's own S2V node gives the negative zeros; a blank prompt of another length is as good."""
    positive, negative = prompt(wan, 10, speech), prompt(wan, 11)
    guided = sampled(SpeechGuider(s2v, positive, negative, 4.0, 3.0, False), wan)
    for other in (with_speech(negative, torch.zeros_like(speech)), with_speech(negative, speech)):
        assert torch.equal(guided, sampled(SpeechGuider(s2v, positive, other, 4.0, 3.0, False), wan))
    assert KEY not in negative[0][1]
    blank = [[torch.zeros(1, 16, 4096), negative[0][1]]]
    expected = naive(s2v, wan, positive, blank, speech, (4.0, 3.0))
    assert torch.allclose(sampled(SpeechGuider(s2v, positive, blank, 4.0, 3.0, False), wan), expected, atol=1e-4)


def test_without_any_speech_it_says_what_to_do(s2v, wan):
    with pytest.raises(ValueError, match="no speech .* Use Long Take"):
        sampled(SpeechGuider(s2v, prompt(wan, 10), prompt(wan, 11), 4.0, 4.0, False), wan)
    assert sampled(SpeechGuider(s2v, prompt(wan, 10), prompt(wan, 11), 4.0, 1.0, False), wan).isfinite().all()


def test_long_take_sets_the_speech_of_each_prediction(s2v, wan, speech):
    """Through guider_at, which copies the guider for each chunk."""
    positive, negative = prompt(wan, 10), prompt(wan, 11)
    guider = SpeechGuider(s2v, positive, negative, 4.0, 3.0, False)
    chunks = [attach.guider_at(guider, (), ChunkPosition(), {KEY: audio}, {KEY: torch.zeros_like(audio)})
              for audio in (speech, -speech)]
    expected = [sampled(SpeechGuider(s2v, with_speech(positive, audio), negative, 4.0, 3.0, False), wan)
                for audio in (speech, -speech)]
    assert all(torch.equal(sampled(*pair), one) for pair, one in zip([(chunk, wan) for chunk in chunks], expected,
                                                                     strict=True))
    assert not torch.equal(*expected) and KEY not in guider.original_conds["positive"][0]


def test_a_guider_without_names_of_its_own_has_unconditional_audio_where_it_says_negative(s2v, wan, speech):
    guider = core_samplers.Guider_DualCFG(s2v)
    guider.set_conds(prompt(wan, 10), prompt(wan, 11), prompt(wan, 12))
    chunk = attach.guider_at(guider, (), ChunkPosition(), {KEY: speech}, {KEY: torch.zeros_like(speech)})
    audio_in = {name: bool(entries[0][KEY].any()) for name, entries in chunk.original_conds.items()}
    assert audio_in == {"positive": True, "middle": True, "negative": False}


def test_a_copy_and_another_clone_do_not_disturb_it(s2v, wan, speech):
    positive, negative = prompt(wan, 10, speech), prompt(wan, 11)
    guider = SpeechGuider(s2v, positive, negative, 4.0, 3.0, False)
    first = sampled(guider, wan)
    near = SpeechGuider(attach.with_technique(s2v, LookaheadAnchor(1.0)), positive, negative, 4.0, 3.0, False)
    assert not torch.equal(sampled(near, wan), first)
    assert torch.equal(sampled(copy.copy(guider), wan), first) and torch.equal(sampled(guider, wan), first)


def spied(model):
    """A clone whose hooks write down what they are given, and pass it on."""
    clone, before, after = model.clone(), [], []

    def pre(args):
        before.append(args)
        return args["conds_out"]

    def post(args):
        after.append(args)
        return args["denoised"] + 1

    clone.set_model_sampler_pre_cfg_function(pre)
    clone.set_model_sampler_post_cfg_function(post)
    return clone, before, after


@pytest.mark.parametrize("cfg_zero", [False, True])
@pytest.mark.parametrize("scales", [(4.0, 4.0), (4.0, 3.0), (4.0, 1.0), (1.0, 4.0), (1.0, 1.0)])
def test_hooks_into_guidance_are_called_once_with_what_they_know(s2v, wan, speech, scales, cfg_zero):
    model, before, after = spied(s2v)
    positive, negative = prompt(wan, 10, speech), prompt(wan, 11)
    plain = sampled(SpeechGuider(s2v, positive, negative, *scales, cfg_zero), wan)
    guided = sampled(SpeechGuider(model, positive, negative, *scales, cfg_zero), wan)
    assert torch.allclose(guided, plain + 1, atol=1e-5) and len(before) == len(after) == 1
    pre, post = before[0], after[0]
    scale, (conditional, unconditional) = pre["cond_scale"], pre["conds_out"]
    assert pre["conds"][0][0]["cross_attn"].equal(positive[0][0]) and post["cond_denoised"] is conditional
    assert (pre["conds"][1] is None) == (post["uncond"] is None) == (scale == 1)
    assert torch.allclose(post["denoised"], unconditional + scale * (conditional - unconditional), atol=1e-5)


def guidance_patches():
    return {"apg": lambda model: APG.execute(model, 0.5, 2.0, 0.1).args[0],
            "slg": lambda model: SkipLayerGuidanceDiTSimple.execute(model, 0.0, 1.0, "0", "").args[0]}


@pytest.mark.parametrize("patch", guidance_patches())
def test_other_guidance_nodes_work_as_in_cores_guidance(s2v, wan, speech, patch):
    patched, (positive, negative) = guidance_patches()[patch], (prompt(wan, 10, speech), prompt(wan, 11))
    silent = with_speech(negative, torch.zeros_like(speech))
    guided = sampled(SpeechGuider(patched(s2v), positive, negative, 4.0, 4.0, False), wan)
    assert torch.equal(guided, sampled(core(patched(s2v), positive, silent, 4.0), wan))
    assert not torch.equal(guided, sampled(core(s2v, positive, silent, 4.0), wan))
    three = SpeechGuider(patched(s2v), positive, negative, 4.0, 3.0, False)
    assert not torch.equal(sampled(three, wan), sampled(SpeechGuider(s2v, positive, negative, 4.0, 3.0, False), wan))


def test_a_sampler_that_wants_the_unconditional_prediction_gets_it(s2v, wan, speech):
    model, calls = counted(s2v)
    model.model_options["disable_cfg1_optimization"] = True
    model, before, _ = spied(model)
    sampled(SpeechGuider(model, prompt(wan, 10, speech), prompt(wan, 11), 1.0, 1.0, False), wan)
    assert calls == [2] and not torch.equal(*before[0]["conds_out"])


if hasattr(core_samplers, "CFGOverride"):   # ComfyUI 0.7.0 has no such node
    def test_cfg_override_counts(s2v, wan, speech):
        model, calls = counted(core_samplers.CFGOverride.execute(s2v, 1.0, 0.0, 1.0).args[0])
        positive = prompt(wan, 10, speech)
        guided = sampled(SpeechGuider(model, positive, prompt(wan, 11), 4.0, 4.0, False), wan)
        assert calls == [1] and torch.equal(guided, sampled(core(s2v, positive, positive, 1.0), wan))


def eased(model):
    return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]


def test_easycache_keeps_the_predictions_apart(s2v, wan, speech, monkeypatch):
    """What it remembers of each prediction goes by an id: with one for two, a step is made of the wrong one."""
    sigmas, guidance = tuple(torch.linspace(1, 0, 9).tolist()), (prompt(wan, 10, speech), prompt(wan, 11), 4.0, 3.0)
    model, calls = counted(eased(s2v))
    full = sampled(SpeechGuider(s2v, *guidance, False), wan, sigmas)
    skipping = sampled(SpeechGuider(model, *guidance, False), wan, sigmas)
    assert skipping.isfinite().all() and not torch.equal(skipping, full)
    ids = [entries[0]["uuid"] for entries in SpeechGuider(s2v, *guidance, False).original_conds.values()]
    assert len(set(ids)) == 3
    one_at_a_time(s2v, monkeypatch)
    assert torch.allclose(sampled(SpeechGuider(model, *guidance, False), wan, sigmas), skipping, atol=1e-3)


def test_a_model_without_audio_conditioning_is_guided_by_text(t2v, wan, caplog):
    positive, negative = prompt(wan, 10), prompt(wan, 11)
    with caplog.at_level(logging.WARNING, "lodestar"):
        guider = LodestarSpeechGuidance.execute(t2v, positive, negative, 3.0, 7.0, False).args[0]
    assert "has no audio conditioning; audio_scale is not used" in caplog.text
    assert torch.equal(sampled(guider, wan), sampled(core(t2v, positive, negative, 3.0), wan))


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_cfg_zero_is_the_formula_on_velocities(t2v, wan, scale):
    positive, negative = prompt(wan, 10), prompt(wan, 11)
    alone = [sampled(core(t2v, one, one, 1.0), wan) for one in (positive, negative)]
    x = SIGMA * wan.noise(t2v)
    c, u = ((x - denoised) / SIGMA for denoised in alone)
    guided = (x - sampled(SpeechGuider(t2v, positive, negative, scale, 4.0, True), wan)) / SIGMA
    assert torch.allclose(guided, zero_guided(c, u, scale) if scale > 1 else c, atol=1e-4)
    assert scale == 1 or not torch.allclose(guided, u + scale * (c - u), atol=1e-2)


def projected(chain, scales, projection, x, sigma):
    """One step of adaptive projected guidance, from denoised predictions."""
    velocities = [(x - made) / sigma for made in chain]
    guided = velocities[0].clone()
    for place, scale in enumerate(scales):
        guided += (scale - 1) * projection.project(velocities[place] - velocities[place + 1], velocities[0])
    return x - sigma * guided


@pytest.mark.parametrize(("scales", "made"), [((5.0, 4.0), 3), ((4.0, 4.0), 3), ((5.0, 1.0), 2), ((1.0, 1.0), 1)])
def test_projected_guidance_is_the_authors_formula(s2v, wan, speech, scales, made):
    model, calls = counted(s2v)
    positive, negative, projection = prompt(wan, 10, speech), prompt(wan, 11), Projection(-0.75, 0.5)
    alone = [sampled(core(model, one, one, 1.0), wan)
             for one in (positive, with_speech(negative, speech), with_speech(negative, torch.zeros_like(speech)))]
    calls.clear()
    guider = LodestarSpeechGuidance.execute(model, positive, negative, *scales, False, True, -0.75, 0.5).args[0]
    found = sampled(guider, wan)
    assert calls == [made]
    start = wan.noise(model) * SIGMA        # flow matching: zeros and so much noise
    assert torch.allclose(found, projected(alone, scales, projection, start, SIGMA), atol=1e-4)
    if scales == (5.0, 4.0):
        assert (found - sampled(SpeechGuider(model, positive, negative, *scales, False), wan)).abs().max() > 1e-3


def test_the_momentum_is_of_the_run_alone(s2v, wan, speech):
    """Two runs of one guider are alike; with another momentum the second step is another."""
    positive, negative, runs = prompt(wan, 10, speech), prompt(wan, 11), []
    for momentum in (-0.75, 0.0):
        guider = LodestarSpeechGuidance.execute(s2v, positive, negative, 5.0, 4.0, False, True, momentum).args[0]
        runs.append([sampled(guider, wan, (1.0, SIGMA, 0.0)) for _ in range(2)])
        assert torch.equal(*runs[-1]) and not guider.momenta
    assert (runs[0][0] - runs[1][0]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="apg, cfg_zero: both are on"):
        LodestarSpeechGuidance.execute(s2v, positive, negative, 5.0, 4.0, True, True)


@pytest.mark.parametrize("first", [SpeechGuider, TextFirstGuider])
def test_one_prompt_in_both_places_costs_no_third_prediction(s2v, wan, speech, first):
    """There is nothing for the text's scale to guide, and a prompt of the story replaces both."""
    model, calls = counted(s2v)
    same = prompt(wan, 10, speech)
    found = sampled(first(model, same, same, 1.0, 2.0, False), wan)
    assert sum(calls) == 2
    with_and_without = [sampled(core(model, one, one, 1.0), wan) for one in (
        same, with_speech(same, torch.zeros_like(speech)) if first is SpeechGuider else prompt(wan, 10))]
    assert torch.allclose(found, 2 * with_and_without[0] - with_and_without[1], atol=1e-4)
    assert first(model, same, same, 1.0, 2.0, False).prompt_names == first.names
    assert not first(model, same, prompt(wan, 11), 1.0, 2.0, False).one_prompt
