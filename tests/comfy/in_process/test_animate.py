"""Wan-Animate on ComfyUI's own AnimateWanModel: what a chunk is given equals core's node; anchors; what is refused."""
from fractions import Fraction

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import tiny_animate
import torch
from comfy_extras.nodes_wan import WanAnimateToVideo
from draws import random
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.animate.backbone import WanAnimate
from lodestar.host.take_inputs import TakeInputs
from lodestar.pipelines.frames_at_times import ClipFrames
from lodestar.pipelines.take.driving import DrivingVideo
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.timeline import Timeline

FPS, FRAMES, WIDTH, HEIGHT, OVERLAP = Fraction(30), 37, 64, 48, 5
CHUNK = 17      # pixel frames
SIZE, LATENTS = (HEIGHT // 8, WIDTH // 8), 5


def load(tiny_models, name, dtype=torch.float32):
    path = tiny_models / "models" / "diffusion_models" / f"{name}.safetensors"
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    comfy.model_management.load_models_gpu([model])
    return model


@pytest.fixture(scope="module")
def model(tiny_models):
    return load(tiny_models, tiny_animate.ANIMATE)


@pytest.fixture(scope="module")
def vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)


def pictures(count, height, width, seed):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def parts(face=True, background=True, frames=FRAMES):
    """Of a driving video, at the take's rate and in sizes of their own."""
    found = {"pose": pictures(frames, 60, 70, 1)}
    if face:
        found["face"] = pictures(frames, 40, 30, 2)
    if background:
        found["background"] = pictures(frames, 48, 64, 3)
        found["mask"] = (pictures(frames, 32, 32, 4)[..., :1] > 0.5).float()
    return found


def driving_of(given, at_end="refuse"):
    return DrivingVideo({part: ClipFrames(frames, FPS, part) for part, frames in given.items()}, at_end)


def take_of(model, vae, given, frames=FRAMES, picture=None):
    plan = plan_take(Timeline(FPS), frames, CHUNK, OVERLAP, WIDTH, HEIGHT)
    picture = pictures(1, 100, 90, 5) if picture is None else picture
    return TakeInputs(model, vae, plan, picture, driving=given and driving_of(given))


def core(vae, given, picture, offset=0, continued=None, length=CHUNK):
    """Core's node on the same: the values it sets, its latent, trims and the next offset."""
    text = [[random(1, 7, 4096, seed=3), {}]]
    mask = given.get("mask")
    out = WanAnimateToVideo.execute(
        text, text, vae, WIDTH, HEIGHT, length, 1, OVERLAP, offset, picture, None, given.get("face"), given["pose"],
        continued, given.get("background"), None if mask is None else mask[..., 0]).args
    return out[0][0][1], out[1][0][1], *out[2:]


def assert_given(inputs, positive, negative, latent, exact=True):
    assert set(inputs.conditions) == set(positive)
    for name, value in positive.items():
        mine, other = inputs.conditions[name], {**inputs.conditions, **inputs.uncond}[name]
        assert mine.shape == value.shape and (mine - value).abs().max() <= (0 if exact else 1e-5), name
        assert (other - negative[name]).abs().max() <= (0 if exact else 1e-5), name
    assert torch.equal(inputs.samples, latent["samples"])


@pytest.mark.parametrize("given", [{}, {"face": False, "background": False}], ids=str)
def test_a_first_and_a_later_chunk_are_given_what_core_gives(model, vae, given):
    given, picture = parts(**given), pictures(1, 100, 90, 5)
    take = take_of(model, vae, given, picture=picture)
    first, later, last = take.plan.chunks
    with torch.inference_mode():
        positive, negative, latent, trim, _, offset = core(vae, given, picture)
        inputs = take.chunk_inputs(first, reference=take.reference)
        assert_given(inputs, positive, negative, latent)
        assert inputs.before == trim == 1
        for chunk in (later, last):
            before = pictures(CHUNK, HEIGHT, WIDTH, 6 + chunk.index)
            positive, negative, latent, _, trim_image, offset = core(vae, given, picture, offset, before,
                                                                    chunk.latents * 4 - 3)
            context = take.encode(before[-OVERLAP:])
            inputs = take.chunk_inputs(chunk, context, take.reference, before[-OVERLAP:])
            assert_given(inputs, positive, negative, latent)
            assert trim_image == OVERLAP and chunk.context_latents == 2
    assert take.plan.frames_of(last)[1] == FRAMES == offset


def test_a_chunk_that_goes_on_from_latents_differs_only_there(model, vae):
    given = parts(face=False)
    take = take_of(model, vae, given)
    context = random(1, 16, 2, *SIZE, seed=9)
    with torch.inference_mode():
        inputs = take.chunk_inputs(take.plan.chunks[1], context, take.reference)
    known, mask = inputs.conditions["concat_latent_image"], inputs.conditions["concat_mask"]
    assert torch.equal(known[:, :, 1:3], context) and torch.equal(known[:, :, :1], take.reference)
    assert mask[:, :, :2].eq(0).all() and mask[:, :, 4:].ne(0).any()
    frames = given["background"][12:12 + CHUNK]
    with torch.inference_mode():
        assert torch.equal(known[:, :, 3:], take.encode(frames)[:, :, 2:])


def test_a_chunk_without_background_costs_one_encode_beside_the_pose(model, vae):
    take, encoded = take_of(model, vae, parts(background=False)), []
    with torch.inference_mode():
        _ = take.reference, take.blank_opening, take.first_opening
        own = take.encode
        vars(take)["encode"] = lambda frames: encoded.append(len(frames)) or own(frames)
        take.chunk_inputs(take.plan.chunks[1], random(1, 16, 2, *SIZE), take.reference)
    assert encoded == [CHUNK]       # the pose alone


def test_the_model_is_found(model):
    found = backbones.find(model)
    assert isinstance(found, WanAnimate) and (found.fps, found.chunk_frames, found.overlap_frames) == (30, 77, 5)


# ---------------------------------------------------------------- the model's call

def conditions(frames=LATENTS):
    """What a sampler hands to apply_model: a reference slot and `frames` of video."""
    return {"c_crossattn": random(1, 7, 4096, seed=3), "c_concat": random(1, 20, frames + 1, *SIZE, seed=4),
            "clip_fea": random(1, 257, 1280, seed=8), "pose_latents": random(1, 16, frames, *SIZE, seed=5)}


def apply(model, x, options=None, sigma=0.7, **conds):
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    with torch.inference_mode():
        return model.model.apply_model(x, torch.full((len(x),), sigma), transformer_options=transformer_options,
                                       **{**conditions(x.shape[2] - 1), **conds})


def latents(frames=LATENTS, seed=1):
    return random(1, 16, frames + 1, *SIZE, seed=seed)


def anchored(model, *techniques, position=None):
    for technique in techniques:
        model = attach.with_technique(model, technique)
    return attach.install_techniques(model, attach.techniques_of(model), position or attach.ChunkPosition())


def rotations(model, x, **conds):
    """The RoPE frequencies that the blocks are given, as they would be for the latent frames one by one."""
    seen = []
    record = {("double_block", 0): lambda args, extra: (seen.append(args["pe"]), extra["original_block"](args))[1]}
    apply(model, x, {"patches_replace": {"dit": record}}, **conds)
    return seen[0]


def rows_at(model, times):
    return torch.cat([model.model.diffusion_model.rope_encode(1, *SIZE, t_start=time, dtype=torch.float32)
                      for time in times], 1)


def test_no_technique_is_the_bare_model_to_the_bit(model):
    assert torch.equal(apply(anchored(model), latents()), apply(model, latents()))


def test_with_a_face_too(model):
    """One picture of it: its encoder has but one size, of a tenth of a second each."""
    face = random(1, 3, 1, 512, 512, seed=6).clamp(-1, 1)
    found = apply(anchored(model), latents(2), face_pixel_values=face)
    assert torch.equal(found, apply(model, latents(2), face_pixel_values=face))
    assert not torch.equal(found, apply(model, latents(2)))
    far = anchored(model, LookaheadAnchor(9, latents=random(1, 16, 1, *SIZE, seed=7)))
    assert apply(far, latents(2), face_pixel_values=face).shape == found.shape


@pytest.mark.parametrize("distance", [1, 4, 5000])
def test_an_anchor_moves_the_reference_ahead(model, distance):
    times = [LATENTS + distance, *range(1, LATENTS + 1)]
    assert torch.allclose(rotations(anchored(model, LookaheadAnchor(distance)), latents()), rows_at(model, times),
                          atol=1e-5)
    assert not torch.allclose(apply(anchored(model, LookaheadAnchor(distance)), latents()), apply(model, latents()),
                              atol=1e-5)


def test_the_reference_at_its_own_time_is_the_bare_model(model):
    found = apply(anchored(model, LookaheadAnchor(placement="in chunk", index=0)), latents())
    assert torch.allclose(found, apply(model, latents()), atol=1e-5)


def test_further_anchors_are_clean_tokens_behind_the_video(model):
    far = LookaheadAnchor(9, latents=random(1, 16, 1, *SIZE, seed=7))
    patched = anchored(model, far)
    assert torch.allclose(rotations(patched, latents()), rows_at(model, [*range(LATENTS + 1), LATENTS + 9]), atol=1e-5)
    plain, found = apply(model, latents()), apply(patched, latents())
    other = apply(anchored(model, LookaheadAnchor(9, latents=random(1, 16, 1, *SIZE, seed=17))), latents())
    assert found.shape == plain.shape
    assert (found - plain).abs().max() > 1e-5 and (found - other).abs().max() > 1e-5


def test_an_anchor_gets_no_pose(model):
    seen = []
    record = {("double_block", 0): lambda args, extra: (seen.append(args["img"]), extra["original_block"](args))[1]}
    patched = anchored(model, LookaheadAnchor(9, latents=random(1, 16, 1, *SIZE, seed=7)))
    for seed in (5, 6):
        apply(patched, latents(), {"patches_replace": {"dit": record}},
              pose_latents=random(1, 16, LATENTS, *SIZE, seed=seed))
    moved = (seen[0] - seen[1]).abs().unflatten(1, (LATENTS + 2, -1)).amax((0, 2, 3))
    assert moved[[0, -1]].eq(0).all() and moved[1:-1].min() > 0


def test_a_keyframe_stands_ahead_and_takes_a_moved_reference_s_place(model):
    keyframe = NarrativeKeyframes().plus(Fraction(9), random(1, 16, 1, *SIZE, seed=7))
    alone = rotations(anchored(model, keyframe), latents())
    assert torch.allclose(alone, rows_at(model, [*range(LATENTS + 1), LATENTS + 3]), atol=1e-5)
    both = anchored(model, keyframe, LookaheadAnchor(4))
    times = [LATENTS + 4, *range(1, LATENTS + 1)]
    assert torch.allclose(rotations(both, latents()), rows_at(model, times), atol=1e-5)
    concat = conditions()["c_concat"].clone()
    concat[:, 4:, :1] = model.model.process_latent_in(random(1, 16, 1, *SIZE, seed=7))
    wanted = apply(anchored(model, LookaheadAnchor(4)), latents(), c_concat=concat)
    assert torch.allclose(apply(both, latents()), wanted, atol=1e-5)


def test_a_skipped_reference_is_invisible_to_its_frames(model):
    """With one block, frames in the band do not change with the reference's content, others do."""
    frames = 8
    skip = anchored(model, LookaheadAnchor(placement="in chunk", index=3), ReferenceSkip())
    concat = conditions(frames)["c_concat"]
    changed = concat.clone()
    changed[:, 4:, :1] += 3
    outs = [first_block(skip, latents(frames), c_concat=value) for value in (concat, changed)]
    moved = (outs[0] - outs[1]).abs().unflatten(1, (frames + 1, -1)).amax((0, 2, 3))
    assert moved[[2, 3, 4]].eq(0).all() and moved[[1, 5, 6, 7, 8]].min() > 0


def first_block(model, x, **conds):
    """What the first block's self-attention gives, (B, tokens, C)."""
    seen, module = [], model.model.diffusion_model.blocks[0].self_attn
    hook = module.register_forward_hook(lambda _, args, out: seen.append(out))
    try:
        apply(model, x, **conds)
    finally:
        hook.remove()
    return seen[0]


def test_context_windows_are_refused(model):
    class Window:
        index_list, total_frames = [0, 1, 2], 6

    with pytest.raises(ValueError, match="context windows: Wan-Animate has its reference before the first latent"):
        apply(anchored(model), latents(2), {"context_window": Window()})


def test_another_s_override_is_chained_and_a_lora_acts(model):
    called = []

    def override(function, *args, **kwargs):
        called.append(1)
        return function(*args, **kwargs)

    patched = anchored(model, LookaheadAnchor(placement="in chunk", index=2), ReferenceSkip())
    found = apply(patched, latents(), {"optimized_attention_override": override})
    assert called and torch.equal(found, apply(patched, latents()))


def test_positions_are_exact_in_bfloat16(tiny_models):
    half = load(tiny_models, tiny_animate.ANIMATE, torch.bfloat16)
    found = rotations(anchored(half, LookaheadAnchor(5000)), latents())
    assert torch.equal(found.float(), torch.cat([rows_at(half, [LATENTS + 5000]), rows_at(half, range(1, LATENTS + 1))],
                                                1))


@pytest.mark.parametrize(("names", "message"), [
    ((), "driving: Wan-Animate follows a driving video, and none came"),
    (("pose", "sound"), "driving: Wan-Animate has no use for sound")])
def test_what_it_cannot_be_driven_by_is_refused(model, names, message):
    with pytest.raises(ValueError, match=message):
        backbones.find(model).check_driving(names)


def test_a_take_without_a_picture_is_refused(model, vae):
    take = take_of(model, vae, parts(face=False, background=False))
    with pytest.raises(ValueError, match="reference: Wan-Animate moves the person of a picture"), \
            torch.inference_mode():
        take.chunk_inputs(take.plan.chunks[0])


def test_padding_is_refused(model, vae):
    take = take_of(attach.with_technique(model, LookaheadAnchor(placement="padding")), vae, parts(False, False))
    with pytest.raises(ValueError, match="placement 'padding'"), torch.inference_mode():
        take.check(None)


def test_other_models_follow_no_driving_video(tiny_models, wan, vae):
    take = take_of(wan.load(tiny_models, "wan21_i2v"), vae, parts(False, False))
    with pytest.raises(ValueError, match="driving: Wan image-to-video follows no driving video"):
        take.check(None)


def test_the_hand_over_is_re_encoded_as_trained(model):
    assert LatentStitch(backbones.find(model).handover).mode == "re-encode"
