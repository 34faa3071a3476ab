"""InfiniteTalk on ComfyUI's own Wan 2.1 I2V and model patch: speech, anchors, batches, context windows, whole takes."""
import types

import comfy.context_windows
import comfy.model_management
import comfy.samplers
import pytest
import torch

pytest.importorskip("comfy.ldm.wan.model_multitalk")
from comfy.ldm.wan.model_multitalk import MultiTalkCrossAttnPatch, project_audio_features  # noqa: E402
from draws import random  # noqa: E402
from infinitetalk_models import (  # noqa: E402
    FRAMES,
    SECONDS,
    SIZE,
    apply,
    audio_in,
    features,
    guider,
    halves,
    inputs_of,
    load_patch,
    load_plain,
    session,
)
from lodestar import backbones  # noqa: E402
from lodestar.backbones import attach  # noqa: E402
from lodestar.backbones.backbone import ChunkRequest  # noqa: E402
from lodestar.backbones.infinitetalk.backbone import HELD, SPEAKERS, SPEECH, InfiniteTalk  # noqa: E402
from lodestar.backbones.infinitetalk.patching import with_speech_patch  # noqa: E402
from lodestar.techniques.latent_stitch import LatentStitch  # noqa: E402
from lodestar.techniques.lookahead_anchor import LookaheadAnchor  # noqa: E402
from lodestar.techniques.reference_skip import ReferenceSkip  # noqa: E402
from lodestar.techniques.timeline import Timeline  # noqa: E402


@pytest.fixture(scope="module")
def plain(tiny_models):
    return load_plain(tiny_models)


@pytest.fixture(scope="module")
def patch(tiny_models):
    return load_patch(tiny_models)


@pytest.fixture(scope="module")
def model(plain, patch):
    joined = with_speech_patch(plain, patch, 1.0)
    comfy.model_management.load_models_gpu([joined])
    return joined


def test_the_patched_model_is_found_and_the_bare_one_is_wan(model, plain):
    assert isinstance(backbones.find(model), InfiniteTalk) and not isinstance(backbones.find(plain), InfiniteTalk)


def test_speech_equals_core_s_own_patch(model, plain, patch):
    """Where core's is right: one speaker, a batch of one, no anchors, inside the speech."""
    x, speech = random(1, 16, FRAMES, *SIZE), features()
    rows = torch.stack([layer[0] for layer in speech["encoded_audio_all_layers"]], 1)
    tokens = project_audio_features(patch.model.audio_proj, [rows], 20, 20 + FRAMES * 4 - 3)
    core = {"audio_embeds": tokens, "patches": {"attn2_patch": [MultiTalkCrossAttnPatch(patch)]}}
    wanted = apply(plain, x, options=core)
    assert (apply(model, x, **{SPEECH: audio_in(model, speech, 5)}) - wanted).abs().max() < 1e-5
    assert (apply(plain, x) - wanted).abs().max() > 1e-4


def test_without_speech_and_techniques_it_is_wan_to_the_bit(model, plain):
    x = random(1, 16, FRAMES, *SIZE)
    assert torch.equal(apply(model, x), apply(plain, x))


def test_a_chunk_has_the_audio_of_the_whole_take(model):
    speech = features()
    whole, later = audio_in(model, speech, 0, 16), audio_in(model, speech, 8, 8)
    assert torch.equal(later[:, :, 1:], whole[:, :, 9:])
    assert later[:, :, 0, 5:].eq(0).all()       # one frame, five places


def test_core_s_features_are_brought_to_the_video_s_rate(model):
    """All 13 layers at 50 Hz, as core's node gives them, equal its own interpolation behind the encoder."""
    from comfy_extras.nodes_wan import linear_interpolation
    speech = features(steps=151, rate_hz=50.0, layers=13)
    layers = torch.stack(speech["encoded_audio_all_layers"][1:], 0)[:, 0]
    rows = linear_interpolation(layers, 50, 25).movedim(0, 1)
    found = audio_in(model, speech, 3)
    first = 3 * 4 + 4 * 1 + 1     # frame of latent 2, whose audio is of it and two before first
    assert torch.allclose(found[0, 0, 2], rows[first - 2:first + 6], atol=1e-5)


def test_rows_of_a_batch_have_their_own_speech(model):
    """Core's patch cannot: conditional and unconditional in one call, as a CFG of more than 1 makes them."""
    x = random(1, 16, FRAMES, *SIZE)
    windows = audio_in(model, features()), torch.zeros_like(audio_in(model, features()))
    both = apply(model, x.repeat(2, 1, 1, 1, 1), **{SPEECH: torch.cat(windows)})
    for row, alone in zip(both, windows, strict=True):
        assert (row - apply(model, x, **{SPEECH: alone})[0]).abs().max() < 1e-5
    assert (both[0] - both[1]).abs().max() > 1e-4


def test_two_speakers_are_separated_by_their_masks(model):
    x, windows = random(1, 16, FRAMES, *SIZE), audio_in(model, features(speakers=2))
    tokens = torch.nn.functional.interpolate(halves(), (4, 4)).flatten(2)[:, :, None]
    found = apply(model, x, **{SPEECH: windows, SPEAKERS: tokens})
    turned = apply(model, x, **{SPEECH: windows.flip(1), SPEAKERS: tokens[:, [1, 0, 2]]})
    assert (found - apply(model, x, **{SPEECH: windows.flip(1), SPEAKERS: tokens})).abs().max() > 1e-5
    assert found.shape == turned.shape == x.shape


@pytest.mark.parametrize("distance", [1, 3, 5000])
def test_an_anchor_stands_where_it_was_asked_for_without_audio(model, distance):
    x, picture, windows = random(1, 16, FRAMES, *SIZE), random(1, 16, 1, *SIZE, seed=2), audio_in(model, features())
    seen, anchored = [], attach.with_technique(model, LookaheadAnchor(distance, latents=picture))
    record = {"patches_replace": {"dit": {("double_block", 0): lambda args, extra: (
        seen.append(args["pe"]), extra["original_block"](args))[1]}}}
    found = apply(anchored, x, options=record, **{SPEECH: windows})
    module = model.model.diffusion_model
    asked = module.rope_encode(1, *SIZE, t_start=FRAMES - 1 + distance, dtype=torch.float32)
    assert found.shape == x.shape and torch.equal(seen[0][:, -asked.shape[1]:], asked)
    other = attach.with_technique(model, LookaheadAnchor(distance, latents=picture + 1))
    assert (found - apply(other, x, **{SPEECH: windows})).abs().max() > 1e-5


def test_positions_are_exact_in_bfloat16_at_5000(tiny_models, patch):
    half = with_speech_patch(load_plain(tiny_models, torch.bfloat16), patch, 1.0)
    comfy.model_management.load_models_gpu([half])
    seen, anchored = [], attach.with_technique(half, LookaheadAnchor(5000, latents=random(1, 16, 1, *SIZE)))
    record = {"patches_replace": {"dit": {("double_block", 0): lambda args, extra: (
        seen.append(args["pe"]), extra["original_block"](args))[1]}}}
    apply(anchored, random(1, 16, FRAMES, *SIZE).bfloat16(), options=record,
          **{SPEECH: audio_in(half, features()).bfloat16()})
    asked = half.model.diffusion_model.rope_encode(1, *SIZE, t_start=FRAMES - 1 + 5000, dtype=torch.float32)
    assert torch.equal(seen[0][:, -asked.shape[1]:].float(), asked)


def test_a_reference_skip_hides_the_anchor_from_near_frames(model):
    x, windows = random(1, 16, FRAMES, *SIZE), audio_in(model, features())
    anchor = LookaheadAnchor(placement="in chunk", index=2, latents=random(1, 16, 1, *SIZE, seed=2))
    anchored = attach.with_technique(model, anchor)
    skipped = apply(attach.with_technique(anchored, ReferenceSkip()), x, **{SPEECH: windows})
    assert (skipped - apply(anchored, x, **{SPEECH: windows})).abs().max() > 1e-4


def test_held_latents_stand_clean_in_every_call(model):
    x, known = random(1, 16, FRAMES, *SIZE), random(1, 16, 2, *SIZE, seed=9)
    held = torch.zeros(1, 17, FRAMES, *SIZE)
    held[:, :1, :2], held[:, 1:, :2] = 1, known
    wanted = x.clone()
    wanted[:, :, :2] = model.model.process_latent_in(known)
    conds = {SPEECH: audio_in(model, features())}
    # apply_model gives x - sigma * velocity: of the same velocity, so the rest is equal
    assert torch.allclose(apply(model, x, **conds, **{HELD: held})[:, :, 2:],
                          apply(model, wanted, **conds)[:, :, 2:], atol=1e-6)


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize("text_scale", [1.0, 5.0])
def test_any_guidance_works_and_the_known_latents_stay(model, text_scale, speakers):
    """Core crashes where the CFG is not 1."""
    known = random(1, 16, 2, *SIZE, seed=11)
    inputs = inputs_of(model, known, speakers=speakers)
    made = guider(model, text_scale, inputs.conditions, inputs.uncond)
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    with torch.inference_mode():
        found = made.sample(random(1, 16, FRAMES, *SIZE, seed=1), inputs.samples,
                            comfy.samplers.sampler_object("euler"), sigmas, denoise_mask=inputs.noise_mask, seed=1,
                            disable_pbar=True)
    assert found.shape == (1, 16, FRAMES, *SIZE) and found.isfinite().all()
    assert torch.allclose(found[:, :, :2], known, atol=1e-5)
    inputs.conditions[SPEECH] += 1
    with torch.inference_mode():
        louder = guider(model, text_scale, inputs.conditions, inputs.uncond).sample(
            random(1, 16, FRAMES, *SIZE, seed=1), inputs.samples, comfy.samplers.sampler_object("euler"), sigmas,
            denoise_mask=inputs.noise_mask, seed=1, disable_pbar=True)
    assert (louder - found).abs().max() > 1e-5      # the speech arrives
    assert inputs.new_latents(found, 2).shape[2] == FRAMES - 2


def test_context_windows_have_their_own_audio(model):
    """Core crashes there. The windows' speech is cut as the latents are."""
    inputs, cut = inputs_of(model, latents=12), []
    windowed = model.clone()
    windowed.model_options["context_handler"] = comfy.context_windows.IndexListContextHandler(
        comfy.context_windows.get_matching_context_schedule("standard_static"),
        comfy.context_windows.get_matching_fuse_method("pyramid"), context_length=6, context_overlap=2, dim=2)
    prepare = InfiniteTalk.prepare

    def spy(self, executor, args, kwargs, *rest):
        cut.append(kwargs[SPEECH].clone())
        return prepare(self, executor, args, kwargs, *rest)

    with pytest.MonkeyPatch.context() as patching, torch.inference_mode():
        patching.setattr(InfiniteTalk, "prepare", spy)
        made = guider(windowed, 4.0, inputs.conditions, inputs.uncond)
        found = made.sample(random(1, 16, 12, *SIZE, seed=1), inputs.samples, comfy.samplers.sampler_object("euler"),
                            torch.tensor([1.0, 0.0]), denoise_mask=inputs.noise_mask, seed=1, disable_pbar=True)
    assert found.shape[2] == 12 and found.isfinite().all()
    whole, sizes = inputs.conditions[SPEECH], {windows.shape[2] for windows in cut}
    assert max(sizes) <= 7 and any(torch.equal(windows[-1:, :, -1], whole[:, :, -1]) or torch.equal(
        windows[:1, :, -1], whole[:, :, -1]) for windows in cut)


def test_foreign_parts_are_refused_by_name(model, plain, patch, tiny_models, wan):
    text_model = wan.load(tiny_models, "wan21_t2v")
    with pytest.raises(ValueError, match="model: got Wan text-to-video, wanted Wan 2.1"):
        with_speech_patch(text_model, patch, 1.0)
    with pytest.raises(ValueError, match="model_patch: got Linear"):
        with_speech_patch(plain, types.SimpleNamespace(model=torch.nn.Linear(2, 2)), 1.0)
    with pytest.raises(ValueError, match="80 channels wide, the model 128"):
        with_speech_patch(wan.load(tiny_models, "wan21_i2v"), patch, 1.0)
    backbone, clock = backbones.find(model), Timeline(25)
    from lodestar.backbones.audio.speech import Speech
    with pytest.raises(ValueError, match="got 5 layers of width 768"):
        backbone.check_speech(Speech.of(features(layers=5)), clock)
    with pytest.raises(ValueError, match="16 fps"):
        backbone.check_speech(Speech.of(features()), Timeline(16))
    with pytest.raises(ValueError, match="starts from a picture"):
        backbone.chunk_inputs(ChunkRequest(FRAMES, (16, *SIZE)))


# ---------------------------------------------------------------- whole takes

@pytest.mark.parametrize("mode", [None, "stitch"])
def test_a_take_of_three_chunks(model, tiny_models, tmp_path, monkeypatch, mode):
    """As trained, or with the latents as sampled; every chunk has the picture, and continues from the one before."""
    stitched = model if mode is None else attach.with_technique(model, LatentStitch(mode))
    take = session(stitched, tiny_models, tmp_path, features(), torch.rand(1, 64, 64, 3))
    seen, guider_at = [], attach.guider_at

    def record(*args, **kwargs):
        seen.append(args)
        return guider_at(*args, **kwargs)

    monkeypatch.setattr(attach, "guider_at", record)
    with torch.inference_mode():
        path = take.make("take/one", True).path
    import av
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == SECONDS * 25
    assert len(seen) == 3
    given = [call[3] for call in seen]
    assert all(torch.equal(conditions["concat_latent_image"][:, :, :3], given[0]["concat_latent_image"][:, :, :3])
               for conditions in given)
    opened = [int(conditions[HELD][0, 0, :, 0, 0].sum()) for conditions in given]
    assert opened == [1, 3, 3]


def test_a_condition_by_a_name_of_our_own_reaches_the_call_and_no_other_does():
    entry = {"cross_attn": None, "audio_embed": torch.zeros(1), HELD: None}
    assert set(attach.with_own_conditions({**entry, SPEECH: torch.zeros(1)})["model_conds"]) == {SPEECH}
    assert attach.with_own_conditions(entry) is entry
