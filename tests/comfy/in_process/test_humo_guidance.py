"""HuMo's own guidance in the graph, against its formula over predictions that ComfyUI makes one by one."""
import comfy.samplers
import pytest
import tiny_talk
import torch
from humo_models import RATE, inputs_of, load, prompt, random, sample
from lodestar.backbones import attach
from lodestar.backbones.humo.backbone import REFERENCE, SPEECH
from lodestar.backbones.humo.guider import PREDICTIONS, HuMoGuider
from lodestar.backbones.speech_guider import guide_speech
from lodestar.nodes.speech_guidance import LodestarSpeechGuidance
from lodestar.techniques.technique import ChunkPosition

TEXT, AUDIO, PICTURE = 5.0, 5.5, 4.0
EARLY, LATE = 0.999, 0.9


@pytest.fixture(scope="module", params=tiny_talk.HUMO)
def model(request, tiny_models):
    return load(tiny_models, request.param)


@pytest.fixture(scope="module")
def large(tiny_models):
    return load(tiny_models, "lodestar_tiny_humo_17b")


def is_large(model):
    return model.model.diffusion_model.in_dim == 36


def positive_of(inputs):
    return prompt(3, inputs.conditions)


def negative_of(inputs):
    return prompt(4, {**inputs.conditions, **inputs.uncond})


def one(model, inputs, sigma, text, speech, reference):
    """One prediction alone, by core's own guider."""
    values = {**inputs.conditions, **({} if speech else {SPEECH: inputs.uncond[SPEECH]}),
              **({} if reference else {REFERENCE: inputs.uncond[REFERENCE]})}
    guider = comfy.samplers.CFGGuider(attach.ready_model(model))
    guider.set_conds(prompt(3 if text else 4, values), prompt(4, values))
    guider.set_cfg(1.0)
    return sample(model, inputs, sigmas=(sigma, 0.0), guider=guider)


def formula(model, inputs, sigma):
    def v(text, speech, reference):
        return one(model, inputs, sigma, text, speech, reference)

    if not is_large(model):
        return PICTURE * (v(1, 1, 1) - v(1, 1, 0)) + AUDIO * (v(1, 1, 0) - v(1, 0, 0)) \
            + TEXT * (v(1, 0, 0) - v(0, 0, 0)) + v(0, 0, 0)
    last, scale = (v(0, 0, 1), TEXT) if 1000 * sigma > 980 else (v(0, 0, 0), TEXT - 2)
    return AUDIO * (v(1, 1, 1) - v(1, 0, 1)) + scale * (v(1, 0, 1) - last) + last


def guider_of(model, inputs, *scales):
    return guide_speech(model, positive_of(inputs), negative_of(inputs), *(scales or (TEXT, AUDIO)), False, PICTURE)


def counted(model):
    """A clone, and the number of predictions in each of its calls."""
    clone, calls = model.clone(), []

    def count(apply_model, args):
        calls.append(len(args["cond_or_uncond"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(count)
    return clone, calls


@pytest.mark.parametrize("sigma", [EARLY, LATE])
def test_it_is_the_authors_formula(model, sigma):
    inputs = inputs_of(model)
    guided = inputs.new_latents(sample(model, inputs, sigmas=(sigma, 0.0), guider=guider_of(model, inputs)), 0)
    wanted = inputs.new_latents(formula(model, inputs, sigma), 0)
    assert torch.allclose(guided, wanted, atol=1e-3 * float(wanted.abs().max()))
    plain = comfy.samplers.CFGGuider(attach.ready_model(model))
    plain.set_conds(positive_of(inputs), negative_of(inputs))
    plain.set_cfg(TEXT)
    one_cfg = inputs.new_latents(sample(model, inputs, sigmas=(sigma, 0.0), guider=plain), 0)
    assert not torch.allclose(guided, one_cfg, atol=2e-2 * float(wanted.abs().max()))


def test_a_whole_number_of_timesteps_decides_the_switch(large):
    """981.9 is 981, above 980; 980.9 is 980, no longer."""
    inputs = inputs_of(large)
    above, below = (sample(large, inputs, sigmas=(sigma, 0.0), guider=guider_of(large, inputs))
                    for sigma in (0.9811, 0.9809))
    assert torch.allclose(above, formula(large, inputs, 0.9811), atol=1e-2)
    assert not torch.allclose(above, below, atol=5e-2)


@pytest.mark.parametrize(("there", "scales", "counts"), [
    ((True, 1), (TEXT, AUDIO), (3, 4)), ((False, 1), (TEXT, AUDIO), (2, 3)), ((True, 0), (TEXT, AUDIO), (3, 3)),
    ((False, 0), (TEXT, AUDIO), (2, 2)), ((True, 1), (TEXT, TEXT), (2, 3)), ((True, 0), (1.0, 1.0), (1, 1))])
def test_no_prediction_too_many(model, there, scales, counts):
    """Of the 17B and of the 1.7B: with speech and pictures or none, and with scales that make some redundant."""
    clone, calls = counted(model)
    inputs = inputs_of(model, *there)
    sample(clone, inputs, sigmas=(EARLY, LATE, 0.0), guider=guider_of(clone, inputs, *scales))
    late = 3 if scales == (TEXT, TEXT) and is_large(model) else counts[0 if is_large(model) else 1]  # 5 and 3 differ
    assert sum(calls) == counts[0 if is_large(model) else 1] + late


@pytest.mark.parametrize(("there", "counts"), [((True, 1), (2, 3)), ((True, 0), (2, 2)), ((False, 0), (1, 1))])
def test_one_prompt_in_both_places_leaves_nothing_for_its_scale(model, there, counts):
    clone, calls = counted(model)
    inputs = inputs_of(model, *there)
    guider = guide_speech(clone, positive_of(inputs), positive_of(inputs), TEXT, AUDIO, False, PICTURE)
    guided = sample(clone, inputs, sigmas=(EARLY, 0.0), guider=guider)
    assert sum(calls) == counts[0 if is_large(model) else 1]
    if there[0] and is_large(model):
        whole, silent = (one(model, inputs, EARLY, 1, speech, 1) for speech in (1, 0))
        wanted = silent + AUDIO * (whole - silent)
        assert torch.allclose(guided, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_without_a_picture_it_never_switches(large):
    inputs = inputs_of(large, pictures=0)
    for sigma in (EARLY, LATE):
        guided = sample(large, inputs, sigmas=(sigma, 0.0), guider=guider_of(large, inputs))
        whole, text, nothing = (one(large, inputs, sigma, *made, 1) for made in ((1, 1), (1, 0), (0, 0)))
        wanted = AUDIO * (whole - text) + TEXT * (text - nothing) + nothing
        assert torch.allclose(guided, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_in_a_take_each_prediction_has_the_chunk_s_own(model):
    """Long Take sets the chunk's speech and picture, and a script's prompt, behind the node."""
    inputs, text = inputs_of(model), random(1, 9, 4096, seed=15)
    guider = LodestarSpeechGuidance.execute(model, prompt(3), prompt(4), TEXT, AUDIO, False).args[0]
    assert type(guider) is HuMoGuider and guider.reference_scale == 4
    chunk = attach.guider_at(guider, (), ChunkPosition(), inputs.conditions, inputs.uncond, [[text, {}]])
    for name, made in PREDICTIONS.items():
        entry, = chunk.original_conds[name]
        assert torch.equal(entry["cross_attn"], text) == made.prompt
        assert bool(entry[SPEECH].any()) == made.speech and bool(entry[REFERENCE].any()) == made.reference
    guided = sample(model, inputs, sigmas=(LATE, 0.0), guider=attach.guider_at(
        guider, (), ChunkPosition(), inputs.conditions, inputs.uncond))
    assert torch.equal(guided, sample(model, inputs, sigmas=(LATE, 0.0), guider=guider_of(model, inputs)))


def test_a_run_leaves_nothing_on_the_guider(model):
    """What a run found out is no part of what identifies a take."""
    inputs = inputs_of(model, speech=False)
    guider = guider_of(model, inputs)
    before = set(vars(guider))
    sample(model, inputs, guider=guider)
    assert set(vars(guider)) == before and guider.audio_in


def test_the_conditioning_of_core_s_node_is_guided_too(large):
    from comfy_extras.nodes_wan import WanHuMoImageToVideo

    class Vae:
        """Stands for no VAE at all: a picture's latent."""
        encode = staticmethod(lambda pixels: random(1, 16, 1, 8, 8, seed=2))

    features = {"encoded_audio_all_layers": [random(1, 60, 1280, seed=layer) for layer in range(33)],
                "audio_samples": RATE}
    positive, negative, latent = WanHuMoImageToVideo.execute(
        prompt(3), prompt(4), Vae(), 64, 64, 17, 1, torch.rand(1, 64, 64, 3), features).args
    clone, calls = counted(large)
    guider = guide_speech(clone, positive, negative, TEXT, AUDIO, False)
    with torch.inference_mode():
        found = guider.sample(random(*latent["samples"].shape), latent["samples"],
                              comfy.samplers.sampler_object("euler"), torch.tensor([EARLY, 0.0]), disable_pbar=True)
    assert sum(calls) == 3 and found.isfinite().all()
