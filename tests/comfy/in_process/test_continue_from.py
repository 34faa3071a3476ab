"""Long Take and One Chunk go on from a clip of the user's, on every family that continues."""
import types
from dataclasses import dataclass, replace
from fractions import Fraction

import av
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import humo_models
import pytest
import tiny_animate
import tiny_talk
import torch
from comfy_api.latest import InputImpl, Types
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from draws import random
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.host.chunk_sampler import GuiderChunkSampler, Sampling
from lodestar.host.continued_take import continue_take
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.one_chunk import LodestarOneChunk
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.frames_at_times import ClipFrames
from lodestar.pipelines.take.driving import DrivingVideo
from lodestar.techniques.colour_match import ColourMatch

RATE, SIZE = 16000, 64


@dataclass(frozen=True)
class Family:
    """`speech`: layers, width and rate of its features. `tail`: frames of the clip that its first chunk is given."""
    load: str
    speech: tuple[int, int, float] | None = None
    made_by: str = ""
    tail: int = 5
    tokens: bool = False    # it is given them as tokens, which One Chunk cannot
    newest: bool = False    # ComfyUI 0.7 does not have it


FAMILIES = {
    "Wan text-to-video": Family("wan21_t2v", tokens=True),
    "Wan image-to-video": Family("wan21_i2v"),
    "Wan 2.2 image-to-video": Family("wan22_i2v"), "TI2V": Family("wan22_ti2v"),
    "S2V": Family("wan22_s2v", (1, 1024, 50.0), tail=49), "LongCat-Video": Family("longcat_video"),
    "Avatar 1.0": Family("longcat_avatar", (12, 64, 32.0), "longcat"),
    "Avatar 1.5": Family("longcat_avatar15", (5, 64, 25.0), "longcat"),
    "OmniAvatar": Family("omniavatar", (13, 64, 25.0), "omniavatar"),
    "InfiniteTalk": Family("infinitetalk", (12, 768, 25.0), newest=True),
    "HuMo 17B": Family(list(tiny_talk.HUMO)[0], (5, 1280, 25.0)),
    "HuMo 1.7B": Family(list(tiny_talk.HUMO)[1], (5, 1280, 25.0)),
    "Wan-Animate": Family(tiny_animate.ANIMATE)}


@pytest.fixture
def load(tiny_models, wan, omni, comfyui_version):
    def load(name):
        family = FAMILIES[name]
        if family.newest and comfyui_version.startswith("0.7"):
            pytest.skip("this ComfyUI does not have it")
        if family.load == "infinitetalk":
            import infinitetalk_models
            return infinitetalk_models.load(tiny_models)
        if family.load == "omniavatar":
            return omni.load(tiny_models)
        if family.load.startswith("longcat"):
            return load_longcat(str(tiny_models / "models" / "diffusion_models" /
                                    f"lodestar_tiny_{family.load}.safetensors"))
        return (humo_models if family.load.startswith("lodestar") else wan).load(tiny_models, family.load)
    return load


@pytest.fixture
def vae_of(tiny_models, wan):
    def vae_of(name):
        if name == "TI2V":
            return wan.wan22_vae(tiny_models)
        path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
        return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)
    return vae_of


def features(name, seconds=1.0):
    family = FAMILIES[name]
    if family.speech is None:
        return None
    layers, width, rate = family.speech
    made = tuple(random(1, int(seconds * rate), width, seed=20 + layer) for layer in range(layers))
    return {"encoded_audio": made[-1], "encoded_audio_all_layers": made, "rate_hz": rate,
            "audio_samples": int(seconds * RATE), **({"family": family.made_by} if family.made_by else {})}


def frames(count=50, seed=7):
    """Smooth enough that a VAE and H.264 leave something of them."""
    small = torch.rand(count, 4, 5, 3, generator=torch.Generator().manual_seed(seed))
    return small.repeat_interleave(20, 1).repeat_interleave(20, 2)


def video(images, fps=25, audio=None):
    return InputImpl.VideoFromComponents(Types.VideoComponents(images=images, audio=audio, frame_rate=Fraction(fps)))


class Recording(GuiderChunkSampler):
    given: list = []

    def new_latents(self, chunk, context, *parts):
        self.given.append((chunk, context))
        return super().new_latents(chunk, context, *parts)


def session(name, model, vae, output, clip, seconds=1.0, **plan):
    text = [[random(1, 7, 4096, seed=3), {}]]
    if name == "InfiniteTalk":
        import infinitetalk_models
        text[0][1].update(infinitetalk_models.vision_output())
    driving = DrivingVideo({"pose": ClipFrames(frames(40, 9), Fraction(30), "pose")}) if name == "Wan-Animate" else None
    audio = {"waveform": torch.zeros(1, 1, int(seconds * RATE)), "sample_rate": RATE}
    outside = FAMILIES[name].tail > 5
    options = {"chunk_frames": 9 if outside else 17, "overlap_frames": 0 if outside else 5, **plan}
    take, summary = LodestarPlanTake.execute(model=model, audio=audio, width=SIZE, height=SIZE, driving=driving,
                                             **options).args
    take, before = continue_take(model, take, clip)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(text, text)
    guider.set_cfg(1.5)
    folder_paths.set_output_directory(str(output))
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))
    inputs = TakeInputs(model, vae, take.plan, picture, features(name, seconds), driving=driving, before=before)
    return TakeSession(inputs, Sampling(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"),
                                        torch.tensor([1.0, 0.5, 0.0])), take,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), Recording)


def made(session, name="take/one", keep=False):
    Recording.given = []
    with torch.inference_mode():
        return session.make(name, keep)


def pictures_of(path):
    with av.open(str(path)) as container:
        return torch.stack([torch.from_numpy(frame.to_ndarray(format="rgb24")) / 255
                            for frame in container.decode(video=0)])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_chunk_goes_on_from_the_clip_s_last_frames(load, vae_of, tmp_path, name):
    model, vae = load(name), vae_of(name)
    fps = backbones.find(model).fps
    take = session(name, model, vae, tmp_path, video(frames(), fps))
    plan, tail = take.take.plan, FAMILIES[name].tail
    finished = made(take)
    assert len(plan.chunks) >= 2 and len(Recording.given) == len(plan.chunks)
    fitted = take.inputs.before.last_frames(50)
    with torch.inference_mode():
        expected = take.inputs.encode(fitted[50 - tail:])
    chunk, context = Recording.given[0]
    assert torch.equal(context, expected) and chunk.first_new_latent == 1
    shown = pictures_of(finished.path)
    assert len(shown) == 50 + plan.total_frames - 1 == take.take.video_frames
    assert (shown[:50] - fitted).abs().mean() < 0.05 and (shown[50] - fitted[49]).abs().mean() > 0.001


def test_other_last_frames_give_another_take(load, vae_of, tmp_path):
    model, vae, other = load("TI2V"), vae_of("TI2V"), frames()
    other[-1] = 1 - other[-1]
    tails = [made(session("TI2V", model, vae, tmp_path, video(images, 24), chunk_frames=33)).tail
             for images in (frames(), frames(), other)]
    assert torch.equal(*tails[:2]) and (tails[2] - tails[0]).abs().max() > 1e-4


@pytest.mark.once
def test_what_is_before_the_tail_changes_the_video_alone(load, vae_of, tmp_path):
    """A clip with another beginning: its chunks are used again, its video is another."""
    model, vae = load("TI2V"), vae_of("TI2V")
    first = made(session("TI2V", model, vae, tmp_path, video(frames(), 24)), keep=True)
    other = frames()
    other[:20] = 1 - other[:20]
    second = made(session("TI2V", model, vae, tmp_path, video(other, 24)), keep=True)
    assert not Recording.given and second.path != first.path and torch.equal(second.tail, first.tail)
    before, after = pictures_of(first.path), pictures_of(second.path)
    assert (before[:20] - after[:20]).abs().mean() > 0.2 and (before[25:] - after[25:]).abs().mean() < 0.02
    again = made(session("TI2V", model, vae, tmp_path, video(frames(), 24)), keep=True)
    assert not Recording.given and pictures_of(again.path).shape == before.shape


def test_a_clip_of_another_size_rate_and_sound_is_fitted(load, vae_of, tmp_path):
    model, vae = load("TI2V"), vae_of("TI2V")
    tone = {"waveform": torch.full((1, 2, 44100), 0.5), "sample_rate": 44100}   # ComfyUI 0.7 saves mono as stereo
    file = tmp_path / "wide.mp4"
    video(frames(60), 60, tone).save_to(str(file))
    take = session("TI2V", model, vae, tmp_path, InputImpl.VideoFromFile(str(file)))
    finished = made(take)
    assert take.take.clip_frames == 24 and take.inputs.clip_tail.shape == (5, SIZE, SIZE, 3)
    with av.open(str(finished.path)) as container:
        sound = torch.cat([torch.from_numpy(frame.to_ndarray()[0]) for frame in container.decode(audio=0)])
        assert container.streams.video[0].frames == 24 + 23
    assert sound[4000:12000].mean() > 0.4 and sound[18000:28000].abs().max() < 0.05    # the speech is silence


@pytest.mark.once
def test_a_clip_that_cannot_be_gone_on_from_is_refused(load, vae_of, tmp_path):
    model = load("TI2V")
    with pytest.raises(ValueError, match=r"continue_from: the clip has 4 frames at 24 fps \(0.17 s\), and Wan 2.2 "
                                         r"TI2V-5B goes on from the last 5 \(0.21 s\). Give a longer one"):
        session("TI2V", model, None, tmp_path, video(frames(4), 24))
    with pytest.raises(ValueError, match="continue_from: with an overlap of 0 frames Wan 2.2 TI2V-5B is given nothing"):
        session("TI2V", model, None, tmp_path, video(frames(), 24), overlap_frames=0)
    narrow = torch.zeros(10, 800, 6, 3)
    with pytest.raises(ValueError, match="continue_from: cropping 6x800"):
        session("TI2V", model, vae_of("TI2V"), tmp_path, video(narrow, 24)).check()
    planned = session("TI2V", model, None, tmp_path, video(frames(), 24)).take
    with pytest.raises(ValueError, match="continue_from: the plan goes on from a clip, and none came"):
        continue_take(model, planned, None)


def test_s2v_takes_what_there_is(load, vae_of, tmp_path):
    take = session("S2V", load("S2V"), vae_of("S2V"), tmp_path, video(frames(3), 16))
    assert take.take.plan.opening_latents == 1 and take.inputs.clip_tail.shape[0] == 1


def test_plan_take_says_how_long_both_are(load):
    model = load("TI2V")
    audio = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}
    take, summary = LodestarPlanTake.execute(model=model, audio=audio, chunk_frames=17, overlap_frames=5,
                                             continue_from=video(frames(), 24)).args
    assert "clip of 50 frames at this rate (2.08 s): 73 frames (3.04 s) in all" in summary
    assert take.plan.width / take.plan.height == pytest.approx(100 / 80, rel=0.05), "the clip's proportions"
    again, _ = continue_take(model, take, video(frames(), 24))
    assert again.plan is take.plan


@pytest.mark.once
@pytest.mark.parametrize("name", FAMILIES)
def test_one_chunk_goes_on_from_it_too(load, vae_of, name):
    if name == "Wan-Animate":
        pytest.skip("its driving video goes another way: test_animate")
    model, vae, text = load(name), vae_of(name), [[random(1, 7, 4096, seed=3), {}]]
    fps, picture = backbones.find(model).fps, torch.rand(1, 80, 70, 3)

    def chunk(clip, length=25):
        return LodestarOneChunk.execute(model, text, text, vae, SIZE, SIZE, length, features(name, 3.0), picture,
                                        continue_from=clip).args

    if FAMILIES[name].tokens:
        with pytest.raises(ValueError, match="continue_from: Wan text-to-video takes what it goes on from as frames"):
            chunk(video(frames(), fps))
        return
    positive, _, latent, _ = chunk(video(frames(), fps))
    plain = chunk(None)
    assert latent["samples"].shape == plain[2]["samples"].shape
    other = frames()
    other[-1] = 1 - other[-1]
    changed = chunk(video(other, fps))

    def tensors(outputs):
        values = [value for value in outputs[0][0][1].values() if isinstance(value, torch.Tensor)]
        return [outputs[2]["samples"], *values]

    assert any(not torch.equal(*pair) for pair in zip(tensors((positive, None, latent)), tensors(changed), strict=True))


@pytest.mark.once
@pytest.mark.parametrize("name", ["5b", "15_i2v"])
def test_cogvideox_goes_on_from_it_with_its_own_sampler_and_stream(tiny_models, tmp_path, name):
    rig = pytest.importorskip("cogvideox_models", reason="this ComfyUI has no CogVideoX", exc_type=ImportError)
    model, text = rig.load(tiny_models, name), [[random(1, 7, rig.TEXT_DIM, seed=3), {}]]
    audio = {"waveform": torch.zeros(1, 1, 3 * RATE), "sample_rate": RATE}
    take = LodestarPlanTake.execute(model=model, audio=audio, width=SIZE, height=SIZE, chunk_frames=21,
                                    overlap_frames=5).args[0]
    take, before = continue_take(model, take, video(frames(), backbones.find(model).fps))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(text, text)
    folder_paths.set_output_directory(str(tmp_path))
    inputs = TakeInputs(model, rig.vae(tiny_models), take.plan, torch.rand(1, SIZE, SIZE, 3), before=before)
    found = made(TakeSession(inputs, Sampling(Noise_RandomNoise(3), guider, rig.VOID_DDIM(), rig.SIGMAS), take,
                             types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), Recording))
    with torch.inference_mode():
        assert torch.equal(Recording.given[0][1], inputs.encode(inputs.before.last_frames(5)))
    assert len(pictures_of(found.path)) == 50 + take.plan.total_frames - 1


@pytest.mark.parametrize("faded", [False, True])
def test_colours_are_matched_to_where_the_clip_ends(load, vae_of, tmp_path, faded):
    """Not to the picture, whose colours the clip may not have; of a clip that ends in black to its last that shows
    anything."""
    model, clip = attach.with_technique(load("Wan image-to-video"), ColourMatch()), frames() * 0.2
    if faded:
        clip[-2:] = 0
    take = session("Wan image-to-video", model, vae_of("Wan image-to-video"), tmp_path, video(clip, 16))
    last = take.inputs.before.last_frames(3)[:1] if faded else take.inputs.before.last_frames(1)
    assert torch.equal(take.inputs.open_stream().picture, last)
    alone = replace(take.inputs, picture=None)
    alone.check_techniques()
    assert torch.equal(alone.open_stream().picture, last)
