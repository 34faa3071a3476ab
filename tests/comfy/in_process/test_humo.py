"""HuMo on ComfyUI's own HumoWanModel: references in their slots, anchors, speech of any length, whole takes."""
import types
from dataclasses import replace
from fractions import Fraction

import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import humo_grey
import pytest
import tiny_talk
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from humo_models import FRAMES, RATE, SIZE, anchored, features, inputs_of, load, prompt, random, sample
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkInputs
from lodestar.backbones.humo.backbone import REFERENCE, SPEECH, HuMo
from lodestar.backbones.humo.references import concat_channels
from lodestar.backbones.images import fit_on_white
from lodestar.backbones.speech_guider import guide_speech
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.humo_sampler import LodestarHuMoSampler
from lodestar.nodes.one_chunk import LodestarOneChunk
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.timeline import Timeline

SECONDS = 3


@pytest.fixture(scope="module", params=tiny_talk.HUMO)
def model(request, tiny_models):
    return load(tiny_models, request.param)


def by_hand(model, inputs, rows=None):
    """One denoising step by the bare module on what the authors give it: references as slots of the clip."""
    module, base = model.model.diffusion_model, model.model
    x = random(*inputs.samples.shape, seed=1)
    picture = base.process_latent_in(inputs.conditions[REFERENCE][:, 1:])
    if module.in_dim == 36:
        whole = torch.cat([x, concat_channels(humo_grey.latents(x.shape[2], *SIZE), picture, 1)], 1)
    else:
        whole = torch.cat([x[:, :, :-1], picture], 2)
    if rows is not None:
        module.rope_encode = lambda *_, **__: rows
    try:
        with torch.inference_mode():
            velocity = module(whole, torch.tensor([1000.0]), random(1, 7, 4096, seed=3),
                              audio_embed=inputs.conditions[SPEECH])
    finally:
        vars(module).pop("rope_encode", None)
    return (x - velocity)[:, :, :-1]


def test_references_stand_in_their_slots_as_trained(model):
    inputs = inputs_of(model)
    found = inputs.new_latents(sample(anchored(model), inputs, sigmas=(1.0, 0.0)), 0)
    wanted = model.model.process_latent_out(by_hand(model, inputs))
    assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("distance", [1, 4, 5000])
def test_an_anchor_moves_the_reference_s_time(model, distance):
    inputs, module = inputs_of(model), model.model.diffusion_model
    rows = torch.cat([module.rope_encode(FRAMES, *SIZE, dtype=torch.float32),
                      module.rope_encode(1, *SIZE, t_start=FRAMES - 1 + distance, dtype=torch.float32)], 1)
    found = inputs.new_latents(sample(anchored(model, LookaheadAnchor(distance)), inputs, sigmas=(1.0, 0.0)), 0)
    wanted = model.model.process_latent_out(by_hand(model, inputs, rows))
    assert (found - wanted).abs().max() < 1e-4
    stock = inputs.new_latents(sample(anchored(model), inputs, sigmas=(1.0, 0.0)), 0)
    assert torch.equal(found, stock) if distance == 1 else not torch.allclose(found, stock, atol=1e-5)


def test_further_anchors_and_a_skip_change_the_result_and_keep_its_shape(model):
    inputs = inputs_of(model)
    plain = sample(anchored(model), inputs)
    further = LookaheadAnchor(9, latents=random(1, 16, 2, *SIZE, seed=7))
    both = sample(anchored(model, LookaheadAnchor(4), further), inputs)
    skipped = sample(anchored(model, LookaheadAnchor(placement="in chunk", index=2), ReferenceSkip()), inputs)
    assert both.shape == skipped.shape == plain.shape
    assert (both - plain).abs().max() > 1e-5 and (skipped - plain).abs().max() > 1e-5


def test_a_keyframe_takes_the_place_of_the_first_of_several_pictures(model):
    inputs, keyframe = inputs_of(model, pictures=2), random(1, 16, 1, *SIZE, seed=8)
    shown = sample(anchored(model, NarrativeKeyframes().plus(Fraction(9), keyframe)), inputs)
    changed = {**inputs.conditions, REFERENCE: inputs.conditions[REFERENCE].clone()}
    changed[REFERENCE][:, 1:, :1] = keyframe
    wanted = sample(anchored(model), replace(inputs, conditions=changed))
    assert torch.allclose(shown, wanted, atol=1e-4)
    assert not torch.allclose(shown, sample(anchored(model), inputs), atol=1e-3)


def test_positions_are_exact_in_bfloat16_at_5000(tiny_models):
    half = load(tiny_models, "lodestar_tiny_humo_1_7b", torch.bfloat16)
    seen, patched = [], anchored(half, LookaheadAnchor(5000))
    record = {("double_block", 0): lambda args, extra: (seen.append(args["pe"]), extra["original_block"](args))[1]}
    patched.model_options["transformer_options"]["patches_replace"] = {"dit": record}
    sample(patched, inputs_of(half), sigmas=(1.0, 0.0))
    asked = half.model.diffusion_model.rope_encode(1, *SIZE, t_start=FRAMES - 1 + 5000, dtype=torch.float32)
    assert torch.equal(seen[0][:, -asked.shape[1]:].float(), asked)


def test_without_speech_or_picture_it_runs(model):
    """Core's node fails without audio."""
    for speech, picture in ((False, True), (True, False), (False, False)):
        inputs = inputs_of(model, speech, int(picture))
        assert sample(anchored(model), inputs, 4.0).isfinite().all()


def test_known_latents_stay(model):
    known = random(1, 16, 2, *SIZE, seed=11)
    inputs = inputs_of(model, context=known)
    found = sample(anchored(model), inputs, 4.0)
    assert torch.allclose(found[:, :, :2], known, atol=1e-4) and inputs.new_latents(found, 2).shape[2] == FRAMES - 2


def test_a_later_chunk_has_the_audio_of_the_whole_take(model):
    backbone, speech, clock = backbones.find(model), Speech.of(features(900)), Timeline(25)    # 36 s
    whole, later = (backbone.audio_for(speech, clock, *place) for place in ((0, 240), (200, 30)))
    assert torch.equal(later[:, 1:], whole[:, 201:230]) and whole[0, 215].any()
    assert not whole[0, 230].any()      # behind the end


def test_core_s_33_states_become_the_groups_over_the_whole_speech(model):
    states = features(160, layers=33, rate_hz=50.0)
    layers = torch.stack(states["encoded_audio_all_layers"], 0)[:, 0]
    groups = torch.stack([layers[low:high].mean(0) for low, high in ((0, 8), (8, 16), (16, 24), (24, 32), (32, 33))], 1)
    wanted = torch.nn.functional.interpolate(groups.permute(1, 2, 0), 80, mode="linear", align_corners=True)
    wanted = wanted.permute(2, 0, 1)
    found = backbones.find(model).audio_for(Speech.of(states), Timeline(25), 4, 6)
    assert torch.allclose(found[0, 1], wanted[4 * 5 - 5:4 * 5 + 3], atol=1e-4)


def test_what_does_not_fit_is_refused(model):
    backbone = backbones.find(model)
    with pytest.raises(ValueError, match="got 12 layers of width 1280"):
        backbone.check_speech(Speech.of(features(layers=12)), Timeline(25))
    with pytest.raises(ValueError, match="16 fps"):
        backbone.check_speech(Speech.of(features()), Timeline(16))
    with pytest.raises(ValueError, match="5 layers at 50 Hz"):
        backbone.check_speech(Speech.of(features(rate_hz=50.0)), Timeline(25))
    inputs = inputs_of(model)
    inputs.conditions.pop(REFERENCE), inputs.uncond.pop(REFERENCE)
    with pytest.raises(ValueError, match="no reference slots"):
        sample(anchored(model, LookaheadAnchor(4, latents=random(1, 16, 1, *SIZE))), inputs)


@pytest.fixture(scope="module")
def vae(tiny_models):
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(
        tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors")), dtype=torch.float32)


def one_chunk(model, vae, pictures=None):
    """What One Chunk gives a sampler: a clip of 17 frames."""
    with torch.inference_mode():
        return LodestarOneChunk.execute(model, prompt(3), prompt(4), vae, 64, 64, 17, features(), pictures)


def test_pictures_stand_whole_on_white_each_in_a_slot_of_its_own(model, vae):
    pictures = torch.rand(2, 40, 90, 3, generator=torch.Generator().manual_seed(1))
    positive, negative, latent, _ = one_chunk(model, vae, pictures).args
    assert latent["samples"].shape == (1, 16, FRAMES + 2, *SIZE)
    reference = positive[0][1][REFERENCE]
    assert reference[:, :1].min() == 1 and not negative[0][1][REFERENCE].any()
    for slot, picture in enumerate(pictures):
        with torch.inference_mode():
            wanted = vae.encode(fit_on_white(picture, 64, 64)[None])
        assert torch.allclose(reference[:, 1:, slot:slot + 1], wanted, atol=1e-5)
    with pytest.raises(ValueError, match="reference: got 9 pictures or more, wanted 1 to 8 for HuMo"):
        one_chunk(model, vae, torch.rand(30, 16, 16, 3))


def test_one_chunk_s_own_model_sees_the_reference(model, vae):
    """The model as its loader gives it reads no conditions of ours."""
    made = []
    for seed in (1, 2):
        picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))
        positive, negative, latent, ready = one_chunk(model, vae, picture).args
        guider = comfy.samplers.CFGGuider(ready)
        guider.set_conds(positive, negative)
        made.append(sample(ready, ChunkInputs(latent["samples"]), guider=guider))
    assert attach.patch_of(model) is None and (made[0] - made[1]).abs().max() > 1e-4


def test_another_model_s_vae_is_refused_before_it_encodes(model):
    other = types.SimpleNamespace(latent_channels=48, encode=None, decode=None, first_stage_model=None)
    with pytest.raises(ValueError, match="vae: it makes latents of 48 channels, HuMo .* wants 16"):
        one_chunk(model, other, torch.rand(1, 64, 64, 3))


def test_a_take_of_three_chunks(model, vae, tmp_path, caplog):
    """By the authors' guidance and solver, with two pictures; it could be resumed."""
    patched = attach.with_technique(model, LookaheadAnchor(3))
    audio = {"waveform": torch.zeros(1, 1, SECONDS * RATE), "sample_rate": RATE}
    take = LodestarPlanTake.execute(model=patched, audio=audio, fps=25.0, script="", width=64, height=64,
                                    chunk_frames=33, overlap_frames=5, seed_step=1, max_seconds=0.0).args[0]
    guider = guide_speech(patched, prompt(3), prompt(4), 5.0, 5.5, False, 4.0)
    folder_paths.set_output_directory(str(tmp_path))
    sampling = Sampling(Noise_RandomNoise(3), guider, *LodestarHuMoSampler.execute(model, 2, 5.0, True).args)
    session = TakeSession(TakeInputs(patched, vae, take.plan, torch.rand(2, 64, 64, 3), features()), sampling, take,
                          types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))
    with torch.inference_mode():
        path = session.make("take/one", False).path
    import av
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == SECONDS * 25
    assert len(take.plan.chunks) == 3 and isinstance(backbones.find(model), HuMo)
    assert "cannot be resumed" not in caplog.text
