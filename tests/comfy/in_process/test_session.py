"""Long Take's session in this process: what each chunk is given, and the one family whose VAE cannot be a tiny file."""
import types
from dataclasses import replace

import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from lodestar.backbones import attach
from lodestar.host.take_fingerprints import take_fingerprints
from lodestar.nodes.long_take import TakeSession
from lodestar.nodes.plan_take import LodestarPlanTake
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
    return TakeSession(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), sigmas, vae, take, None,
                       torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4)), clip,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))


def recorded(run, monkeypatch):
    """The guiders that the session samples with, one per chunk."""
    seen, guider_at = [], attach.guider_at

    def record(*args, **kwargs):
        seen.append(guider_at(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(attach, "guider_at", record)
    with torch.inference_mode():
        run()
    return seen


def test_a_ti2v_take_keeps_the_picture_and_the_context_exactly(tiny_models, wan, tmp_path, monkeypatch):
    model = attach.with_technique(wan.load(tiny_models, "wan22_ti2v"), LookaheadAnchor())
    take = session(model, wan.wan22_vae(tiny_models), tmp_path, fps=24.0)
    windows, sample = [], TakeSession.sample_chunk
    monkeypatch.setattr(TakeSession, "sample_chunk",
                        lambda self, chunk, context, journal: windows.append((context, sample(self, chunk, context)))
                        or windows[-1][1])
    with torch.inference_mode():
        made = take.make("ti2v/take", False)
    assert made.path.is_file() and len(windows) == len(take.plan.chunks) > 2
    assert (windows[0][1][:, :, :1] - take.reference).abs().max() < 1e-5
    for (_, before), (context, window) in zip(windows, windows[1:], strict=False):
        assert torch.equal(context, before[:, :, -2:]) and torch.equal(window[:, :, :2], context)


def test_each_chunk_gets_the_prompt_of_its_time(tiny_models, wan, tmp_path):
    model, clip = wan.load(tiny_models, "wan21_t2v"), wan.small_clip()
    take = session(model, wan_vae(tiny_models), tmp_path, script="0:00 she smiles\n0:02 she laughs", clip=clip)
    texts = [chunk.prompt for chunk in take.plan.chunks]
    assert set(texts) == {"she smiles", "she laughs"} and texts == sorted(texts, reverse=True)
    with torch.inference_mode():
        expected = {text: clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in set(texts)}
        assert not torch.equal(expected["she smiles"], expected["she laughs"])
        for text in texts:
            guider = attach.guider_at(take.guider, take.techniques, attach.ChunkPosition(), {}, {}, take.prompts[text])
            assert torch.equal(guider.original_conds["positive"][0]["cross_attn"], expected[text])
            assert guider.original_conds["negative"][0]["cross_attn"].shape == (1, 4, 4096)
    assert take.guider.original_conds["positive"][0]["cross_attn"].shape == (1, 4, 4096)


def test_each_chunk_pursues_the_keyframe_of_its_time(tiny_models, wan, tmp_path, monkeypatch):
    model = wan.load(tiny_models, "wan21_t2v")
    story = NarrativeKeyframes().plus(1, wan.picture(model, seed=5)).plus(3, wan.picture(model, seed=6))
    model = attach.with_technique(attach.with_technique(model, LookaheadAnchor()), story)
    take = session(model, wan_vae(tiny_models), tmp_path)
    guiders = recorded(lambda: take.make("story/take", False), monkeypatch)
    starts = [attach.patch_of(guider.model_patcher).position.start_seconds for guider in guiders]
    assert starts == [take.plan.seconds_of(chunk)[0] for chunk in take.plan.chunks] and max(starts) > 3
    pursued = [story.keyframe_at(start) for start in starts]
    assert pursued[0] is story.keyframes[0][1] and pursued[-1] is None
    assert any(latents is story.keyframes[1][1] for latents in pursued)


def test_chunks_differ_in_noise_unless_the_seed_step_is_zero(tiny_models, wan, tmp_path):
    model = wan.load(tiny_models, "wan21_t2v")
    for step, alike in ((1, False), (0, True)):
        take = session(model, wan_vae(tiny_models), tmp_path, seed_step=step, overlap_frames=0)
        with torch.inference_mode():
            first, second = (take.sample_chunk(chunk, None) for chunk in take.plan.chunks[:2])
        assert torch.equal(first, second) == alike


def test_speech_rows_follow_the_chunk(tiny_models, wan, tmp_path):
    model = wan.load(tiny_models, "wan22_s2v")
    take = session(model, wan_vae(tiny_models), tmp_path, overlap_frames=-1)
    ramp = torch.arange(SECONDS * 50, dtype=torch.float32)[None, :, None].expand(1, -1, 1024)
    take = replace(take, features={"encoded_audio_all_layers": [ramp], "rate_hz": 50.0})
    for chunk in take.plan.chunks:
        rows = take.audio_of(chunk)
        history = min(chunk.first_latent, 2)     # latents of history before the chunk's own
        seconds = torch.arange((chunk.first_latent - history) * 4, chunk.end_latent * 4) / 16
        spoken = seconds * 50 <= SECONDS * 50 - 1
        assert rows.shape == (1, (history + chunk.latents) * 4, 1024)
        assert torch.allclose(rows[0, spoken, 0], seconds[spoken] * 50) and (rows[0, ~spoken] == 0).all()


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
        heard = replace(take, features={**features, "sound_marks": sound_marks(speech)})
        if apart is None:
            heard.check()
        else:
            with pytest.raises(ValueError, match=f"^audio_features, plan: two recordings, which differ from {apart}"):
                heard.check()


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

    def first(changed) -> tuple:
        found, unreadable = take_fingerprints(changed.guider, changed.values(VideoWriter(64, 64, 16)),
                                          map(changed.values_of, changed.plan.chunks))
        assert unreadable == []
        return tuple(sorted(found[0].items()))

    other_vae = wan_vae(tiny_models)
    other_vae.first_stage_model.conv2.weight.data.neg_()
    anchors = [attach.with_technique(model, LookaheadAnchor(distance)) for distance in (3, 4)]
    others = [replace(take, **change) for change in (
        {"guider": guided(model, 3.0)}, {"guider": guided(model, text=1.0)}, {"guider": guided(anchors[0])},
        {"guider": guided(anchors[1])}, {"sampler": comfy.samplers.sampler_object("heun")},
        {"sigmas": take.sigmas * 0.9}, {"noise": Noise_RandomNoise(4)}, {"vae": other_vae},
        {"picture": take.picture.flip(1)})]
    with torch.inference_mode():
        assert len({first(changed) for changed in (take, *others)}) == 1 + len(others)
        assert first(take) == first(replace(take, hidden=None, guider=guided(model)))
