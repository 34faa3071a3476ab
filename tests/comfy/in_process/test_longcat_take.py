"""Long Take on LongCat: what each chunk is given, against the loop of the specification written by hand."""
import types
from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from lodestar.backbones import attach
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.longcat.model import REFERENCE_INDEX
from lodestar.networks.longcat.network import LongCat
from lodestar.nodes.long_take import TakeSession
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.audio.features import audio_slots
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor

FPS, RATE_HZ, LAYERS = {"video": 15, "avatar": 16, "avatar15": 25}, {"avatar": 32.0, "avatar15": 25.0}, \
    {"avatar": 12, "avatar15": 5}
SECONDS, CONTEXT, CHUNK = 2, 2, 5       # latents of context and chunk
SIGMAS = torch.tensor([1.0, 0.6, 0.0])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def take_of(tiny_models, tmp_path):
    def make(name, picture=True, model=None, features=None, **plan):
        if model is None:
            folder = tiny_models / "models" / "diffusion_models"
            model = load_longcat(str(folder / f"lodestar_tiny_longcat_{name}.safetensors"))
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(
            str(tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors")), dtype=torch.float32)
        audio = {"waveform": torch.zeros(1, 1, SECONDS * 16000), "sample_rate": 16000}
        options = {"width": 64, "height": 64, "chunk_frames": 17, "overlap_frames": 5, "seed_step": 1,
                   "max_seconds": 0.0, "script": "", "fps": float(FPS[name])}
        take = LodestarPlanTake.execute(model=model, audio=audio, **{**options, **plan}).args[0]
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds([[random(1, 9, 4096, seed=3), {}]], [[random(1, 9, 4096, seed=4), {}]])
        guider.set_cfg(1.0)
        if features is None and name in LAYERS:
            features = speech(name)
        folder_paths.set_output_directory(str(tmp_path))
        return TakeSession(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), SIGMAS, vae, take,
                           features, torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4)) if picture
                           else None, None, types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))
    return make


def speech(name, seconds=SECONDS, width=64, **more):
    steps = int(seconds * RATE_HZ[name])
    layers = tuple(random(1, steps, width, seed=20 + layer) for layer in range(LAYERS[name]))
    return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "rate_hz": RATE_HZ[name],
            "audio_samples": seconds * 16000, "family": "longcat", **more}


def made(take, monkeypatch, name="take/one"):
    """The take, and for each chunk (context, reference conditions, all its latents)."""
    seen, sample, guider_at = [], TakeSession.sample_chunk, attach.guider_at
    conditions = []

    def spy(self, chunk, context, journal):
        seen.append((chunk, context, sample(self, chunk, context, journal)))
        return seen[-1][2]

    def record(*args):
        conditions.append(args[3])
        return guider_at(*args)
    monkeypatch.setattr(TakeSession, "sample_chunk", spy)
    monkeypatch.setattr(attach, "guider_at", record)
    with torch.inference_mode():
        take.make(name, False)
    return [(*entry, values) for entry, values in zip(seen, conditions, strict=True)]


@pytest.mark.parametrize("name", ["video", "avatar", "avatar15"])
@pytest.mark.parametrize("picture", [True, False])
def test_each_chunk_equals_the_loop_written_by_hand(take_of, monkeypatch, name, picture):
    """Spec sections 11, 12 and 14: layout, audio slots, Euler with v = -M; the reference follows the picture, or
    the first latent of the take where there is none."""
    take = take_of(name, picture)
    model = take.guider.model_patcher
    chunks, network, process_in = made(take, monkeypatch), model.model.diffusion_model, model.model.process_latent_in
    first_latent = chunks[0][2][:, :, :1]
    assert len(chunks) > 2
    for chunk, context, window, _ in chunks:
        head = context if chunk.index else take.reference
        known = 0 if head is None else head.shape[2]
        assert known == (CONTEXT if chunk.index else int(picture))
        reference = (take.reference if picture else first_latent) if chunk.index and name != "video" else None
        noise = copy_noise(take, chunk)
        x = noise[:, :, known:].clone()
        front = [] if reference is None else [process_in(reference)]
        front += [] if head is None else [process_in(head)]
        clean = (() if reference is None else (1,)) + ((known,) if known else ())
        times = ([] if reference is None else [REFERENCE_INDEX]) + list(range(chunk.latents))
        text = torch.nn.functional.pad(random(1, 9, 4096, seed=3), (0, 0, 0, 503))
        with torch.inference_mode():
            for now, then in zip(SIGMAS, SIGMAS[1:], strict=False):
                whole = torch.cat([*front, x], 2)
                timestep = torch.cat([torch.zeros(1, sum(clean)), torch.full((1, x.shape[2]), now * 1000)], 1)
                prediction = LongCat.forward(network, whole, timestep, text, (text != 0).any(-1), clean=clean,
                                             times=times, audio=heard_by_hand(name, chunk))
                x = x + (then - now) * -prediction[:, :, sum(clean):]
        expected = model.model.process_latent_out(x)
        assert torch.allclose(window[:, :, known:], expected, atol=2e-4), (window[:, :, known:] - expected).abs().max()
        if head is not None:
            assert torch.allclose(window[:, :, :known], head, atol=1e-5)
            assert not chunk.index or torch.equal(window[:, :, :known], head)


def copy_noise(take, chunk):
    shape = torch.zeros(1, 16, chunk.latents, 8, 8)
    return Noise_RandomNoise(chunk.seed(3)).generate_noise({"samples": shape})


def heard_by_hand(name, chunk):
    """Segment s starts at frame 4 * its first latent; five steps around every frame."""
    if name not in LAYERS:
        return None
    whole = torch.stack([layer[0] for layer in speech(name)["encoded_audio_all_layers"]], 1)
    stride = {"avatar": 2, "avatar15": 1}[name]
    return audio_slots(whole, chunk.first_latent * 4, 4 * (chunk.latents - 1) + 1, stride)[None]


@pytest.mark.parametrize("name, mode", [("video", "re-encode"), ("avatar", "stitch"), ("avatar15", "re-encode")])
def test_each_version_hands_over_as_it_was_trained(take_of, monkeypatch, name, mode):
    take = take_of(name)
    chunks = made(take, monkeypatch)
    stitched = torch.equal(chunks[1][1], chunks[0][2][:, :, -CONTEXT:])
    assert stitched == (mode == "stitch") and take.stitch.mode == mode
    other = "stitch" if mode == "re-encode" else "re-encode"
    asked = attach.with_technique(take.guider.model_patcher, LatentStitch(other))
    assert take_of(name, model=asked).stitch.mode == other


def test_the_anchor_s_schedule_gives_each_chunk_its_place(take_of, monkeypatch):
    base = take_of("avatar15")
    model = attach.with_technique(base.guider.model_patcher, LookaheadAnchor(schedule=(10.0, 30.0, -10.0)))
    times, forward = [], type(model.model.diffusion_model)._forward

    def spy(self, *args, **conds):
        times.append(conds["times"][0])
        return forward(self, *args, **conds)
    monkeypatch.setattr(type(model.model.diffusion_model), "_forward", spy)
    chunks = made(take_of("avatar15", model=model), monkeypatch)
    assert times == [[10.0, 30.0, -10.0][chunk.index % 3] for chunk, *_ in chunks for _ in SIGMAS[1:]]


def test_a_take_with_a_kv_cache_is_the_same_take(take_of, monkeypatch):
    plain = made(take_of("avatar15"), monkeypatch)
    base = take_of("avatar15").guider.model_patcher
    monkeypatch.undo()
    kept = made(take_of("avatar15", model=attach.with_technique(base, ConditioningCache())), monkeypatch)
    for ours, theirs in zip(kept, plain, strict=True):
        assert torch.allclose(ours[2], theirs[2], atol=1e-4)


# ---------------------------------------------------------------- what does not fit together

def test_speech_of_the_other_version_is_refused_with_both_numbers(take_of):
    for model, features, words in (
            ("avatar15", speech("avatar"), "got 12 layers of width 64 .*wanted 5 of 64"),
            ("avatar", speech("avatar15"), "got 5 layers of width 64 .*wanted 12 of 64"),
            ("avatar15", {**speech("avatar15"), "rate_hz": 50.0}, "25 fps and speech features at 50 Hz"),
            ("avatar15", speech("avatar15", width=80), "got 5 layers of width 80 .*wanted 5 of 64")):
        with pytest.raises(ValueError, match=words):
            take_of(model, features=features).check()


def test_another_frame_rate_is_refused(take_of):
    with pytest.raises(ValueError, match="got 24 fps and speech features at 25 Hz.*trained at 25 fps"):
        take_of("avatar15", fps=24.0).check()


def test_an_avatar_without_speech_is_refused(take_of):
    with pytest.raises(ValueError, match="LongCat-Avatar 1.5 is driven by speech"):
        replace(take_of("avatar15"), features=None).check()


def test_speakers_without_masks_are_refused(take_of):
    layers = speech("avatar15")["encoded_audio_all_layers"]
    with pytest.raises(ValueError, match="got 2 audio streams and no masks"):
        take_of("avatar15", features=speech("avatar15", audio_streams=(layers, layers))).check()


# ---------------------------------------------------------------- several speakers

def test_each_audio_stream_moves_its_own_speaker(take_of, monkeypatch):
    """Two recordings are another take than either one alone for both."""
    masks = torch.zeros(1, 3, 64, 64)
    masks[:, 0, :, :32], masks[:, 1, :, 32:] = 1, 1
    first, second = (tuple(random(1, 50, 64, seed=seed + layer) for layer in range(5)) for seed in (40, 60))
    windows_of = []
    for voices in ((first, second), (first, first), (second, second)):
        take = take_of("avatar15", features=speech("avatar15", audio_streams=voices, people_masks=masks))
        windows_of.append(made(take, monkeypatch)[1][2])
        monkeypatch.undo()
    both, one, two = windows_of
    assert not torch.allclose(both, one, atol=1e-3) and not torch.allclose(both, two, atol=1e-3)


def test_several_speakers_need_a_picture(take_of, monkeypatch):
    layers, masks = speech("avatar15")["encoded_audio_all_layers"], torch.ones(1, 3, 64, 64)
    take = take_of("avatar15", False, features=speech("avatar15", audio_streams=(layers, layers), people_masks=masks))
    with pytest.raises(ValueError, match="reference: several speakers need a picture"):
        made(take, monkeypatch)
