"""Wan-Animate 2 on ComfyUI's own WanAnimate2Model: what a chunk is given equals core's node, its reference's time and
picture, and what is refused.
"""
from fractions import Fraction

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import tiny_animate
import torch

pytest.importorskip("comfy.ldm.wan.model_animate2")
from comfy_extras.nodes_wan import WanAnimate2Cache, WanAnimate2ToVideo  # noqa: E402
from draws import random  # noqa: E402
from lodestar import backbones  # noqa: E402
from lodestar.backbones import attach  # noqa: E402
from lodestar.backbones.animate.second import WanAnimate2  # noqa: E402
from lodestar.host.take_inputs import TakeInputs  # noqa: E402
from lodestar.pipelines.frames_at_times import ClipFrames  # noqa: E402
from lodestar.pipelines.take.driving import DrivingVideo  # noqa: E402
from lodestar.pipelines.take.plan import plan_take  # noqa: E402
from lodestar.techniques.lookahead_anchor import LookaheadAnchor  # noqa: E402
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes  # noqa: E402
from lodestar.techniques.reference_skip import ReferenceSkip  # noqa: E402
from lodestar.techniques.timeline import Timeline  # noqa: E402

FPS, FRAMES, WIDTH, HEIGHT, CHUNK = Fraction(16), 33, 64, 48, 17
SIZE, LATENTS = (HEIGHT // 8, WIDTH // 8), 5


@pytest.fixture(scope="module")
def model(tiny_models):
    path = tiny_models / "models" / "diffusion_models" / f"{tiny_animate.ANIMATE_2}.safetensors"
    loaded = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})
    comfy.model_management.load_models_gpu([loaded])
    return loaded


@pytest.fixture(scope="module")
def vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)


def pictures(count, height, width, seed):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_a_first_and_a_later_chunk_are_given_what_core_gives(model, vae):
    pose, picture, text = pictures(FRAMES, 60, 70, 1), pictures(1, 100, 90, 5), [[random(1, 7, 4096, seed=3), {}]]
    plan = plan_take(Timeline(FPS), FRAMES, CHUNK, 1, WIDTH, HEIGHT)
    take = TakeInputs(model, vae, plan, picture, driving=DrivingVideo({"pose": ClipFrames(pose, FPS, "pose")}))
    offset, before = 0, None
    with torch.inference_mode():
        for chunk in plan.chunks:
            out = WanAnimate2ToVideo.execute(text, [[random(1, 7, 4096, seed=4), {}]], vae, WIDTH, HEIGHT, CHUNK, 1,
                                             offset, picture, pose, continue_motion=before).args
            positive, negative, latent, trim, overlap, offset = out[0][0][1], out[1][0][1], *out[2:]
            context = None if before is None else take.encode(before[-1:])
            inputs = take.chunk_inputs(chunk, context, take.reference, None if before is None else before[-1:])
            given = inputs.with_text(text[0][0])
            for wanted in (positive, negative):
                assert set(given) == set(wanted)
                for name, value in wanted.items():
                    assert torch.equal(given[name], value), name
            assert torch.equal(inputs.samples, latent["samples"])
            assert (inputs.before, overlap) == (trim, int(chunk.index > 0))
            before = pictures(CHUNK, HEIGHT, WIDTH, 6)
    assert len(plan.chunks) == 2 and offset == FRAMES


def test_the_positive_prompt_is_found_for_the_pose_branch(model):
    import comfy.samplers
    guider, text = comfy.samplers.CFGGuider(model), random(1, 7, 4096, seed=3)
    guider.set_conds([[text, {}]], [[random(1, 7, 4096, seed=4), {}]])
    assert torch.equal(attach.text_of(guider, None), text)
    other = random(1, 7, 4096, seed=9)
    assert torch.equal(attach.text_of(guider, [[other, {}]]), other)


def apply(model, x, options=None, **conds):
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    given = {"c_crossattn": random(1, 7, 4096, seed=3), "c_concat": random(1, 20, LATENTS + 1, *SIZE, seed=4),
             "clip_fea": random(1, 257, 1280, seed=8), "pose_latents": random(1, 16, LATENTS, *SIZE, seed=5), **conds}
    with torch.inference_mode():
        return model.model.apply_model(x, torch.tensor([0.7]), transformer_options=transformer_options, **given)


def latents():
    return random(1, 16, LATENTS + 1, *SIZE, seed=1)


def anchored(model, *techniques):
    for technique in techniques:
        model = attach.with_technique(model, technique)
    return attach.install_techniques(model, attach.techniques_of(model), attach.ChunkPosition())


def rotations(model):
    seen = []
    record = {("double_block", 0): lambda args, extra: (seen.append(args["pe"]), extra["original_block"](args))[1]}
    apply(model, latents(), {"patches_replace": {"dit": record}})
    return seen[0]


def rows_at(model, times):
    return torch.cat([model.model.diffusion_model.rope_encode(1, *SIZE, t_start=time, dtype=torch.float32)
                      for time in times], 1)


def test_the_model_is_found_and_without_techniques_is_the_bare_one_to_the_bit(model):
    found = backbones.find(model)
    assert isinstance(found, WanAnimate2) and (found.chunk_frames, found.overlap_frames) == (81, 1)
    assert torch.equal(apply(anchored(model), latents()), apply(model, latents()))


@pytest.mark.parametrize("distance", [1, 5000])
def test_an_anchor_moves_the_reference_ahead(model, distance):
    patched = anchored(model, LookaheadAnchor(distance))
    assert torch.allclose(rotations(patched), rows_at(model, [LATENTS + distance, *range(1, LATENTS + 1)]), atol=1e-5)
    found, plain = apply(patched, latents()), apply(model, latents())
    assert found.shape == plain.shape and (found - plain).abs().max() > 1e-5


def test_a_keyframe_takes_a_moved_reference_s_place(model):
    other = random(1, 16, 1, *SIZE, seed=7)
    both = anchored(model, NarrativeKeyframes().plus(Fraction(9), other), LookaheadAnchor(4))
    concat = random(1, 20, LATENTS + 1, *SIZE, seed=4).clone()
    concat[:, 4:, :1] = model.model.process_latent_in(other)
    wanted = apply(anchored(model, LookaheadAnchor(4)), latents(), c_concat=concat)
    assert torch.allclose(apply(both, latents()), wanted, atol=1e-5)


def test_core_s_cache_of_the_pose_branch_changes_nothing(model):
    wanted = apply(anchored(model, LookaheadAnchor(4)), latents())
    cached = anchored(WanAnimate2Cache.execute(model, "cpu", "default").args[0], LookaheadAnchor(4))
    for _ in range(2):      # it is filled, then read
        assert torch.allclose(apply(cached, latents()), wanted, atol=1e-5)


@pytest.mark.parametrize(("techniques", "message"), [
    ((LookaheadAnchor(4, latents=torch.zeros(1, 16, 1, *SIZE)),), "anchor: Wan-Animate 2 has room for its reference"),
    ((ReferenceSkip(),), "reference skip: Wan-Animate 2 attends frame by frame")])
def test_what_cannot_be_is_refused(model, techniques, message):
    with pytest.raises(ValueError, match=message):
        apply(anchored(model, *techniques), latents())


def test_it_reads_one_video_and_no_other_part(model):
    with pytest.raises(ValueError, match="driving: Wan-Animate 2 has no use for face and mask"):
        backbones.find(model).check_driving(("pose", "face", "mask"))
