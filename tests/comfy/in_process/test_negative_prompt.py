"""Negative Prompt (NAG) on LongCat in ComfyUI: the network with it, one prediction a step."""
import comfy.samplers
import pytest
import torch
from lodestar.backbones import attach
from lodestar.backbones.longcat.backbone import prompted_rows
from lodestar.backbones.longcat.lora import with_lora
from lodestar.backbones.speech_guider import SpeechGuider
from lodestar.nodes.negative_prompt import LodestarNegativePrompt
from lodestar.techniques.attention_guidance import AttentionGuidance
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from safetensors.torch import load_file


@pytest.fixture(scope="module", params=["BASE", "AVATAR15"])
def model(request, tiny_models, longcat):
    return longcat.load(tiny_models, getattr(longcat, request.param))


def negative(model, longcat, scale=3.0, tau=1.5, alpha=0.5, text=None):
    text = [[longcat.text(tokens=20, seed=4) if text is None else text, {}]]
    return LodestarNegativePrompt.execute(model=model, negative=text, nag_scale=scale, nag_tau=tau,
                                          nag_alpha=alpha).args[0]


def test_a_run_is_the_network_with_it(model, longcat):
    """One prediction a step; the text is padded to 512 tokens as the prompt is."""
    network, audio = longcat.headless(model), {}
    if model.model.diffusion_model.config.audio is not None:
        audio = {"audio": longcat.speech(model)}
    rows = torch.zeros(1, 512, 4096)
    rows[:, :20] = longcat.text(tokens=20, seed=4)
    found = longcat.sample(negative(model, longcat), longcat.prompt(model))
    expected = longcat.euler(model, lambda x, sigma: longcat.velocity(
        network, x, sigma, negative=rows, guidance=AttentionGuidance(3.0, 1.5, 0.5), **audio))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
    plain = longcat.sample(model, longcat.prompt(model))
    assert not torch.allclose(found, plain, atol=1e-3)
    torch.testing.assert_close(longcat.sample(negative(model, longcat, alpha=0.0), longcat.prompt(model)), plain,
                               atol=1e-5, rtol=0)


def test_it_costs_one_text_attention_a_block_and_no_prediction(model, longcat):
    def count(patched):
        calls = []
        clone = patched.clone()
        clone.model_options["transformer_options"]["optimized_attention_override"] = \
            lambda function, *args, **kwargs: (calls.append(args[1].shape[1]), function(*args, **kwargs))[1]
        longcat.sample(clone, longcat.prompt(model), steps=1)
        return calls

    plain, guided = count(model), count(negative(model, longcat))
    assert len(guided) - len(plain) == 2 and guided.count(512) == 2 * plain.count(512) == 4


def test_beside_kv_cache_and_anchor_the_order_does_not_matter(model, longcat):
    anchor, reference = LookaheadAnchor(3), [longcat.noise(1, seed=9)]
    prompt = longcat.prompt(model, reference_latents=reference)
    one = attach.with_technique(negative(model, longcat), anchor)
    other = negative(attach.with_technique(attach.with_technique(model, ConditioningCache()), anchor), longcat)
    models = one, other, attach.with_technique(model, anchor)
    results = [longcat.sample(patched, prompt, steps=2) for patched in models]
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=0)
    assert not torch.allclose(results[0], results[2], atol=1e-3)


def test_a_lora_acts_before_it_and_behind_it(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.AVATAR15)
    weights = load_file(tiny_models / "models" / "loras" / f"{longcat.AVATAR15}_lora.safetensors")
    models = (negative(with_lora(model, weights, 1.0, "lora"), longcat),
              with_lora(negative(model, longcat), weights, 1.0, "lora"), negative(model, longcat))
    results = [longcat.sample(patched, longcat.prompt(model), steps=2) for patched in models]
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=0)
    assert not torch.allclose(results[0], results[2], atol=1e-3)


def test_what_does_not_fit_is_refused(tiny_models, longcat, wan):
    with pytest.raises(ValueError, match="model: got .*, wanted a LongCat model"):
        negative(wan.load(tiny_models, "wan21_t2v"), longcat)
    with pytest.raises(ValueError, match="negative: got a prompt of width 64, wanted 4096"):
        negative(longcat.load(tiny_models, longcat.BASE), longcat, text=torch.zeros(1, 4, 64))
    two = [[longcat.text(tokens=9, seed=seed), {}] for seed in (4, 5)]
    with pytest.raises(ValueError, match="negative: got 2 prompts, wanted one.*Conditioning Combine"):
        LodestarNegativePrompt.execute(longcat.load(tiny_models, longcat.BASE), two, 3.0, 1.5, 0.5)


@pytest.mark.parametrize("apart", [False, True])
def test_under_cfg_the_conditional_prediction_alone_is_guided(model, longcat, monkeypatch, apart):
    """As its authors have it: the difference that CFG makes larger is then not that of a guided negative prompt."""
    if apart:   # where memory is short, each prediction is a call of its own
        monkeypatch.setattr(type(model.model), "memory_required", lambda *_, **__: 1 << 60)
    guided, prompt = negative(model, longcat), longcat.prompt(model)
    other = [[longcat.text(tokens=9, seed=8), prompt[0][1]]]
    once = {"steps": 1}
    with_both = longcat.sample(guided, prompt, other, cfg=4.0, **once)
    conditional, unconditional = longcat.sample(guided, prompt, **once), longcat.sample(model, other, **once)
    torch.testing.assert_close(with_both, unconditional + 4 * (conditional - unconditional), atol=2e-4, rtol=0)
    assert not torch.allclose(longcat.sample(guided, other, **once), unconditional, atol=1e-3)


def test_speech_guidance_of_one_prompt_guides_all_predictions(tiny_models, longcat):
    """Speech alone tells them apart; all have the prompt."""
    model = longcat.load(tiny_models, longcat.AVATAR15)
    seen, guided, prompt = [], negative(model, longcat), longcat.prompt(model)
    prompt[0][1]["audio_windows"] = longcat.speech(model)
    guided.set_model_unet_function_wrapper(lambda apply, given: (seen.append(prompted_rows(
        given["c"]["transformer_options"], len(given["input"]))), apply(given["input"], given["timestep"],
                                                                         **given["c"]))[1])
    guider = SpeechGuider(guided, prompt, prompt, 1.0, 3.0, False)
    with torch.inference_mode():
        guider.sample(longcat.noise(), torch.zeros_like(longcat.noise()), comfy.samplers.sampler_object("euler"),
                      torch.tensor([1.0, 0.0]), disable_pbar=True, seed=1)
    assert sum(map(len, seen)) == 2 and all(map(all, seen))
