"""Long Take on LongCat: what each chunk is given, against the loop of the specification written by hand."""
import types

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from draws import random
from lodestar.backbones import attach
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.longcat.model import REFERENCE_INDEX
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.networks.longcat.network import LongCat
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.techniques.audio.features import slot_steps
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.latent_stitch import LatentStitch
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.tests.comfy.in_process.test_session import changed, make

FPS, RATE_HZ, LAYERS = {"video": 15, "avatar": 16, "avatar15": 25}, {"avatar": 32.0, "avatar15": 25.0}, \
    {"avatar": 12, "avatar15": 5}
SECONDS, CONTEXT, CHUNK = 2, 2, 5       # latents of context and chunk
SIGMAS = torch.tensor([1.0, 0.6, 0.0])


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
        shown = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4)) if picture else None
        return TakeSession(TakeInputs(model, vae, take.plan, shown, features), Sampling(
            Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), SIGMAS), take,
            types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))
    return make


def speech(name, seconds=SECONDS, width=64, **more):
    steps = int(seconds * RATE_HZ[name])
    layers = tuple(random(1, steps, width, seed=20 + layer) for layer in range(LAYERS[name]))
    return {"encoded_audio": layers[-1], "encoded_audio_all_layers": layers, "rate_hz": RATE_HZ[name],
            "audio_samples": seconds * 16000, "family": "longcat", **more}


@pytest.mark.parametrize("name", ["video", "avatar", "avatar15"])
@pytest.mark.parametrize("picture", [True, False])
def test_each_chunk_equals_the_loop_written_by_hand(take_of, name, picture):
    """Spec sections 11, 12 and 14: layout, audio slots, Euler with v = -M; the reference follows the picture, or
    the first latent of the take where there is none."""
    take = take_of(name, picture)
    model = take.inputs.model
    chunks, network, process_in = make(take)[1], model.model.diffusion_model, model.model.process_latent_in
    first_latent = chunks[0].latents[:, :, :1]
    assert len(chunks) > 2
    for made in chunks:
        chunk = made.chunk
        head = made.context if chunk.index else take.inputs.reference
        known = 0 if head is None else head.shape[2]
        assert known == (CONTEXT if chunk.index else int(picture))
        reference = (take.inputs.reference if picture else first_latent) if chunk.index and name != "video" else None
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
                                             times=times, audio=audio_by_hand(name, chunk))
                x = x + (then - now) * -prediction[:, :, sum(clean):]
        expected = model.model.process_latent_out(x)
        new = made.latents if chunk.index else made.latents[:, :, known:]
        assert torch.allclose(new, expected, atol=2e-4), (new - expected).abs().max()
        if head is not None and not chunk.index:
            assert torch.allclose(made.latents[:, :, :known], head, atol=1e-5)


def copy_noise(take, chunk):
    shape = torch.zeros(1, 16, chunk.latents, 8, 8)
    return Noise_RandomNoise(chunk.seed(3)).generate_noise({"samples": shape})


def audio_by_hand(name, chunk):
    """Segment s starts at frame 4 * its first latent; five steps around every frame."""
    if name not in LAYERS:
        return None
    whole = torch.stack([layer[0] for layer in speech(name)["encoded_audio_all_layers"]], 1)
    stride = {"avatar": 2, "avatar15": 1}[name]
    return whole[slot_steps(chunk.first_latent * 4, 4 * (chunk.latents - 1) + 1, stride, len(whole))][None, None]


@pytest.mark.parametrize("name, mode", [("video", "re-encode"), ("avatar", "stitch"), ("avatar15", "re-encode")])
def test_each_version_hands_over_as_it_was_trained(take_of, name, mode):
    take = take_of(name)
    chunks = make(take)[1]
    stitched = torch.equal(chunks[1].context, chunks[0].latents[:, :, -CONTEXT:])
    assert stitched == (mode == "stitch") and take.inputs.handover.mode == mode
    other = "stitch" if mode == "re-encode" else "re-encode"
    asked = attach.with_technique(take.inputs.model, LatentStitch(other))
    assert take_of(name, model=asked).inputs.handover.mode == other


def test_the_anchor_s_schedule_gives_each_chunk_its_place(take_of, monkeypatch):
    base = take_of("avatar15")
    model = attach.with_technique(base.inputs.model, LookaheadAnchor(schedule=(10.0, 30.0, -10.0)))
    times, forward = [], type(model.model.diffusion_model)._forward

    def spy(self, *args, **conds):
        times.append(conds["times"][0])
        return forward(self, *args, **conds)
    monkeypatch.setattr(type(model.model.diffusion_model), "_forward", spy)
    chunks = make(take_of("avatar15", model=model))[1]
    assert times == [[10.0, 30.0, -10.0][made.chunk.index % 3] for made in chunks for _ in SIGMAS[1:]]


def test_a_take_with_a_kv_cache_is_the_same_take(take_of):
    plain = make(take_of("avatar15"))[1]
    model = attach.with_technique(take_of("avatar15").inputs.model, ConditioningCache())
    cached = make(take_of("avatar15", model=model))[1]
    for ours, theirs in zip(cached, plain, strict=True):
        assert torch.allclose(ours.latents, theirs.latents, atol=1e-4)


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
        changed(take_of("avatar15"), features=None).check()


def test_speakers_without_masks_are_refused(take_of):
    layers = speech("avatar15")["encoded_audio_all_layers"]
    with pytest.raises(ValueError, match="got 2 audio streams and no masks"):
        take_of("avatar15", features=speech("avatar15", audio_streams=(layers, layers))).check()


# ---------------------------------------------------------------- several speakers

def test_each_audio_stream_moves_its_own_speaker(take_of):
    """Two recordings are another take than either one alone for both."""
    masks = torch.zeros(1, 3, 64, 64)
    masks[:, 0, :, :32], masks[:, 1, :, 32:] = 1, 1
    first, second = (tuple(random(1, 50, 64, seed=seed + layer) for layer in range(5)) for seed in (40, 60))
    windows_of = []
    for streams in ((first, second), (first, first), (second, second)):
        take = take_of("avatar15", features=speech("avatar15", audio_streams=streams, speaker_masks=masks))
        windows_of.append(make(take)[1][1].latents)
    both, one, two = windows_of
    assert not torch.allclose(both, one, atol=1e-3) and not torch.allclose(both, two, atol=1e-3)


def test_several_speakers_need_a_picture(take_of):
    layers, masks = speech("avatar15")["encoded_audio_all_layers"], torch.ones(1, 3, 64, 64)
    take = take_of("avatar15", False, features=speech("avatar15", audio_streams=(layers, layers), speaker_masks=masks))
    with pytest.raises(ValueError, match="reference: several speakers need a picture"):
        make(take)
