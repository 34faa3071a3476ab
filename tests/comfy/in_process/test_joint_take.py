"""Long Take on models that make picture and sound together: chunks from a recording, which is what the file has."""
import types
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import comfy.samplers
import folder_paths
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import InputImpl, Types
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from families import FAMILIES
from joint_models import (
    LTX,
    load_h3,
    load_h3_sound_vae,
    load_h3_vae,
    load_ltx,
    load_ltx_sound_vae,
    load_ltx_vae,
)
from lodestar.backbones import attach, find
from lodestar.backbones.audio.speech import Speech
from lodestar.host.chunk_sampler import GuiderChunkSampler, Sampling
from lodestar.host.continued_take import continue_take
from lodestar.host.remakes import held_latents, latents_shown_later
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.joint_speech import LodestarJointSpeech
from lodestar.nodes.one_chunk import LodestarOneChunk
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.tests.comfy.in_process.test_remakes import packets
from safetensors.torch import load_file

RATE, H3_OVERLAP = 16_000, 5


@dataclass(frozen=True, eq=False)
class Joint:
    """A family with its VAEs, and a plan of a few short chunks."""
    model: object
    vae: object
    sound_vae: object
    text: int
    frames: int
    overlap: int
    seconds: float


@pytest.fixture(scope="module", params=["ltx", "minimax_h3"])
def joint(request):
    if not FAMILIES[request.param].exists:
        pytest.skip("this ComfyUI has no such model")
    if request.param == "ltx":
        return Joint(load_ltx(LTX), load_ltx_vae(), load_ltx_sound_vae(), 80, 25, 9, 2.2)
    return Joint(load_h3(), load_h3_vae(), load_h3_sound_vae(), 40, 39, H3_OVERLAP, 4.0)


def recording(seconds, seed=3):
    waveform = torch.rand(1, 1, round(seconds * RATE), generator=torch.Generator().manual_seed(seed)) * 0.4 - 0.2
    return {"waveform": waveform, "sample_rate": RATE}


class Recorder(GuiderChunkSampler):
    """Keeps what each chunk was given and became."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.made = []

    def new_latents(self, chunk, context, frames, reference):
        latents = super().new_latents(chunk, context, frames, reference)
        self.made.append((chunk, context, frames, latents))
        return latents

    def run_sampler(self, guider, chunk, inputs):
        sampled = super().run_sampler(guider, chunk, inputs)
        self.last = inputs, sampled
        return sampled


def session(joint, output, speech=None, techniques=(), seconds=None, script="", clip=None):
    audio = recording(seconds or joint.seconds)
    take = LodestarPlanTake.execute(model=joint.model, audio=audio, width=64, height=64, chunk_frames=joint.frames,
                                    overlap_frames=joint.overlap, script=script).args[0]
    model = joint.model
    for technique in (LookaheadAnchor(2), *techniques):
        model = attach.with_technique(model, technique)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*[[[torch.zeros(1, 4, joint.text), {}]]] * 2)
    guider.set_cfg(1.0)
    folder_paths.set_output_directory(str(output))
    if speech is None:
        speech = LodestarJointSpeech.execute(audio, joint.sound_vae, 0.0, 0.0, 0).args[0]
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))
    samplers = []

    def record(*parts):
        samplers.append(Recorder(*parts))
        return samplers[-1]

    take, before = continue_take(model, take, clip)
    return TakeSession(TakeInputs(model, joint.vae, take.plan, picture, speech, before=before),
                       Sampling(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"),
                                torch.tensor([1.0, 0.5, 0.0])), take,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), record), samplers, audio


@pytest.fixture(scope="module")
def whole(joint, tmp_path_factory):
    """A finished take, its chunks kept: (session, what its chunk sampler has seen, recording, video)."""
    take, samplers, audio = session(joint, tmp_path_factory.mktemp("whole"))
    with torch.inference_mode():
        finished = take.make("joint/again", True)
    return take, samplers[0], audio, Path(finished.path)


def test_a_take_has_the_recording_and_its_chunks_go_on(whole):
    """Every frame once, context as it was sampled, the speech of each chunk; the file has the sound that came."""
    take, sampler, audio, path = whole
    plan = take.take.plan
    assert len(sampler.made) == len(plan.chunks) == 3
    for (_, _, _, before), (chunk, context, _, latents) in pairwise(sampler.made):
        assert torch.equal(context, before[:, :, -chunk.context_latents:])
        assert latents.shape[2] == chunk.new_latents
    inputs, sampled = sampler.last
    sound, made = inputs.samples.unbind()[1], sampled.unbind()[1]
    assert (sound - made).abs().max() < 1e-5 and sound.std() > 0.01 and not inputs.noise_mask.unbind()[1].any()
    assert len(frames_of(path)) == plan.total_frames
    with av.open(str(path)) as file:
        played = torch.cat([torch.from_numpy(part.to_ndarray()) for part in file.decode(file.streams.audio[0])], 1)
        rate = file.streams.audio[0].rate
    own = torch.nn.functional.interpolate(audio["waveform"], size=round(audio["waveform"].shape[-1] * rate / RATE))
    length = min(own.shape[-1], played.shape[-1])
    assert torch.corrcoef(torch.stack([own[0, 0, :length], played[0, :length].float()]))[0, 1] > 0.9


def test_by_value_a_take_is_the_same_and_other_noise_makes_another(joint, whole):
    take, _, audio, path = whole
    again, others, _ = session(joint, path.parent.parent)
    with torch.inference_mode():
        assert again.make("joint/again", True).path == path and not others
    noisy = replace(take.inputs, features=LodestarJointSpeech.execute(audio, joint.sound_vae, 0.05, 0.0, 0).args[0])
    writer = VideoWriter(64, 64, Fraction(24))
    own, other = (one.fingerprints(writer)[0] for one in (take, replace(take, inputs=noisy)))
    assert [[name for name in chunk if chunk[name] != changed[name]] for chunk, changed in zip(
        own, other, strict=True)] == [["speech"]] * 3


def frames_of(path):
    with av.open(str(path)) as file:
        return torch.stack([torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)])


def test_a_broken_take_goes_on_as_if_it_had_not_been(joint, whole, tmp_path, monkeypatch):
    """A fresh decoder is brought to where the old one was: no frame is lost, doubled or other."""
    broken, _, _ = session(joint, tmp_path)
    with torch.inference_mode():
        sample = Recorder.new_latents
        monkeypatch.setattr(Recorder, "new_latents", lambda self, chunk, *given: sample(self, chunk, *given)
                            if chunk.index < 2 else (_ for _ in ()).throw(RuntimeError("the plug")))
        with pytest.raises(RuntimeError, match="the plug"):
            broken.make("joint/broken", False)
        monkeypatch.undo()
        again, samplers, _ = session(joint, tmp_path)
        resumed = again.make("joint/broken", False).path
    assert len(samplers[0].made) == len(broken.take.plan.chunks) - 2
    one, other = frames_of(whole[3]).int(), frames_of(resumed).int()
    assert one.shape == other.shape and (one - other).abs().max() <= 3


def test_a_clip_is_gone_on_from_or_refused(joint, whole, tmp_path):
    """LTX-2 begins with the clip's last frames, in One Chunk as well; MiniMax H3's clips begin with a frame alone."""
    shown, text = frames_of(whole[3]) / 255, [[torch.zeros(1, 4, joint.text), {}]]
    clip = InputImpl.VideoFromComponents(Types.VideoComponents(images=shown, audio=None, frame_rate=Fraction(24)))
    speech = LodestarJointSpeech.execute(recording(2), joint.sound_vae, 0.0, 0.0, 0).args[0]

    def one_chunk():
        return LodestarOneChunk.execute(joint.model, text, text, joint.vae, 64, 64, 41, speech, continue_from=clip).args

    if joint.overlap == H3_OVERLAP:
        for refused in (one_chunk, lambda: session(joint, tmp_path, clip=clip)):
            with pytest.raises(ValueError, match="a take cannot go on from it. Begin with its last picture"):
                refused()
        return
    with torch.inference_mode():
        latent, tail = one_chunk()[2], joint.vae.encode(shown[-17:])
        finished = session(joint, tmp_path, seconds=0.6, clip=clip)[0].make("joint/on", False)
    (picture, _), (mask, _) = latent["samples"].unbind(), latent["noise_mask"].unbind()
    assert torch.allclose(picture[:, :, :3], tail, atol=1e-4) and mask[0, 0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(frames_of(finished.path)) == len(shown) + 15 - 1   # the clip's last frame is the speech's first


def test_speech_of_each_chunk_begins_where_its_picture_does(joint, tmp_path):
    take, _, audio = session(joint, tmp_path)
    rate, own = take.inputs.speech.rate_hz, take.inputs.speech.streams[0][0]
    for chunk in take.take.plan.chunks[1:]:
        clock = take.take.plan.timeline
        first, frames = take.inputs.backbone.window(clock, chunk.first_latent, chunk.latents)
        given = take.inputs.audio_for(chunk)
        begin = round(Fraction(first) / clock.fps * Fraction(rate))
        assert torch.equal(given[:, :500], own[:, begin:begin + 500])
        assert given.shape[1] == round(Fraction(frames) / clock.fps * Fraction(rate))


def test_a_chunk_is_made_again_where_its_decoder_shows_it(joint, whole):
    """MiniMax H3's shows two latents with the next chunk, LTX's more than a short chunk has."""
    if joint.overlap == H3_OVERLAP:
        return check_remake(joint, whole[3])
    with torch.inference_mode(), pytest.raises(ValueError, match=(
            "plan: chunk 2 cannot be made again by itself: it has 2 latents of its own and its last 2 are shown with "
            "the next chunk, wanted 3 or more")):
        session(joint, whole[3].parent.parent, script=again_at(joint))[0].make("joint/again", True)


def again_at(joint) -> str:
    """A script that makes the chunk in the middle again."""
    return f"0:0{joint.seconds / 2:.2f} [again]"


@pytest.mark.slow
@pytest.mark.parametrize("joint", ["ltx"], indirect=True)
def test_a_long_chunk_of_ltx_is_made_again(joint, tmp_path):
    longer = replace(joint, frames=97, seconds=9.4)
    with torch.inference_mode():
        first = session(longer, tmp_path)[0].make("joint/again", True).path
    check_remake(longer, Path(first))


def check_remake(joint, first):
    """All frames but the chunk's stay, and what its decoder shows with the next chunk is held."""
    output = first.parent.parent
    with torch.inference_mode():
        take = session(joint, output, script=again_at(joint))[0]
        again = take.make("joint/again", True).path
    plan, (chunk,) = take.take.plan, take.take.plan.remakes
    assert 0 < chunk.index < len(plan.chunks) - 1
    folders = sorted((output / "lodestar_takes").glob("joint_again-*"), key=lambda path: len(path.name))
    counts = [len(packets(path)) for path in sorted(folders[0].glob("chunk_*.mp4"))]
    start, stop = sum(counts[:chunk.index]), sum(counts[:chunk.index + 1])
    before, after = packets(first), packets(again)
    assert len(before) == len(after) == plan.total_frames and before[start:stop] != after[start:stop]
    assert before[:start] == after[:start] and before[stop:] == after[stop:]
    old = load_file(folders[0] / f"chunk_{chunk.index:04}.safetensors")["latents"]
    new, later = load_file(folders[1] / "chunk_0000.safetensors")["latents"], latents_shown_later(plan, chunk, stop)
    held = held_latents(plan, chunk, later)
    assert 0 < later <= held < chunk.new_latents
    assert torch.equal(old[:, :, -held:], new[:, :, -held:])
    assert (old - new)[:, :, :-held].abs().amax((0, 1, 3, 4)).min() > 0.1


def test_another_way_to_go_on_works_or_is_refused(joint, tmp_path):
    take, samplers, _ = session(joint, tmp_path, techniques=[LatentStitch("re-encode")])
    with torch.inference_mode():
        if take.inputs.backbone.opening_frames():
            take.make("joint/again", False)
            chunk, context, frames, _ = samplers[0].made[1]
            assert len(frames) == 8 * (chunk.context_latents - 1) + 1
            assert torch.allclose(take.inputs.encode(frames), context)
        else:
            with pytest.raises(ValueError, match="Set Latent Stitch to 'stitch'"):
                take.make("joint/again", False)


def test_foreign_speech_and_audio_vaes_are_refused(joint, tmp_path):
    features = {"encoded_audio_all_layers": (torch.zeros(1, 500, 1024),) * 25, "encoded_audio": torch.zeros(1, 9, 9)}
    take, _, _ = session(joint, tmp_path, features)
    with pytest.raises(ValueError, match="got 25 layers of width 1024.*Joint Speech"):
        _ = take.inputs.speech
    with pytest.raises(ValueError, match="audio_vae: got .*, wanted the audio VAE of LTX-2 or MiniMax H3"):
        LodestarJointSpeech.execute(recording(1), joint.vae, 0.0, 0.0, 0)


def test_a_stream_is_refused_with_its_reason(joint):
    for check in (find(joint.model).check_rolling, find(joint.model).check_stream):
        with pytest.raises(ValueError, match="in one latent, and Rolling Window rolls pictures alone"):
            check()


def test_joint_speech_lays_noise_under_its_copy_alone(joint):
    audio = recording(1)
    clean, noisy = (Speech.of(LodestarJointSpeech.execute(audio, joint.sound_vae, noise, 0.5, 7).args[0])
                    for noise in (0.0, 0.01))
    apart = (clean.streams[0][0] - noisy.streams[0][0]).std().item()
    assert 0.009 < apart < 0.011 and clean.ahead == Fraction(1, 2) and clean.marks == noisy.marks
    assert torch.equal(audio["waveform"], recording(1)["waveform"])


def test_one_chunk_gives_both_streams(joint):
    text = [[torch.zeros(1, 4, joint.text), {}]]
    speech = LodestarJointSpeech.execute(recording(2), joint.sound_vae, 0.0, 0.0, 0).args[0]
    positive, _, latent, model = LodestarOneChunk.execute(
        joint.model, text, text, joint.vae, 64, 64, joint.frames, speech, torch.rand(1, 70, 80, 3)).args
    assert isinstance(latent["samples"], NestedTensor) and not latent["noise_mask"].unbind()[1].any()
    assert attach.patch_of(model) is not None and positive[0][1].keys() > set()
