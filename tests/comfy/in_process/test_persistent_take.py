"""Takes of Wan-Animate with Persistent Latents: what each clip is given by hand, what is encoded, resume, refusals."""
import types
from dataclasses import replace

import comfy.latent_formats
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import tiny_animate
import torch
from comfy_api.latest import InputImpl
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from lodestar.backbones import attach
from lodestar.backbones.images import fit_picture
from lodestar.host.chunk_sampler import GuiderChunkSampler, Sampling
from lodestar.host.identity_memory import IdentityMemory
from lodestar.host.measured_video import tag_of
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.host.who_stands_where import TAG, read_references
from lodestar.nodes.driving_video import LodestarDrivingVideo
from lodestar.nodes.persistent_latents import LodestarPersistentLatents
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.metrics.video_reader import VideoFile
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.persistent_latents import draw_frames, quantise
from served_takes import frames_of, write_video

SECONDS, FPS, CLIP, LATENTS = 2.5, 16, 13, 4        # clips of 13 frames repeat 4: 4 of them, 40 frames
STEP = CLIP - 4
TECHNIQUE = {"count": 3, "motion_latents": 1, "complete_with": "frames of the first chunk", "order": "reference first",
             "seed": 5}


@pytest.fixture(scope="module")
def model(tiny_models):
    path = tiny_models / "models" / "diffusion_models" / f"{tiny_animate.ANIMATE}.safetensors"
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


@pytest.fixture(scope="module")
def vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)


@pytest.fixture(scope="module")
def pose(tmp_path_factory):
    return InputImpl.VideoFromFile(str(write_video(tmp_path_factory.mktemp("driving") / "pose.mp4", SECONDS)))


def remember(model, **given):
    return LodestarPersistentLatents.execute(model=model, **{**TECHNIQUE, **given}).args[0]


def plan(model, pose, **given):
    driving = LodestarDrivingVideo.execute(pose=pose, at_end="refuse").args[0]
    asked = {"width": 64, "height": 64, "fps": 16.0, "chunk_frames": CLIP, "overlap_frames": -1, "script": ""}
    return LodestarPlanTake.execute(model=model, driving=driving, **{**asked, **given}).args[0]


class Recording(GuiderChunkSampler):
    """Keeps what each clip was given and what came out; dies before the clip number `dies`."""
    dies: int | None = None

    def run_sampler(self, guider, chunk, inputs):
        if chunk.index == self.dies:
            raise KeyboardInterrupt
        self.given.append(inputs)
        self.openings.append(attach.patch_of(guider.model_patcher).position.opening)
        self.sampled.append(super().run_sampler(guider, chunk, inputs))
        return self.sampled[-1]


def session(model, vae, take, output, dies=None, vision=None):
    guider, text = comfy.samplers.CFGGuider(model), [[torch.zeros(1, 4, 4096), {}]]
    guider.set_conds(text, text)
    guider.set_cfg(1.0)
    folder_paths.set_output_directory(str(output))
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    recording = type("Recording", (Recording,), {"dies": dies, "given": [], "sampled": [], "openings": []})
    inputs = TakeInputs(model, vae, take.plan, picture, driving=take.driving, clip_vision=vision)
    return TakeSession(inputs, Sampling(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), sigmas),
                       take, types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None),
                       recording), recording


def make(made, keep=False):
    with torch.inference_mode():
        return made.make("persistent/take", keep)


@pytest.fixture(scope="module")
def whole(model, vae, pose, tmp_path_factory):
    """An uninterrupted take, what it was given, and which pictures its VAE encoded."""
    remembering, encoded, own = remember(model), [], vae.encode
    made, recording = session(remembering, vae, plan(remembering, pose), tmp_path_factory.mktemp("whole"))
    vae.encode = lambda frames: encoded.append(len(frames)) or own(frames)
    try:
        take = make(made)
    finally:
        del vae.encode
    return types.SimpleNamespace(take=take, given=recording.given, sampled=recording.sampled, encoded=encoded,
                                 inputs=made.inputs, openings=recording.openings)


@torch.inference_mode()
def test_each_clip_is_given_what_the_authors_give_it(whole, vae, pose):
    """By hand: pictures, the last latent as it was sampled, zeros; marks on the pictures; poses from frame 9c."""
    decoded = [vae.decode(sampled[:, :, 3:])[0] for sampled in whole.sampled]
    reference = vae.encode(fit_picture(whole.inputs.picture, 64, 64))
    drawn = [vae.encode(quantise(decoded[0][frame][None])) for frame in draw_frames(2, CLIP, 5)]
    null = comfy.latent_formats.Wan21().process_out(torch.zeros(1, 16, 1, 8, 8))
    poses = pose.get_components().images
    poses = torch.cat([poses, poses[-1:].expand(20, -1, -1, -1)])
    assert len(whole.given) == 4
    for clip, inputs in enumerate(whole.given):
        pictures = [reference, *drawn] if clip else [reference] * 3
        motion = whole.sampled[clip - 1][:, :, -1:] if clip else null
        wanted = torch.cat([*pictures, motion, *[null] * 3], 2)
        mask = torch.ones(1, 1, 7, 8, 8)
        mask[:, :, :3] = 0
        given = inputs.conditions
        assert torch.equal(given["concat_latent_image"][:, :, 3:], wanted[:, :, 3:])        # the motion to the bit
        assert torch.allclose(given["concat_latent_image"], wanted, atol=1e-5)
        assert torch.equal(given["concat_mask"], mask) and inputs.samples.shape == (1, 16, 7, 8, 8)
        assert inputs.samples.eq(0).all() and inputs.before == 3 and inputs.noise_mask is None
        beside = comfy.utils.common_upscale(poses[STEP * clip:STEP * clip + CLIP].movedim(-1, 1), 64, 64, "area",
                                            "center").movedim(1, -1)
        assert given["pose_video_latent"].shape == (1, 16, 4, 8, 8)
        assert (given["pose_video_latent"] - vae.encode(beside)).abs().mean() < 0.05    # core decodes to floats


def test_every_clip_but_the_first_knows_how_the_take_begins(whole):
    """What Custom Background then shows."""
    first, *later = whole.openings
    assert first is None and len(later) == 3
    assert all(torch.equal(opening, whole.sampled[0][:, :, 3:4]) for opening in later)


def test_the_video_says_which_pictures_stood_where(whole):
    """In its metadata, from where Take Report has it: here the pictures are in channels, and the model has its own."""
    assert read_references(tag_of(VideoFile(str(whole.take.path)), TAG)) == [
        "Long Take: the take's picture, where the model has it"]


def test_views_that_are_copies_are_kept_once(model, vae, pose, tmp_path):
    """Cropped to the take's size: of the reference, of another view; more of the first chunk complete them."""
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))      # the take's
    views = torch.cat([picture, *[torch.rand(1, 80, 70, 3)] * 2])
    remembering = remember(model, views=views, count=4)
    made, _ = session(remembering, vae, plan(remembering, pose), tmp_path)
    assert made.inputs.views.shape[2] == 1 and torch.equal(made.inputs.views, made.inputs.encode(
        fit_picture(views[1:2], 64, 64)))
    assert IdentityMemory(made.inputs).missing == 2


def test_pictures_are_encoded_once_a_take_and_clips_never(whole):
    """The reference and two drawn frames; beside them the poses of each clip, which the model is driven by."""
    assert sorted(whole.encoded) == [1, 1, 1, *[CLIP] * 4]


@torch.inference_mode()
def test_the_video_has_each_clip_decoded_on_its_own_without_what_it_repeats(whole, vae):
    decoded = [vae.decode(sampled[:, :, 3:])[0] for sampled in whole.sampled]
    wanted = torch.cat([decoded[0], *(clip[4:] for clip in decoded[1:])])[:round(SECONDS * FPS)]
    frames = torch.from_numpy(frames_of(whole.take.path)) / 255
    assert frames.shape == wanted.shape and (frames - wanted).abs().mean() < 0.03
    assert torch.equal(whole.take.tail, whole.sampled[-1][:, :, 3:])


@pytest.mark.parametrize("dies", [1, 2])
def test_a_take_that_died_goes_on_with_the_same_pictures(model, vae, pose, whole, tmp_path, dies):
    remembering = remember(model)
    dying, _ = session(remembering, vae, plan(remembering, pose), tmp_path, dies=dies)
    with pytest.raises(KeyboardInterrupt):
        make(dying)
    again, recording = session(remember(model), vae, plan(remember(model), pose), tmp_path)
    take = make(again)
    assert len(recording.given) == 4 - dies and torch.equal(take.tail, whole.take.tail)
    assert (frames_of(take.path) == frames_of(whole.take.path)).all()
    for given, wanted in zip(recording.given, whole.given[dies:], strict=True):
        assert torch.equal(given.conditions["concat_latent_image"], wanted.conditions["concat_latent_image"])


def test_views_fill_the_places_and_the_seed_draws_others(model, vae, pose, tmp_path):
    views = torch.rand(3, 50, 90, 3, generator=torch.Generator().manual_seed(8))
    seen = {}
    for name, given in {"views": {"views": views}, "one": {"views": views[:1]}, "reference": {
            "complete_with": "the reference"}, "seed": {"seed": 6}, "upstream": {"order": "upstream"}}.items():
        remembering = remember(model, **given)
        made, recording = session(remembering, vae, plan(remembering, pose, max_seconds=1.0), tmp_path / name)
        make(made)
        seen[name] = [inputs.conditions["concat_latent_image"][:, :, :3] for inputs in recording.given]
    with torch.inference_mode():
        reference = vae.encode(fit_picture(made.inputs.picture, 64, 64))
        first = [vae.encode(fit_picture(view[None], 64, 64)) for view in views[:2]]
    for clip in seen["views"]:
        assert torch.allclose(clip, torch.cat([reference, *first], 2), atol=1e-5)
    assert torch.allclose(seen["one"][0], torch.cat([reference, reference, first[0]], 2), atol=1e-5)
    assert torch.equal(seen["one"][1][:, :, 1:2], first[0]) and not torch.equal(seen["one"][1][:, :, 2:], reference)
    assert all(torch.allclose(clip, reference.expand(-1, -1, 3, -1, -1), atol=1e-5) for clip in seen["reference"])
    assert torch.allclose(seen["upstream"][1][:, :, 2:], reference, atol=1e-5)
    assert not torch.equal(seen["seed"][1], seen["upstream"][1].roll(1, 2))


def test_without_motion_every_clip_begins_as_the_first(model, vae, pose, tmp_path):
    """As the authors' code, which then hands nothing over."""
    remembering = remember(model, motion_latents=0)
    made, recording = session(remembering, vae, plan(remembering, pose, max_seconds=1.0), tmp_path)
    make(made)
    first, second = (inputs.conditions["concat_latent_image"] for inputs in recording.given)
    assert torch.equal(first, second)


@torch.inference_mode()
@pytest.mark.parametrize("shown", ["last frame", "reference"])
def test_clip_vision_sees_where_a_clip_begins_or_the_reference(model, vae, pose, tmp_path, shown):
    seen = []
    features = types.SimpleNamespace(penultimate_hidden_states=torch.zeros(1, 257, 1280))
    vision = types.SimpleNamespace(encode_image=lambda picture, crop: seen.append(picture) or features,
                                   config={"hidden_size": 1280})
    remembering = remember(model, clip_picture=shown)
    made, recording = session(remembering, vae, plan(remembering, pose, max_seconds=1.0), tmp_path, vision=vision)
    make(made)
    last = quantise(vae.decode(recording.sampled[0][:, :, 3:])[0][-1:])
    assert torch.equal(seen[0], made.inputs.fitted_picture) and len(seen) == (2 if shown == "last frame" else 1)
    assert shown == "reference" or (seen[1] - last).abs().max() < 1.5 / 255


def test_what_does_not_fit_is_refused_before_sampling(model, vae, pose, tmp_path):
    remembering = remember(model)
    take = plan(remembering, pose)
    for other, message in (
            (attach.with_technique(remembering, LatentStitch()), "Latent Stitch and Persistent Latents both say"),
            (attach.with_technique(remembering, LookaheadAnchor(placement="padding")), "fill the same channels"),
            (model, r"plan: clips that repeat 4 frames, wanted 0. Connect the model behind Persistent Latents"),
            (remember(model, motion_latents=3), "motion_latents: got 3, more than half of a chunk of 4 latents")):
        made, recording = session(other, vae, take, tmp_path)
        with pytest.raises(ValueError, match=message):
            make(made)
        assert not recording.given
    made, _ = session(remembering, vae, plan(model, pose, overlap_frames=5), tmp_path)
    with pytest.raises(ValueError, match="plan: clips that repeat 0 frames, wanted 4"):
        make(made)
    made, _ = session(remembering, vae, take, tmp_path)
    with pytest.raises(ValueError, match="reference: Persistent Latents remembers the person of a picture"):
        make(replace(made, inputs=replace(made.inputs, picture=None)))
    driving = LodestarDrivingVideo.execute(pose=pose, at_end="refuse", background=pose).args[0]
    with pytest.raises(ValueError, match="driving: Persistent Latents fills the channels that would hold the backgro"):
        make(replace(made, inputs=replace(made.inputs, driving=driving)))
    with pytest.raises(ValueError, match=r"continue_from: Persistent Latents draws its pictures from the take's own"):
        plan(remembering, pose, continue_from=pose)


# ---------------------------------------------------------------- models whose takes are one stream

def stream_take(model):
    """Two seconds at 16 fps in chunks of 6 latents."""
    speech = {"waveform": torch.zeros(1, 1, 32000), "sample_rate": 16000}
    return LodestarPlanTake.execute(model=model, audio=speech, width=64, height=64, fps=16.0, chunk_frames=21,
                                    overlap_frames=-1).args[0]


def test_on_image_to_video_it_is_stable_video_infinity_s(vae, tmp_path, tiny_models, wan):
    """Version 2.0 Pro: the picture, the last latent, zeros; the picture alone is marked as known."""
    model = remember(wan.load(tiny_models, "wan21_i2v"), count=1)
    take = stream_take(model)
    assert take.plan.overlap_latents == 1 and take.plan.repeated_frames == 0 and len(take.plan.chunks) == 2
    made, recording = session(model, vae, take, tmp_path)
    assert make(made).tail.shape[2] == take.plan.chunks[-1].new_latents
    null = comfy.latent_formats.Wan21().process_out(torch.zeros(1, 16, 1, 8, 8))
    for number, (chunk, inputs) in enumerate(zip(take.plan.chunks, recording.given, strict=True)):
        known, mask = inputs.conditions["concat_latent_image"], inputs.conditions["concat_mask"]
        motion = [recording.sampled[0][:, :, -1:]] if number else []
        wanted = torch.cat([made.inputs.reference, *motion, *[null] * (chunk.latents - len(motion))], 2)
        assert torch.equal(known, wanted) and mask[0, 0, :, 0, 0].tolist() == [0, *[1] * chunk.latents]
    with pytest.raises(ValueError, match="plan: chunks that repeat 4 latents, and Persistent Latents hands over 1"):
        make(replace(made, inputs=replace(made.inputs, plan=stream_take(wan.load(tiny_models, "wan21_i2v")).plan)))


def test_elsewhere_pictures_stand_ahead_and_the_plan_says_what_passes(vae, tmp_path, tiny_models, wan):
    model, positions = remember(wan.load(tiny_models, "wan21_t2v"), motion_latents=2), []
    take = stream_take(model)
    made, recording = session(model, vae, take, tmp_path)
    recording.chunk_guider = lambda self, chunk, position, inputs: positions.append(position) or GuiderChunkSampler \
        .chunk_guider(self, chunk, position, inputs)
    make(made)
    assert [position.identity.shape[2] for position in positions] == [0, 2, 2]
    assert take.plan.overlap_latents == 4 and positions[1].context.shape[2] == 4
    assert torch.equal(positions[1].context, recording.sampled[0][:, :, -4:])
    with torch.inference_mode():
        frames = vae.decode(recording.sampled[0])[0]
        drawn = [vae.encode(quantise(frames[number][None])) for number in draw_frames(2, 21, 5)]
    assert torch.allclose(positions[1].identity, torch.cat(drawn, 2), atol=1e-4)
