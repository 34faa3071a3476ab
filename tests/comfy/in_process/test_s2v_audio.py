"""S2V's audio tokens, as they reach its blocks in the real model, wherever in the take a chunk begins."""
import types
from contextlib import contextmanager
from fractions import Fraction

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkRequest
from lodestar.backbones.wan.s2v import WanS2V
from lodestar.backbones.wan.s2v_audio import own_latents
from lodestar.nodes.one_chunk import LodestarOneChunk
from lodestar.pipelines.take.plan import exact_fps, plan_take
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.timeline import Timeline

RELATIVE = 1e-5     # of float32 convolutions over another number of rows; a missing history costs 0.7 and more
CHUNK, SECONDS = 5, 6   # latents, of speech


@pytest.fixture(scope="module")
def model(tiny_models, wan):
    return wan.load(tiny_models, "wan22_s2v")


@pytest.fixture(scope="module")
def speech(wan):
    """Features in which every frame is another one."""
    return Speech((tuple(wan.random(1, SECONDS * 50, 1024, seed=20 + layer) for layer in range(25)),), 50.0)


def whole(model, speech, latents, fps=16.0):
    """The tokens of a take of `latents`, encoded at once: (1, latents, 1, D) for all tokens, (1, latents, n, D)."""
    clock = Timeline(exact_fps(fps))
    rows = speech.frame_features(clock, 0, latents * 4).permute(0, 2, 1)[None]
    with torch.inference_mode():
        return model.model.diffusion_model.casual_audio_encoder(rows)


@contextmanager
def listening(model):
    """What the model's injector gets in each call, one pair of tokens each."""
    audio_in = []

    def listen(module, args, kwargs):
        named = dict(zip(("x", "block_id", "audio_emb", "audio_emb_global", "seq_len"), args, strict=False)) | kwargs
        if named["block_id"] == 0:
            audio_in.append((named["audio_emb_global"], named["audio_emb"]))

    handle = model.model.diffusion_model.audio_injector.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        yield audio_in
    finally:
        handle.remove()


def assert_same(audio_in, expected, latents):
    for got, all_of_it in zip(audio_in, expected, strict=True):
        wanted = all_of_it[:, latents]
        assert got.shape[1:] == wanted.shape[1:]
        assert (got - wanted).abs().max() <= RELATIVE * wanted.abs().max()


def inputs_of(wan, speech, first, latents, fps=16.0):
    backbone = WanS2V()
    audio = backbone.audio_for(speech, Timeline(exact_fps(fps)), first, latents)
    return backbone.chunk_inputs(ChunkRequest(latents, (16, *wan.SIZE), wan.random(1, 16, 19, *wan.SIZE, seed=7),
                                              wan.random(1, 16, 1, *wan.SIZE, seed=6), audio))


def sample(model, wan, speech, first, latents, techniques=(), steps=1, cfg=2.0, fps=16.0):
    """One chunk as Long Take samples it, and its audio tokens."""
    guider = comfy.samplers.CFGGuider(model)
    text = [[wan.random(1, 7, 4096, seed=3), {}]]
    guider.set_conds(text, text)
    guider.set_cfg(cfg)
    inputs = inputs_of(wan, speech, first, latents, fps)
    guider = attach.guider_at(guider, techniques, ChunkPosition(first_latent=first), inputs.conditions, inputs.uncond)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    with listening(model) as audio_in, torch.inference_mode():
        made = guider.sample(wan.noise(model, latents), inputs.samples, comfy.samplers.sampler_object("euler"), sigmas,
                             disable_pbar=True, seed=1)
    return made, audio_in


@pytest.mark.parametrize("fps", [16.0, 23.976, 25.0])
def test_every_chunk_gets_the_audio_features_of_the_whole_take(model, wan, speech, fps):
    clock = Timeline(exact_fps(fps))
    plan = plan_take(clock, clock.frames_for_seconds(Fraction(3)), 17, 0, 64, 64)
    expected = whole(model, speech, plan.total_latents, fps)
    assert len(plan.chunks) > 2
    for chunk in plan.chunks:
        _, audio_in = sample(model, wan, speech, chunk.first_latent, chunk.latents, fps=fps)
        (everyone, each), = audio_in
        latents = slice(chunk.first_latent, chunk.end_latent)
        assert_same((everyone[-1:], each[-1:]), expected, latents)          # positive: core's batch ends with it
        silent = model.model.diffusion_model.casual_audio_encoder(torch.zeros(1, 25, 1024, plan.total_latents * 4))
        assert_same((everyone[:1], each[:1]), silent, latents)


def test_without_its_history_a_chunk_would_get_other_tokens(model, wan, speech):
    """The measure itself: feature frames from the chunk's own first on, as ComfyUI's node hands them over."""
    expected = whole(model, speech, 3 * CHUNK)
    rows = speech.frame_features(Timeline(Fraction(16)), CHUNK * 4, CHUNK * 4).permute(0, 2, 1)[None]
    with torch.inference_mode():
        tokens = model.model.diffusion_model.casual_audio_encoder(rows)[1]
    wanted = expected[1][:, CHUNK:2 * CHUNK]
    far = [float((tokens[:, at] - wanted[:, at]).norm() / wanted[:, at].norm()) for at in range(CHUNK)]
    assert min(far[:2]) > 0.3 and max(far[2:]) < RELATIVE


@pytest.mark.parametrize("techniques", [(LookaheadAnchor(4),), (LookaheadAnchor(0, "in chunk", 2), ReferenceSkip())],
                         ids=["anchor", "anchor in the chunk, hidden"])
def test_techniques_and_easycache_leave_the_speech_as_it_is(model, wan, speech, techniques):
    expected = whole(model, speech, 3 * CHUNK)
    eased = EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]
    plain, audio_in = sample(model, wan, speech, CHUNK, CHUNK, techniques, steps=8)
    skipped, audio_eased = sample(eased, wan, speech, CHUNK, CHUNK, techniques, steps=8)
    assert 0 < len(audio_eased) < len(audio_in) == 8 and not torch.equal(plain, skipped)
    for everyone, each in audio_in + audio_eased:
        assert_same((everyone[-1:], each[-1:]), expected, slice(CHUNK, 2 * CHUNK))


@pytest.mark.parametrize("first", [0, 5], ids=["take", "chunk of a take"])
@pytest.mark.parametrize("schedule", ["standard_static", "looped_uniform"])
def test_context_windows_get_the_audio_features_of_the_whole_take(model, wan, speech, first, schedule):
    latents = 15
    expected = whole(model, speech, first + latents)
    windowed = WanContextWindowsManualNode.execute(model, 21, 8, schedule, 1, False, "pyramid", False).args[0]
    shown = []

    def look(executor, *args, **kwargs):
        window = args[5]["context_window"]
        anchor = getattr(window, "causal_anchor_index", None)
        shown.append(([anchor] if anchor is not None and anchor >= 0 else []) + list(window.index_list))
        return executor(*args, **kwargs)

    windowed.add_wrapper_with_key("diffusion_model", "z_look", look)
    _, audio_in = sample(windowed, wan, speech, first, latents, cfg=1.0)
    assert len(audio_in) == len(shown) > 1
    for tokens, frames in zip(audio_in, shown, strict=True):
        assert_same(tokens, expected, [first + frame for frame in frames])


def test_a_clip_of_one_chunk_gets_the_tokens_of_a_take_s_start(model, wan, speech, tiny_models):
    expected = whole(model, speech, CHUNK)
    text = [[wan.random(1, 7, 4096, seed=3), {}]]
    weights = comfy.utils.load_torch_file(str(tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"))
    features = {"encoded_audio_all_layers": speech.streams[0], "rate_hz": 50.0}
    positive, _, latent, _ = LodestarOneChunk.execute(model, text, text, comfy.sd.VAE(sd=weights), 64, 64, 17,
                                                            features).args
    with listening(model) as audio_in, torch.inference_mode():
        comfy.sample.sample(model, wan.noise(model, CHUNK), 1, 1.0, "euler", "simple", positive, positive,
                            latent["samples"], disable_pbar=True)
    assert_same(audio_in[0], expected, slice(0, CHUNK))


def test_a_patched_model_s_tokens_are_core_s_at_the_start_of_a_take(model, wan):
    """Bit for bit, with another node's replacement of a block with audio, in either order of its wrappers."""
    x, calls = wan.noise(model), []

    def theirs(values, originals):
        calls.append(1)
        return originals["original_block"](values)

    replaced = model.clone()
    replaced.set_model_patch_replace(theirs, "dit", "double_block", 0)
    patched = attach.install_techniques(replaced, (), ChunkPosition())
    assert torch.equal(wan.apply(patched, x), wan.apply(model, x)) and calls == [1]


def test_speech_that_ends_before_the_chunk_is_refused(model, wan):
    audio = wan.random(1, 25, 1024, 4 * wan.FRAMES - 4)
    with pytest.raises(ValueError, match=f"the chunk has {wan.FRAMES} latents, 0 to 5, the speech features cover 5"):
        wan.apply(attach.install_techniques(model, (), ChunkPosition()), wan.noise(model), audio_embed=audio)


def test_a_call_shows_what_follows_its_history_or_its_window():
    call = types.SimpleNamespace(extra={"audio_embed": torch.zeros(1, 25, 8, 40)}, transformer_options={},
                                 x=torch.zeros(1, 16, 8, 2, 2))
    assert own_latents(call, 2) == list(range(2, 10))
    call = types.SimpleNamespace(**{**vars(call), "x": torch.zeros(1, 16, 3, 2, 2), "transformer_options": {
        "context_window": types.SimpleNamespace(index_list=[4, 5], causal_anchor_index=0, total_frames=8)}})
    assert own_latents(call, 2) == [2, 6, 7]
