"""Long Take's session in this process: what each chunk is given, and the one family whose VAE cannot be a tiny file."""
import types
from dataclasses import dataclass, replace
from itertools import pairwise

import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise, Noise_RandomNoise
from lodestar.backbones import attach
from lodestar.host.chunk_sampler import GuiderChunkSampler, Sampling
from lodestar.host.session import FinishedTake, TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.take.plan import Chunk
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.audio.recording_digests import sound_marks
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes

SECONDS, RATE = 4, 16000


def wan_vae(tiny_models):
    path = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(path)), dtype=torch.float32)


def session(model, vae, output, fps=16.0, script="", clip=None, **plan):
    options = {"width": 64, "height": 64, "chunk_frames": 17, "overlap_frames": 5, "seed_step": 1, "max_seconds": 0.0}
    audio = {"waveform": torch.zeros(1, 1, SECONDS * RATE), "sample_rate": RATE}
    take = LodestarPlanTake.execute(model=model, audio=audio, fps=fps, script=script, **{**options, **plan}).args[0]
    guider = comfy.samplers.CFGGuider(model)
    text = [[torch.zeros(1, 4, 4096), {}]]
    guider.set_conds(text, text)
    guider.set_cfg(2.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    folder_paths.set_output_directory(str(output))
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))
    return TakeSession(TakeInputs(model, vae, take.plan, picture, None, clip),
                       Sampling(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), sigmas), take,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None), RecordingSampler)


@dataclass(eq=False)
class Made:
    """What one chunk was given and became."""
    chunk: Chunk
    context: torch.Tensor | None
    reference: torch.Tensor | None
    latents: torch.Tensor | None = None     # its new ones
    guider: object = None


class RecordingSampler(GuiderChunkSampler):
    """Keeps what each chunk was given and became."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.made: list[Made] = []

    def new_latents(self, chunk, context, frames, reference):
        self.made.append(Made(chunk, context, reference))
        self.made[-1].latents = super().new_latents(chunk, context, frames, reference)
        return self.made[-1].latents

    def chunk_guider(self, chunk, position, inputs):
        self.made[-1].guider = super().chunk_guider(chunk, position, inputs)
        return self.made[-1].guider


def make(take, name="take/one") -> tuple[FinishedTake, list[Made]]:
    """The finished take, and its chunks."""
    samplers = []

    def record(*parts):
        samplers.append(RecordingSampler(*parts))
        return samplers[-1]

    with torch.inference_mode():
        finished = replace(take, make_sampler=record).make(name, False)
    return finished, samplers[0].made


def changed(take, **inputs):
    """The session with other inputs."""
    return replace(take, inputs=replace(take.inputs, **inputs))


def test_a_ti2v_take_keeps_the_picture_and_the_context_exactly(tiny_models, wan, tmp_path):
    model = attach.with_technique(wan.load(tiny_models, "wan22_ti2v"), LookaheadAnchor())
    take = session(model, wan.wan22_vae(tiny_models), tmp_path, fps=24.0)
    finished, chunks = make(take, "ti2v/take")
    assert finished.path.is_file() and len(chunks) == len(take.take.plan.chunks) > 2
    assert (chunks[0].latents[:, :, :1] - take.inputs.reference).abs().max() < 1e-5
    for before, made in pairwise(chunks):
        assert torch.equal(made.context, before.latents[:, :, -2:])
        assert made.latents.shape[2] == made.chunk.new_latents == made.chunk.latents - 2
    assert torch.equal(finished.tail, chunks[-1].latents)


def test_each_chunk_gets_the_prompt_of_its_time(tiny_models, wan, tmp_path):
    model, clip = wan.load(tiny_models, "wan21_t2v"), wan.small_clip()
    take = session(model, wan_vae(tiny_models), tmp_path, script="0:00 she smiles\n0:02 she laughs", clip=clip)
    texts = [chunk.prompt for chunk in take.take.plan.chunks]
    assert set(texts) == {"she smiles", "she laughs"} and texts == sorted(texts, reverse=True)
    with torch.inference_mode():
        expected = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in set(texts)}
        assert not torch.equal(expected["she smiles"], expected["she laughs"])
        for text, made in zip(texts, make(take)[1], strict=True):
            guider = made.guider
            assert torch.equal(guider.original_conds["positive"][0]["cross_attn"], expected[text])
            assert guider.original_conds["negative"][0]["cross_attn"].shape == (1, 4, 4096)
    assert take.sampling.guider.original_conds["positive"][0]["cross_attn"].shape == (1, 4, 4096)


def test_each_chunk_pursues_the_keyframe_of_its_time(tiny_models, wan, tmp_path):
    model = wan.load(tiny_models, "wan21_t2v")
    story = NarrativeKeyframes().plus(1, wan.picture(model, seed=5)).plus(3, wan.picture(model, seed=6))
    model = attach.with_technique(attach.with_technique(model, LookaheadAnchor()), story)
    take = session(model, wan_vae(tiny_models), tmp_path)
    starts = [attach.patch_of(made.guider.model_patcher).position.start_seconds for made in make(take)[1]]
    assert starts == [take.take.plan.seconds_of(chunk)[0] for chunk in take.take.plan.chunks] and max(starts) > 3
    pursued = [story.keyframe_at(start) for start in starts]
    assert pursued[0] is story.keyframes[0][1] and pursued[-1] is None
    assert any(latents is story.keyframes[1][1] for latents in pursued)


def test_chunks_differ_in_noise_unless_the_seed_step_is_zero(tiny_models, wan, tmp_path):
    model = wan.load(tiny_models, "wan21_t2v")
    for step, alike in ((1, False), (0, True)):
        take = session(model, wan_vae(tiny_models), tmp_path, seed_step=step, overlap_frames=0)
        first, second, *_ = make(changed(take, picture=None))[1]
        assert torch.equal(first.latents, second.latents) == alike


def test_speech_rows_follow_the_chunk(tiny_models, wan, tmp_path):
    model = wan.load(tiny_models, "wan22_s2v")
    take = session(model, wan_vae(tiny_models), tmp_path, overlap_frames=-1)
    ramp = torch.arange(SECONDS * 50, dtype=torch.float32)[None, :, None].expand(1, -1, 1024)
    take = changed(take, features={"encoded_audio_all_layers": [ramp], "rate_hz": 50.0})
    for chunk in take.inputs.plan.chunks:
        rows = take.inputs.audio_for(chunk)
        history = min(chunk.first_latent, 2)     # latents of history before the chunk's own
        seconds = torch.arange((chunk.first_latent - history) * 4, chunk.end_latent * 4) / 16
        inside = seconds * 50 <= SECONDS * 50 - 1
        assert rows.shape == (1, (history + chunk.latents) * 4, 1024)
        assert torch.allclose(rows[0, inside, 0], seconds[inside] * 50) and (rows[0, ~inside] == 0).all()


@pytest.mark.parametrize("fps", [16.0, 25.0])
def test_another_frame_rate_than_the_model_s_is_said(tiny_models, wan, fps):
    audio = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}
    model = wan.load(tiny_models, "wan22_s2v")
    summary = LodestarPlanTake.execute(model, audio, 64, 64, fps, 17, -1, "", 1, 0.0).args[1]
    assert ("trained at 16 fps" in summary) == (fps != 16)


def test_features_of_another_recording_are_refused(tiny_models, wan, tmp_path):
    model = wan.load(tiny_models, "wan22_s2v")
    take = session(model, wan_vae(tiny_models), tmp_path, overlap_frames=-1)
    features = {"encoded_audio_all_layers": [torch.zeros(1, SECONDS * 50, 1024)], "rate_hz": 50.0}
    other = {**take.take.speech, "waveform": take.take.speech["waveform"].clone()}
    other["waveform"][..., RATE * 2:] = 0.5
    longer = {**take.take.speech, "waveform": torch.zeros(1, 1, 3 * SECONDS * RATE)}
    for speech, apart in ((take.take.speech, None), (longer, None), (other, "2.00 s")):
        audio_in = changed(take, features={**features, "sound_marks": sound_marks(speech)})
        if apart is None:
            audio_in.check()
        else:
            with pytest.raises(ValueError, match=f"^audio_features, plan: two recordings, which differ from {apart}"):
                audio_in.check()


def test_the_video_may_have_another_sound_than_the_speech(tiny_models, wan):
    speech = {"waveform": torch.zeros(1, 1, RATE), "sample_rate": RATE}
    music = {"waveform": torch.ones(1, 2, 48000 * 3), "sample_rate": 48000}
    model = wan.load(tiny_models, "wan22_s2v")
    take = LodestarPlanTake.execute(model, speech, 64, 64, 16.0, 17, -1, "", 1, 0.0, soundtrack=music).args[0]
    assert take.audio["waveform"].shape == (1, 2, 48000) and take.speech["waveform"].shape == (1, 1, RATE)


def test_everything_that_determines_a_chunk_is_in_its_fingerprint(tiny_models, wan, tmp_path):
    """In process, without a queued prompt: each value alone makes another take."""
    model, vae = wan.load(tiny_models, "wan21_t2v"), wan_vae(tiny_models)
    take = session(model, vae, tmp_path, chunk_frames=33)

    def guided(patched, cfg=2.0, text=0.0):
        guider = comfy.samplers.CFGGuider(patched)
        guider.set_conds(*[[[torch.full((1, 4, 4096), text), {}]]] * 2)
        guider.set_cfg(cfg)
        return guider

    def first(session) -> tuple:
        found, unreadable = session.fingerprints(VideoWriter(64, 64, 16))
        assert unreadable == []
        return tuple(sorted(found[0].items()))

    other_vae = wan_vae(tiny_models)
    other_vae.first_stage_model.conv2.weight.data.neg_()
    anchors = [attach.with_technique(model, LookaheadAnchor(distance)) for distance in (3, 4)]
    others = [replace(take, sampling=replace(take.sampling, **change)) for change in (
        {"guider": guided(model, 3.0)}, {"guider": guided(model, text=1.0)}, {"guider": guided(anchors[0])},
        {"guider": guided(anchors[1])}, {"sampler": comfy.samplers.sampler_object("heun")},
        {"sigmas": take.sampling.sigmas * 0.9}, {"noise": Noise_RandomNoise(4)})]
    others += [changed(take, vae=other_vae), changed(take, picture=take.inputs.picture.flip(1)),
               changed(take, model=anchors[0])]
    with torch.inference_mode():
        assert len({first(other) for other in (take, *others)}) == 1 + len(others)
        assert first(take) == first(replace(take, hidden=None, sampling=replace(take.sampling, guider=guided(model))))


def test_no_noise_is_refused(tiny_models, wan, tmp_path):
    take = session(wan.load(tiny_models, "wan21_t2v"), wan_vae(tiny_models), tmp_path)
    take.check()
    with pytest.raises(ValueError, match="noise: got zeros .DisableNoise.*Connect RandomNoise"):
        replace(take, sampling=replace(take.sampling, noise=Noise_EmptyNoise())).check()
