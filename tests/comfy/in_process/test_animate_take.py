"""Takes of Wan-Animate from video files, through the nodes: length, sound, the frames of each chunk, resume, memory."""
import types
from dataclasses import replace
from fractions import Fraction

import av
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import tiny_animate
import torch
from comfy_api.latest import InputImpl
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from lodestar.host.chunk_sampler import GuiderChunkSampler, Sampling
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.driving_video import LodestarDrivingVideo
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.frames_at_times import FileFrames
from served_takes import frames_of, write_video

SECONDS, FPS, RATE = 2.5, 16, 16000
PLAN = {"width": 64, "height": 64, "fps": 16.0, "chunk_frames": 21, "overlap_frames": 5, "script": "", "seed_step": 1,
        "max_seconds": 0.0}


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


def driving(pose, at_end="refuse", **parts):
    return LodestarDrivingVideo.execute(pose=pose, at_end=at_end, **parts).args[0]


def plan(model, audio=None, **given):
    return LodestarPlanTake.execute(model=model, audio=audio, **{**PLAN, **given}).args[0]


class Recording(GuiderChunkSampler):
    """Keeps what each chunk was given; dies before the chunk number `dies`."""
    dies: int | None = None
    given: list = []

    def chunk_guider(self, chunk, position, inputs):
        if chunk.index == self.dies:
            raise KeyboardInterrupt
        self.given.append(inputs.conditions)
        return super().chunk_guider(chunk, position, inputs)


def session(model, vae, take, output, dies=None):
    guider, text = comfy.samplers.CFGGuider(model), [[torch.zeros(1, 4, 4096), {}]]
    guider.set_conds(text, text)
    guider.set_cfg(1.0)
    folder_paths.set_output_directory(str(output))
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    recording = type("Recording", (Recording,), {"dies": dies, "given": []})
    return TakeSession(TakeInputs(model, vae, take.plan, picture, driving=take.driving),
                       Sampling(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), sigmas), take,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), recording), recording


def make(session, keep=False):
    with torch.inference_mode():
        return session.make("animate/take", keep)


def test_a_take_without_speech_is_as_long_as_the_video_and_has_its_sound(model, vae, pose, tmp_path):
    take = plan(model, driving=driving(pose))
    assert len(take.plan.chunks) == 3 and take.plan.total_frames == SECONDS * FPS and take.speech is None
    made, recording = session(model, vae, take, tmp_path)
    path = make(made).path
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == SECONDS * FPS
        sound = sum(frame.samples for frame in container.decode(audio=0))
    assert sound / RATE == pytest.approx(SECONDS, abs=0.1)
    frames = torch.from_numpy(frames_of(pose.get_stream_source())) / 255
    assert (frames - pose.get_components().images).abs().mean() < 0.05     # core 0.33 decodes to floating point
    whole = torch.cat([frames, frames[-1:].expand(40, -1, -1, -1)])
    for chunk, given in zip(take.plan.chunks, recording.given, strict=True):
        first = chunk.first_latent * 4
        beside = comfy.utils.common_upscale(whole[first:first + chunk.latents * 4 - 3].movedim(-1, 1), 64, 64, "area",
                                            "center").movedim(1, -1)
        with torch.inference_mode():
            assert torch.equal(given["pose_video_latent"], vae.encode(beside))


def test_a_take_that_died_goes_on_with_the_same_frames(model, vae, pose, tmp_path):
    take = plan(model, driving=driving(pose))
    whole, _ = session(model, vae, take, tmp_path / "whole")
    wanted = make(whole)
    dying, _ = session(model, vae, take, tmp_path / "died", dies=2)
    with pytest.raises(KeyboardInterrupt):
        make(dying)
    again, recording = session(model, vae, plan(model, driving=driving(pose)), tmp_path / "died")
    found = make(again)
    assert len(recording.given) == 1 and torch.equal(found.tail, wanted.tail)
    assert (frames_of(found.path) == frames_of(wanted.path)).all()


def test_another_video_of_the_name_makes_the_chunks_again(model, vae, tmp_path):
    file = tmp_path / "pose.mp4"
    for fps in (FPS, 12):
        write_video(file, SECONDS, fps)
        take = plan(model, driving=driving(InputImpl.VideoFromFile(str(file))))
        made, recording = session(model, vae, take, tmp_path / "out")
        make(made, keep=True)
        assert len(recording.given) == 3


def test_speech_says_the_length_and_a_shorter_video_is_refused_or_looped(model, pose):
    speech = {"waveform": torch.zeros(1, 1, 4 * RATE), "sample_rate": RATE}
    with pytest.raises(ValueError, match=r"driving: the take has 64 frames .* the driving video ends after 40"):
        plan(model, speech, driving=driving(pose))
    take = plan(model, speech, driving=driving(pose, "loop"))
    assert take.plan.total_frames == 64 and take.audio is take.speech
    assert plan(model, speech, driving=driving(pose), max_seconds=2.0).plan.total_frames == 32
    assert plan(model, driving=driving(pose), max_seconds=1.0).plan.total_frames == 16


def test_nothing_that_says_the_length_is_refused(model, tiny_models, wan):
    with pytest.raises(ValueError, match="audio: nothing says how long the take is"):
        plan(wan.load(tiny_models, "wan21_t2v"))
    with pytest.raises(ValueError, match="driving: Wan-Animate follows a driving video, and none came"):
        plan(model, {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE})


def test_what_does_not_fit_is_refused_before_sampling(model, vae, pose, tmp_path, wan, tiny_models):
    short = InputImpl.VideoFromFile(str(write_video(tmp_path / "face.mp4", 1.0)))
    with pytest.raises(ValueError, match=r"face: lasts 1.00 s"):
        driving(pose, face=short)
    with pytest.raises(ValueError, match="mask: it says where the person is in the background, and no background"):
        driving(pose, mask=torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match="mask: it is all black"):
        driving(pose, background=pose, mask=torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match=r"mask: lasts 0.44 s \(7 frames"):
        driving(pose, background=pose, mask=torch.ones(7, 8, 8))
    take = plan(model, driving=driving(pose))
    made, recording = session(model, wan.wan22_vae(tiny_models), take, tmp_path)
    with pytest.raises(ValueError, match="vae: it makes latents of 48 channels, Wan-Animate wants 16"):
        make(made)
    made, recording = session(model, vae, take, tmp_path)
    made = replace(made, inputs=replace(made.inputs, picture=None))
    with pytest.raises(ValueError, match="reference: Wan-Animate moves the person of a picture"):
        make(made)
    assert not recording.given


def test_a_mask_for_each_frame_and_one_as_a_video_replace_the_person(model, vae, pose):
    half = torch.zeros(round(SECONDS * FPS), 48, 64)
    half[:, :, :32] = 1
    for mask in (half, half[:1], InputImpl.VideoFromComponents(types.SimpleNamespace(
            images=half[..., None].expand(-1, -1, -1, 3), audio=None, frame_rate=Fraction(FPS)))):
        take = plan(model, driving=driving(pose, background=pose, mask=mask))
        inputs = TakeInputs(model, vae, take.plan, torch.rand(1, 64, 64, 3), driving=take.driving)
        with torch.inference_mode():
            known = inputs.chunk_inputs(take.plan.chunks[0], reference=inputs.reference).conditions["concat_mask"]
        assert known[:, 0, 1, :, :4].eq(1).all() and known[:, 0, 1, :, 4:].eq(0).all()


def test_clip_vision_sees_the_reference(model, vae, pose):
    seen = []
    vision = types.SimpleNamespace(encode_image=lambda picture, crop: seen.append((picture, crop)) or "features",
                                   config={"hidden_size": 1280})
    take = plan(model, driving=driving(pose))
    inputs = TakeInputs(model, vae, take.plan, torch.rand(1, 64, 64, 3), driving=take.driving, clip_vision=vision)
    with torch.inference_mode():
        found = [inputs.chunk_inputs(chunk, reference=inputs.reference).conditions["clip_vision_output"]
                 for chunk in take.plan.chunks[:1]]
    assert found == ["features"] and torch.equal(seen[0][0], inputs.fitted_picture) and seen[0][1] is False
    vision.config["hidden_size"] = 768
    with pytest.raises(ValueError, match="clip_vision: got one of width 768, wanted 1280"):
        inputs.check(None)


def test_a_story_drives_with_one_video_after_the_other(model, vae, pose, tmp_path, monkeypatch):
    """From its time on, to the frame, and the chunks before it stay as they are."""
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    write_video(tmp_path / "wave.mp4", 1.5, 12)
    plain = plan(model, driving=driving(pose))
    waved = plan(model, driving=driving(pose), script="0:01.5 [driving wave.mp4]")
    assert plain.plan.total_frames == 40 and waved.plan.total_frames == 48 and waved.audio is None
    ours, own = (session(model, vae, take, tmp_path)[0].inputs for take in (waved, plain))
    for chunk in plain.plan.chunks[:2]:
        same = ours.driving_times(chunk)[0][1] == own.driving_times(chunk)
        assert same == (plain.plan.frame_of(chunk) + 4 * chunk.latents - 3 <= 24) or chunk.index == 0
    chunk = waved.plan.chunks[-1]
    frames = ours.request(chunk).driving["pose"].read(lambda frame: frame)
    first = waved.plan.frame_of(chunk)
    times = [Fraction(frame - 24, 16) for frame in range(max(first, 24), 45)]
    found = list(FileFrames(tmp_path / "wave.mp4").at(times))
    assert torch.equal(frames[max(24 - first, 0):][:len(found)], torch.stack(found))
    for script, words in (("0:00 [driving wave.mp4]", "so would the Driving Video that is connected"),
                          ("0:01 [driving gone.mp4]", "line 1 .*no such file"),
                          ("0:01 [driving wave.mp4, face wave.mp4]", "it has pose and face, driving has pose")):
        with pytest.raises(ValueError, match=words):
            plan(model, driving=driving(pose), script=script)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="line 1 .*text.mp4"):
        plan(model, script="0:00 [driving text.mp4]")
    assert plan(model, script="0:00 [driving wave.mp4]").plan.total_frames == 24
