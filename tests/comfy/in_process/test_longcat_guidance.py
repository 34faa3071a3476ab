"""Speech Guidance on LongCat, through ComfyUI's sampling, against the formulas on the headless network."""
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from lodestar.backbones import attach
from lodestar.backbones.speech_guider import SpeechGuider
from lodestar.nodes.longcat_schedule import LodestarLongCatSchedule
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.speech_guidance import combine_predictions, shares, zero_guided
from lodestar.techniques.technique import ChunkPosition

STEPS, KNOWN = 3, 2
KEY = "audio_windows"


def sampled(guider, longcat, sigmas=None, known=0):
    """-> latents (1, 16, T, h, w); the first `known` frames stay `longcat.noise(seed=8)`."""
    model = guider.model_patcher
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS) \
        if sigmas is None else sigmas
    latent, mask = longcat.noise(seed=8), torch.ones(1, 1, longcat.FRAMES, *longcat.SIZE)
    mask[:, :, :known] = 0
    latent = latent if known else torch.zeros_like(latent)
    with torch.inference_mode():
        return guider.sample(longcat.noise(), latent, comfy.samplers.sampler_object("euler"), sigmas,
                             denoise_mask=mask if known else None, disable_pbar=True)


def by_hand(model, longcat, predict, known=0):
    """The same with `predict(noisy frames, sigma)`, which gives the guided velocity of these frames alone."""
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    x = longcat.noise()[:, :, known:]
    for sigma, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = x + (after - sigma) * predict(x, sigma)
    shown = longcat.noise(seed=8)[:, :, :known]
    return torch.cat([shown, model.model.process_latent_out(x)], 2)


def noisy_velocity(model, longcat, known, sigma, x, rows, **how):
    """Of the frames that are not known, which are clean frames in front of them."""
    network = longcat.headless(model)
    shown = model.model.process_latent_in(longcat.noise(seed=8)[:, :, :known])
    laid_out = {"clean": (known,)} if known else {}
    return longcat.velocity(network, torch.cat([shown, x], 2), sigma, rows, **laid_out, **how)[:, :, known:]


@pytest.mark.parametrize("scales", [(4.0, 4.0), (4.0, 3.0), (2.0, 5.0), (4.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("name", ["AVATAR", "AVATAR15", "INT8"])
def test_a_run_is_the_formula_by_hand(tiny_models, longcat, name, scales):
    """Unconditional audio is zeros that pass through the projector: its biases count."""
    model = longcat.load(tiny_models, getattr(longcat, name))
    audio = longcat.speech(model)

    def guided(x, sigma):
        made = [noisy_velocity(model, longcat, KNOWN, sigma, x, rows, audio=audio_in) for rows, audio_in in (
            (longcat.text(), audio), (longcat.text(seed=4), audio), (longcat.text(seed=4), torch.zeros_like(audio)))]
        return combine_predictions(made, shares(*scales))

    guider = SpeechGuider(model, longcat.prompt(model), [[longcat.text(seed=4), {}]], *scales, False)
    expected = by_hand(model, longcat, guided, KNOWN)
    torch.testing.assert_close(sampled(guider, longcat, known=KNOWN), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("known", [0, KNOWN])
def test_cfg_zero_sees_noisy_frames_alone(tiny_models, longcat, known):
    """As the authors' run with cached clean frames."""
    model = longcat.load(tiny_models, longcat.BASE)

    def guided(x, sigma):
        return zero_guided(*(noisy_velocity(model, longcat, known, sigma, x, longcat.text(seed=seed))
                             for seed in (3, 4)), 4.0)

    guider = SpeechGuider(model, longcat.prompt(model), longcat.prompt(model, seed=4), 4.0, 7.0, True)
    expected = by_hand(model, longcat, guided, known)
    torch.testing.assert_close(sampled(guider, longcat, known=known), expected, atol=2e-4, rtol=0)


def guider_on(model, longcat, scales=(4.0, 3.0)):
    reference = [longcat.random(1, 16, 1, *longcat.SIZE, seed=6)]
    positive = longcat.prompt(model, reference_latents=reference)
    return SpeechGuider(model, positive, [[longcat.text(seed=4), {"reference_latents": reference}]], *scales, False)


@pytest.mark.parametrize("place", ["VRAM", "RAM"])
def test_all_predictions_share_the_kv_cache(tiny_models, longcat, place, caplog):
    model = longcat.load(tiny_models, longcat.AVATAR15)
    joint = sampled(guider_on(model, longcat), longcat, known=KNOWN)
    with caplog.at_level("INFO", "lodestar"):
        kept = sampled(guider_on(attach.with_technique(model, ConditioningCache(place)), longcat), longcat, known=KNOWN)
    torch.testing.assert_close(kept, joint, atol=1e-4, rtol=0)
    assert len([record for record in caplog.records if "KV cache" in record.message]) == 1


def test_two_clones_do_not_disturb_each_other(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.AVATAR15)
    anchor = LookaheadAnchor(3.0, latents=longcat.random(1, 16, 1, *longcat.SIZE, seed=9))
    near = guider_on(attach.with_technique(model, anchor), longcat)
    caching = attach.with_technique(model, ConditioningCache("VRAM"))
    far = guider_on(attach.with_technique(caching, anchor), longcat, (2, 2))
    plain = guider_on(model, longcat)
    first, other = sampled(near, longcat, known=KNOWN), sampled(far, longcat, known=KNOWN)
    alone = sampled(plain, longcat, known=KNOWN)
    assert torch.equal(sampled(near, longcat, known=KNOWN), first)
    assert torch.equal(sampled(far, longcat, known=KNOWN), other)
    assert torch.equal(sampled(plain, longcat, known=KNOWN), alone)
    assert len({float(result.sum()) for result in (first, other, alone)}) == 3


def test_long_take_sets_the_speech_of_each_prediction(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.AVATAR15)
    audio, guidance = longcat.speech(model, seed=7), (4.0, 3.0, False)
    guider = SpeechGuider(model, [[longcat.text(), {}]], [[longcat.text(seed=4), {}]], *guidance)
    chunk = attach.guider_at(guider, (), ChunkPosition(), {KEY: audio}, {KEY: torch.zeros_like(audio)})
    direct = SpeechGuider(model, [[longcat.text(), {KEY: audio}]], [[longcat.text(seed=4), {}]], *guidance)
    assert torch.equal(sampled(chunk, longcat), sampled(direct, longcat))


def test_the_distilled_run_makes_one_prediction_a_step(tiny_models, longcat):
    model, calls = longcat.load(tiny_models, longcat.AVATAR15).clone(), []

    def count(apply_model, args):
        calls.append(len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(count)
    sigmas = LodestarLongCatSchedule.execute(model, "distilled 8", 8, 0.0).args[0]
    assert sampled(guider_on(model, longcat, (1.0, 1.0)), longcat, sigmas).isfinite().all()
    assert calls == [1] * 8
    sampled(guider_on(model, longcat, (4.0, 3.0)), longcat, sigmas)
    assert calls[8:] == [3] * 8


def test_easycache_skips_steps_of_all_three(tiny_models, longcat):
    model = longcat.load(tiny_models, longcat.AVATAR15)
    calls = []

    def counted(function, *args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    def run(patcher):
        patcher = patcher.clone()
        patcher.model_options["transformer_options"]["optimized_attention_override"] = counted
        calls.clear()
        sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "simple", 8)
        return sampled(guider_on(patcher, longcat), longcat, sigmas), len(calls)

    eased, fewer = run(EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0])
    full, all_calls = run(model)
    assert eased.isfinite().all() and fewer < all_calls and not torch.equal(eased, full)
