"""Wan-Animate's call with N pictures before the video: poses, faces, cost; and LoRAs as EverAnimate's are published.

Another pack differs from the authors in three places, and each has a test here or in test_persistent_take.py: it pads
poses before their convolution, faces before their encoder, and marks the motion as known beside encoded grey.
"""
from fractions import Fraction

import comfy.lora
import comfy.sd
import folder_paths
import pytest
import tiny_animate
import torch
from draws import random
from lodestar.backbones import attach
from lodestar.backbones.wan.lora import with_plain_lora
from lodestar.nodes.load_wan_lora import LodestarLoadWanLora
from lodestar.nodes.persistent_latents import LodestarPersistentLatents
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.persistent_latents import PersistentLatents
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

SIZE, LATENTS, SLOTS = (6, 8), 5, 3


@pytest.fixture(scope="module")
def model(tiny_models):
    path = tiny_models / "models" / "diffusion_models" / f"{tiny_animate.ANIMATE}.safetensors"
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


def remembering(model, count=SLOTS, *others):
    for technique in (PersistentLatents(count), *others):
        model = attach.with_technique(model, technique)
    return model


def apply(model, slots, frames=LATENTS, options=None, **conds):
    """One call of `frames` latents of video behind `slots` pictures."""
    given = {"c_crossattn": random(1, 7, 4096, seed=3), "c_concat": random(1, 20, frames + slots, *SIZE, seed=4),
             "clip_fea": random(1, 257, 1280, seed=8), "pose_latents": random(1, 16, frames, *SIZE, seed=5), **conds}
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    with torch.inference_mode():
        return model.model.apply_model(random(1, 16, frames + slots, *SIZE, seed=1), torch.full((1,), 0.7),
                                       transformer_options=transformer_options, **given)


def first_tokens(model, slots, **conds):
    """What the first block is given, by latent: (latents, tokens, C)."""
    seen = []
    record = {("double_block", 0): lambda args, extra: (seen.append(args["img"]), extra["original_block"](args))[1]}
    apply(model, slots, options={"patches_replace": {"dit": record}}, **conds)
    return seen[0][0].unflatten(0, (-1, SIZE[0] * SIZE[1] // 4))


def test_one_picture_is_the_bare_model(model):
    assert torch.equal(apply(remembering(model, 1), 1), apply(model, 1))


def test_pictures_get_no_pose_nor_its_convolution_s_bias(model):
    bare = first_tokens(remembering(model), SLOTS, pose_latents=None)
    posed = first_tokens(remembering(model), SLOTS)
    assert torch.equal(bare[:SLOTS], posed[:SLOTS])
    module, poses = model.model.diffusion_model, random(1, 16, LATENTS, *SIZE, seed=5)
    with torch.inference_mode():
        added = module.pose_patch_embedding(poses)[0].flatten(2).permute(1, 2, 0)
    assert torch.allclose(posed[SLOTS:], bare[SLOTS:] + added, atol=1e-5)


def face_vectors(model, slots, **conds):
    seen, fuser = [], model.model.diffusion_model.face_adapter.fuser_blocks[0]
    hook = fuser.register_forward_hook(lambda _, given, out: seen.append(given[1].clone()))
    try:
        apply(model, slots, frames=2, face_pixel_values=random(1, 3, 1, 512, 512, seed=6).clamp(-1, 1), **conds)
    finally:
        hook.remove()
    return seen[0][0]


def test_pictures_have_no_face_and_the_video_s_own_begins_behind_them(model):
    core, ours = face_vectors(model, 1), face_vectors(remembering(model), SLOTS)
    assert ours[:SLOTS].eq(0).all() and len(ours) == 2 + SLOTS
    assert torch.equal(ours[SLOTS:], core[1:]) and not core[1].eq(0).all()


def test_it_costs_what_as_many_latents_cost(model):
    """N + n latents, whatever they are; the bare model has one picture and two latents more."""
    counted = []
    for own, slots, frames in ((remembering(model), SLOTS, LATENTS), (model, 1, LATENTS + SLOTS - 1)):
        poses = random(1, 16, LATENTS, *SIZE, seed=5)
        with FlopCounterMode(display=False) as flops:
            apply(own, slots, frames, pose_latents=poses)
        counted.append(flops.get_total_flops())
    assert counted[0] == counted[1]


@pytest.mark.parametrize(("others", "slots", "message"), [
    ((), 1, "persistent latents: got 1 latents before the poses', wanted 3 pictures"),
    ((LookaheadAnchor(4), NarrativeKeyframes().plus(Fraction(9), random(1, 16, 1, *SIZE, seed=7))), SLOTS,
     "keyframe: it takes the reference's place, where Persistent Latents has 3 pictures")], ids=["slots", "keyframe"])
def test_what_has_no_place_is_refused(model, others, slots, message):
    with pytest.raises(ValueError, match=message):
        apply(remembering(model, SLOTS, *others), slots)


def test_an_anchor_moves_all_pictures_ahead(model):
    assert not torch.allclose(apply(remembering(model, SLOTS, LookaheadAnchor(4)), SLOTS),
                              apply(remembering(model), SLOTS), atol=1e-5)


def test_more_views_than_there_is_room_for_are_said(model, caplog):
    made = LodestarPersistentLatents.execute(model=model, count=2, motion_latents=1, order="upstream", seed=0,
                                             complete_with="the reference", views=torch.rand(3, 32, 32, 3)).args[0]
    assert "views: 3 pictures came, and 1 have room beside the reference" in caplog.text
    assert len(attach.technique_of(made, PersistentLatents).given_views) == 1


# ---------------------------------------------------------------- LoRA

@pytest.fixture(scope="module")
def published(tiny_models):
    return load_file(tiny_models / "models" / "loras" / f"{tiny_animate.LORA}.safetensors")


def merged(model, key):
    """A layer's weight as ComfyUI patches it."""
    patches = model.patches.get(key, [])
    weight = model.model.state_dict()[key]
    return comfy.lora.calculate_weight(patches, weight.clone(), key)


def test_a_published_lora_is_merged_at_its_own_strength(model, published):
    """Its rank is its alpha: W + B A. Core's loader finds no layer in it."""
    key = "blocks.2.self_attn.k"
    made = with_plain_lora(model, published, 1.0, "stage2")
    weight = model.model.state_dict()[f"diffusion_model.{key}.weight"]
    pair = [published[f"{key}.lora_{part}.default.weight"].float() for part in "BA"]
    assert torch.allclose(merged(made, f"diffusion_model.{key}.weight"), weight + pair[0] @ pair[1], atol=1e-5)
    assert len(made.patches) == 20 and not model.patches
    assert not comfy.sd.load_lora_for_models(model, None, dict(published), 1.0, 0.0)[0].patches


def test_a_prefixed_file_is_taken_too_and_a_foreign_one_refused(model, published, tiny_models):
    prefixed = {f"diffusion_model.{key}": weight for key, weight in published.items()}
    assert len(with_plain_lora(model, prefixed, 1.0, "own").patches) == 20
    with pytest.raises(ValueError, match="lora_name: other has no layer of this model: its first key is 'unet.x"):
        with_plain_lora(model, {"unet.x.lora_A.weight": torch.zeros(2, 2)}, 1.0, "other")
    folder_paths.add_model_folder_path("loras", str(tiny_models / "models" / "loras"))
    made = LodestarLoadWanLora.execute(model=model, lora_name=f"{tiny_animate.LORA}.safetensors", strength=0.5).args[0]
    assert len(made.patches) == 20
