"""LongCat's audio features, wherever in the take a chunk begins, and after the end of the speech."""
from contextlib import contextmanager
from fractions import Fraction

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.audio.speech import Speech
from lodestar.backbones.backbone import ChunkRequest
from lodestar.pipelines.take.plan import plan_take
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.technique import ChunkPosition
from lodestar.techniques.timeline import Timeline

RELATIVE = 1e-5     # of float32 matrix products over another number of rows


@pytest.fixture(scope="module", params=["AVATAR", "AVATAR15"])
def model(request, tiny_models, longcat):
    return longcat.load(tiny_models, getattr(longcat, request.param))


@pytest.fixture
def backbone(model):
    return backbones.find(model)


@pytest.fixture
def speech(backbone, longcat):
    layers, width = backbone.audio_shape
    return Speech((tuple(longcat.random(1, 200, width, seed=20 + layer) for layer in range(layers)),),
                  32.0 if backbone.fps == 16 else 25.0)


def whole(model, backbone, speech, latents):
    """The audio tokens of a take of `latents`, projected at once: (latents, tokens, C)."""
    windows = backbone.audio_for(speech, Timeline(Fraction(backbone.fps)), 0, latents)
    with torch.inference_mode():
        return model.model.diffusion_model.audio_proj(windows.flatten(0, 1).flatten(3))[0]


@contextmanager
def listening(model):
    """The audio tokens (B, noisy latents, tokens, C) of each call of the network."""
    audio_in = []
    handle = model.model.diffusion_model.blocks[0].register_forward_pre_hook(
        lambda module, args: audio_in.append(args[2].audio))
    try:
        yield audio_in
    finally:
        handle.remove()


def sample(model, backbone, longcat, speech, first, latents, context, techniques=()):
    """One chunk as Long Take samples it, in one step, and its audio features."""
    audio = backbone.audio_for(speech, Timeline(Fraction(backbone.fps)), first, latents)
    handed = longcat.random(1, 16, context, *longcat.SIZE, seed=4) if context else None
    inputs = backbone.chunk_inputs(ChunkRequest(latents, (16, *longcat.SIZE), handed,
                                                longcat.random(1, 16, 1, *longcat.SIZE, seed=6) if context else None,
                                                audio))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds([[longcat.text(), {}]], [[longcat.text(), {}]])
    guider.set_cfg(1.0)
    guider = attach.guider_at(guider, techniques, ChunkPosition(first_latent=first), inputs.conditions, inputs.uncond)
    with listening(model) as audio_in, torch.inference_mode():
        guider.sample(longcat.noise(latents), inputs.samples, comfy.samplers.sampler_object("euler"),
                      torch.tensor([1.0, 0.0]), denoise_mask=inputs.noise_mask, disable_pbar=True, seed=1)
    return [tokens for tokens in audio_in if tokens is not None]


@pytest.mark.parametrize(("overlap", "techniques"), [(0, ()), (5, ()), (5, (ConditioningCache(),))],
                         ids=["no context", "context", "KV cache"])
def test_every_chunk_gets_the_audio_features_of_the_whole_take(model, backbone, longcat, speech, overlap, techniques):
    plan = plan_take(Timeline(Fraction(backbone.fps)), 49, 21, overlap, 64, 64)
    expected = whole(model, backbone, speech, plan.total_latents)
    assert len(plan.chunks) > 2
    for chunk in plan.chunks:
        tokens, = sample(model, backbone, longcat, speech, chunk.first_latent, chunk.latents, chunk.context_latents,
                         techniques)
        wanted = expected[chunk.first_new_latent:chunk.end_latent]
        assert tokens[0].shape == wanted.shape
        assert (tokens[0] - wanted).abs().max() <= RELATIVE * wanted.abs().max()


@pytest.mark.parametrize("first", [0, 4], ids=["take", "chunk of a take"])
def test_context_windows_get_the_audio_features_of_the_whole_take(model, backbone, longcat, speech, first):
    latents, shown = 10, []
    expected = whole(model, backbone, speech, first + latents)
    windowed = WanContextWindowsManualNode.execute(model, 17, 4, "standard_static", 1, False, "flat", False).args[0]

    def look(executor, *args, **kwargs):
        window = args[3]["context_window"]
        anchor = getattr(window, "causal_anchor_index", None)
        shown.append(([anchor] if anchor is not None and anchor >= 0 else []) + list(window.index_list))
        return executor(*args, **kwargs)

    windowed.add_wrapper_with_key("diffusion_model", "z_look", look)
    audio_in = sample(windowed, backbone, longcat, speech, first, latents, 0)
    assert len(audio_in) == len(shown) > 1
    for tokens, frames in zip(audio_in, shown, strict=True):
        wanted = expected[[first + frame for frame in frames]]
        assert (tokens[0] - wanted).abs().max() <= RELATIVE * wanted.abs().max()
