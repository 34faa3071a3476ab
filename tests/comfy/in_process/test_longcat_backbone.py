"""Techniques on LongCat in ComfyUI against the headless network called by hand, and the KV cache."""
from fractions import Fraction

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_context_windows import WanContextWindowsManualNode
from draws import random
from lodestar import backbones
from lodestar.backbones import attach
from lodestar.backbones.longcat.loader import load_longcat
from lodestar.backbones.longcat.model import REFERENCE_INDEX, LongCatNetwork
from lodestar.backbones.sampling_run import RUN
from lodestar.networks.longcat.network import LongCat
from lodestar.techniques.conditioning_cache import ConditioningCache
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.narrative_keyframes import NarrativeKeyframes
from lodestar.techniques.reference_skip import ReferenceSkip
from lodestar.techniques.technique import ChunkPosition

SIZE, FRAMES, KNOWN, TOKENS = (8, 8), 9, 2, 16
SIGMAS = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0])


@pytest.fixture(scope="module")
def load(tiny_models):
    def load(name="avatar15"):
        folder = tiny_models / "models" / "diffusion_models"
        model = load_longcat(str(folder / f"lodestar_tiny_longcat_{name}.safetensors"))
        comfy.model_management.load_models_gpu([model])
        return model
    return load


@pytest.fixture(scope="module")
def model(load):
    return load()


def conditions(batch=1, frames=FRAMES):
    return {"c_crossattn": random(batch, 512, 4096, seed=3), "num_cond_frames": KNOWN,
            "audio": random(batch, 1, 4 * frames - 3, 5, 5, 64, seed=5),
            "reference": random(batch, 16, 1, *SIZE, seed=6)}


def apply(model, x, options=None, **conds):
    """The velocity, from the denoised prediction that a sampler gets."""
    transformer_options = {**model.model_options["transformer_options"], "wrappers": model.wrappers,
                           "cond_or_uncond": [0], "uuids": ["a"], **(options or {})}
    sigma = torch.full((len(x),), 0.7)
    with torch.inference_mode():
        denoised = model.model.apply_model(x, sigma, transformer_options=transformer_options,
                                           **{**conditions(len(x), x.shape[2]), **conds})
    return (x - denoised) / 0.7


def by_hand(model, x, front, known, times, visibility=None):
    """The headless network on [front, known | noise] -> the velocity of the noise alone."""
    conds, network = conditions(len(x), x.shape[2]), model.model.diffusion_model
    whole = torch.cat([*front, x], 2)
    clean = (1,) * len(front) + ((known,) if known else ())
    timestep = torch.full((len(x), whole.shape[2]), 700.0)
    timestep[:, :sum(clean)] = 0
    text = conds["c_crossattn"]
    with torch.inference_mode():
        prediction = LongCat.forward(network, whole, timestep, text, (text != 0).any(-1), clean=clean, times=times,
                                     visibility=visibility, audio=conds["audio"])
    return -prediction[:, :, sum(clean):]


def x_of(batch=1, frames=FRAMES):
    return random(batch, 16, frames, *SIZE, seed=1)


def test_an_empty_technique_list_is_bit_identical(model):
    assert torch.equal(apply(attach.install_techniques(model, (), ChunkPosition()), x_of()), apply(model, x_of()))


def test_unpatched_is_what_upstream_lays_out(model):
    expected = by_hand(model, x_of(), [conditions()["reference"]], KNOWN, [10, *range(FRAMES)])
    found = apply(model, x_of())
    assert torch.allclose(found[:, :, KNOWN:], expected, atol=2e-6) and not found[:, :, :KNOWN].any()


@pytest.mark.parametrize("technique, time", [
    (LookaheadAnchor(3), FRAMES + 2), (LookaheadAnchor(30), FRAMES + 29), (LookaheadAnchor(10, "past"), -10),
    (LookaheadAnchor(1, "in chunk", 4.5), 4.5)])
def test_the_anchor_node_moves_the_reference(model, technique, time):
    moved = apply(attach.with_technique(model, technique), x_of())
    expected = by_hand(model, x_of(), [conditions()["reference"]], KNOWN, [time, *range(FRAMES)])
    assert torch.allclose(moved[:, :, KNOWN:], expected, atol=2e-6)
    assert not torch.allclose(moved, apply(model, x_of()), atol=1e-3)


def test_several_references_see_nothing_but_themselves(model):
    latents = random(1, 16, 1, *SIZE, seed=9)
    two = attach.with_technique(model, LookaheadAnchor(5, latents=latents))
    front = [conditions()["reference"], model.model.process_latent_in(latents)]
    expected = by_hand(model, x_of(), front, KNOWN, [REFERENCE_INDEX, FRAMES + 4, *range(FRAMES)])
    assert torch.allclose(apply(two, x_of())[:, :, KNOWN:], expected, atol=2e-6)


STORY = NarrativeKeyframes().plus(Fraction(1), random(1, 16, 1, *SIZE, seed=11)).plus(
    Fraction(2), random(1, 16, 1, *SIZE, seed=12))


@pytest.mark.parametrize("start, seed", [("0", 11), ("0.99", 11), ("1", 12), ("1.99", 12), ("2", None), ("60", None)])
@pytest.mark.parametrize("frames, others, times", [
    (9, (), [REFERENCE_INDEX]),             # the model's own place is ahead of a chunk so short
    (13, (), [REFERENCE_INDEX, 12 + 3]),    # the picture keeps its place inside the chunk
    (13, (LookaheadAnchor(5),), [12 + 5])])
def test_each_chunk_pursues_its_keyframe_and_in_the_end_the_picture(model, frames, others, times, start, seed):
    story = attach.install_techniques(model, (STORY, *others), ChunkPosition(start_seconds=Fraction(start)))
    front = [conditions()["reference"]] * len(times)
    if seed is None:
        front = front[:1]
    else:
        front[-1] = model.model.process_latent_in(random(1, 16, 1, *SIZE, seed=seed))
    x = x_of(frames=frames)
    expected = by_hand(model, x, front, KNOWN, [*times[:len(front)], *range(frames)])
    assert torch.allclose(apply(story, x)[:, :, KNOWN:], expected, atol=2e-6)


def test_a_keyframe_needs_no_reference(model):
    front = [model.model.process_latent_in(random(1, 16, 1, *SIZE, seed=11))]
    expected = by_hand(model, x_of(), front, KNOWN, [FRAMES + 2, *range(FRAMES)])
    story = attach.with_technique(model, STORY)
    assert torch.allclose(apply(story, x_of(), reference=None)[:, :, KNOWN:], expected, atol=2e-6)


@pytest.mark.parametrize("mode, radius, index, hidden", [
    ("upstream", 1, 5, range(4, 7)), ("upstream", 3, 5, range(2, 9)), ("upstream", 3, 4, ()), ("upstream", 1, 8, ()),
    ("hard", 1, 8, range(7, 9)), ("hard", 3, 3, range(2, 7)), ("hard", 1, 30, ())])
def test_skip_hides_the_reference_from_its_band(model, mode, radius, index, hidden):
    """Band in the chunk's times: conditioning frames are 0..KNOWN-1; in the network's order the reference is first."""
    inside = index < FRAMES
    anchor = LookaheadAnchor(1, "in chunk", index) if inside else LookaheadAnchor(index - FRAMES + 1)
    skipping = attach.with_technique(attach.with_technique(model, anchor), ReferenceSkip(mode, radius))
    visibility = {(1 + time, 0): 0.0 for time in hidden}
    expected = by_hand(model, x_of(), [conditions()["reference"]], KNOWN, [index, *range(FRAMES)], visibility)
    assert torch.allclose(apply(skipping, x_of())[:, :, KNOWN:], expected, atol=2e-6)


def test_soft_skip_equals_shares_of_the_headless_network(model):
    skipping = attach.with_technique(attach.with_technique(model, LookaheadAnchor(1, "in chunk", 5)),
                                     ReferenceSkip("soft", 1, 0.3))
    expected = by_hand(model, x_of(), [conditions()["reference"]], KNOWN, [5, *range(FRAMES)],
                       {(6, 0): 0.0, (5, 0): 0.3, (7, 0): 0.3})
    assert torch.allclose(apply(skipping, x_of())[:, :, KNOWN:], expected, atol=2e-6)


def test_an_anchor_of_another_size_is_refused(model):
    anchored = attach.with_technique(model, LookaheadAnchor(5, latents=torch.zeros(1, 16, 1, 4, 4)))
    with pytest.raises(ValueError, match="anchor: got latents of 4x4, the take's are 8x8"):
        apply(anchored, x_of())


# ---------------------------------------------------------------- KV cache

def guider(model, cfg=1.0, **extra):
    """CFG Guider's manner: positive and negative with speech and a reference."""
    speech = {"audio_windows": random(1, 1, 4 * FRAMES - 3, 5, 5, 64, seed=5),
              "reference_latents": [random(1, 16, 1, *SIZE, seed=6)], **extra}
    made = comfy.samplers.CFGGuider(model)
    made.set_conds([[random(1, 20, 4096, seed=3), dict(speech)]], [[random(1, 20, 4096, seed=4), dict(speech)]])
    made.set_cfg(cfg)
    return made


def sample(model, cfg=1.0, batch=1, seed=1, **extra):
    latent = random(batch, 16, FRAMES, *SIZE, seed=8)
    mask = torch.ones(1, 1, FRAMES, *SIZE)
    mask[:, :, :KNOWN] = 0
    noise = random(batch, 16, FRAMES, *SIZE, seed=seed)
    with torch.inference_mode():
        return guider(model, cfg, **extra).sample(noise, latent, comfy.samplers.sampler_object("euler"), SIGMAS,
                                                  denoise_mask=mask, disable_pbar=True, seed=1)


@pytest.fixture
def built(monkeypatch):
    """How many frames each cache was built of."""
    found, cached = [], LongCatNetwork.make_caches

    def counted(self, x, *args, **kwargs):
        found.append(x.shape[2])
        return cached(self, x, *args, **kwargs)
    monkeypatch.setattr(LongCatNetwork, "make_caches", counted)
    return found


@pytest.mark.parametrize("place", ["VRAM", "RAM"])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_one_cache_serves_all_steps_and_branches(model, built, place, cfg):
    plain = sample(model, cfg)
    assert not built
    kept = sample(attach.with_technique(model, ConditioningCache(place)), cfg)
    assert built == [1 + KNOWN]
    assert torch.allclose(kept, plain, atol=1e-5), (kept - plain).abs().max()
    assert torch.equal(kept[:, :, :KNOWN], plain[:, :, :KNOWN])


@pytest.mark.parametrize(("place", "seed", "frames"), [("VRAM", 6, 1), ("RAM", 6, 1), ("VRAM", 9, 2)])
def test_a_picture_at_two_times_has_one_cache(model, built, place, seed, frames):
    """The reference's copy ahead of the chunk; another picture there has its own."""
    twice = attach.with_technique(model, LookaheadAnchor(5, latents=random(1, 16, 1, *SIZE, seed=seed)))
    plain = sample(twice)
    kept = sample(attach.with_technique(twice, ConditioningCache(place)))
    assert built == [frames + KNOWN]
    assert torch.allclose(kept, plain, atol=1e-5) and not torch.allclose(kept, sample(model), atol=1e-3)


def test_another_pack_s_attention_makes_the_cache_too(model):
    lengths, caching = [], attach.with_technique(model, ConditioningCache())

    def override(function, q, k, v, *args, **kwargs):
        lengths.append(k.shape[1])
        return function(q, k, v, *args, **kwargs)
    caching.model_options["transformer_options"]["optimized_attention_override"] = override
    sample(caching)
    alone = [length for length in lengths if length in (TOKENS, KNOWN * TOKENS)]
    assert len(alone) == 2 * (len(model.model.diffusion_model.blocks) - 1), "the last block's output is nobody's"


@pytest.mark.parametrize("place, said", [(LookaheadAnchor(3), 1), (LookaheadAnchor(1, "in chunk", 5), 0)])
def test_a_skip_without_effect_says_so_once_per_run(model, caplog, place, said):
    placed = attach.with_technique(attach.with_technique(model, place), ConditioningCache())
    sample(attach.with_technique(placed, ReferenceSkip()), 3.0)
    lines = [record.message for record in caplog.records if "reference skip is inactive" in record.message]
    assert len(lines) == said and all("stands at 11, and no frame" in line for line in lines)


def test_a_second_run_builds_its_own(model, built):
    caching = attach.with_technique(model, ConditioningCache())
    sample(caching)
    sample(caching, reference_latents=[random(1, 16, 1, *SIZE, seed=99)])
    assert len(built) == 2
    assert RUN not in caching.model_options["transformer_options"]


def test_branches_with_references_of_their_own_share_nothing(model, built):
    caching, negative = attach.with_technique(model, ConditioningCache()), random(1, 16, 1, *SIZE, seed=98)
    results = []
    for kind in (model, caching):
        made = guider(kind, 3.0)
        made.original_conds["negative"][0]["reference_latents"] = [negative]
        latent = random(1, 16, FRAMES, *SIZE, seed=8)
        with torch.inference_mode():
            results.append(made.sample(random(1, 16, FRAMES, *SIZE), latent, comfy.samplers.sampler_object("euler"),
                                       SIGMAS, disable_pbar=True, seed=1))
    assert torch.allclose(*results, atol=1e-5)


def test_a_reference_that_changes_during_a_run_is_cached_again(model, built):
    results, noise = [], random(1, 16, FRAMES, *SIZE)
    for kind in (model, attach.with_technique(model, ConditioningCache())):
        made = guider(kind)
        first = made.original_conds["positive"][0]
        then = {"start_percent": 0.5, "reference_latents": [random(1, 16, 1, *SIZE, seed=98)]}
        made.original_conds["positive"] = [{**first, "end_percent": 0.5}, {**first, **then}]
        with torch.inference_mode():
            results.append(made.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), SIGMAS,
                                       disable_pbar=True, seed=1))
    assert built == [1, 1] and torch.allclose(*results, atol=1e-5)


@pytest.mark.parametrize("technique", [LookaheadAnchor(5, latents=random(1, 16, 1, *SIZE, seed=9)),
                                       ReferenceSkip("hard", 3), ReferenceSkip("soft", 2, 0.4), STORY])
def test_the_cache_composes_with_the_other_techniques(model, technique):
    placed = attach.with_technique(attach.with_technique(model, LookaheadAnchor(1, "in chunk", 5)), technique)
    caching = attach.with_technique(placed, ConditioningCache())
    assert torch.allclose(sample(caching, 2.0), sample(placed, 2.0), atol=1e-5)


def test_a_batch_of_two_takes_equals_two_single_takes(model):
    caching = attach.with_technique(model, ConditioningCache())
    both = sample(caching, 3.0, batch=2)
    for kind in (model, caching):
        assert torch.allclose(sample(kind, 3.0, batch=2), both, atol=1e-5)
    latent, noise = random(2, 16, FRAMES, *SIZE, seed=8), random(2, 16, FRAMES, *SIZE, seed=1)
    mask = torch.ones(1, 1, FRAMES, *SIZE)
    mask[:, :, :KNOWN] = 0
    for index in range(2):
        with torch.inference_mode():
            one = guider(caching, 3.0).sample(noise[index:index + 1], latent[index:index + 1],
                                              comfy.samplers.sampler_object("euler"), SIGMAS, denoise_mask=mask,
                                              disable_pbar=True, seed=1)
        assert torch.allclose(one, both[index:index + 1], atol=1e-5)


def asked_by(kind, monkeypatch):
    """(the most, the least) VRAM that ComfyUI asks for a sampling run."""
    asked, load = [], comfy.model_management.load_models_gpu

    def counted(models, memory_required=0, minimum_memory_required=None, **kwargs):
        asked.append((memory_required, minimum_memory_required))
        return load(models, memory_required=memory_required, minimum_memory_required=minimum_memory_required, **kwargs)
    with monkeypatch.context() as patched:
        patched.setattr(comfy.model_management, "load_models_gpu", counted)
        sample(kind)
    return asked[0]


def test_clean_frames_are_declared_to_comfyui(model, monkeypatch):
    anchored = attach.with_technique(model, LookaheadAnchor(5, latents=random(1, 16, 1, *SIZE)))
    plain, with_anchor, in_ram = (asked_by(kind, monkeypatch) for kind in (
        model, anchored, attach.with_technique(model, ConditioningCache("RAM"))))
    one = model.model.memory_required([1, 16, 1, *SIZE])
    assert in_ram == plain and with_anchor == pytest.approx([plain[0] + 2 * one, plain[1] + one])


@pytest.mark.parametrize("kind", ["default", "fp8_e4m3fn", "int8"])
def test_a_kv_cache_gets_the_room_that_it_takes(tiny_models, longcat, monkeypatch, kind):
    """Once, however many guidance branches ComfyUI makes room for; five frames' worth from the first chunk on."""
    name = longcat.INT8 if kind == "int8" else longcat.AVATAR15
    model = longcat.load(tiny_models, name, "default" if kind == "int8" else kind)
    caching, caches, make = attach.with_technique(model, ConditioningCache()), [], LongCatNetwork.make_caches
    monkeypatch.setattr(LongCatNetwork, "make_caches", lambda *args, **how: caches.extend(make(*args, **how)) or caches)
    more = [with_it - without for with_it, without in zip(asked_by(caching, monkeypatch), asked_by(model, monkeypatch),
                                                          strict=True)]
    assert more == pytest.approx([5 * caches[0].bytes] * 2) and caches[0].frames == 1


# ---------------------------------------------------------------- context windows

def windowed(model, overlap=0):
    """Context windows of 5 latents."""
    return WanContextWindowsManualNode.execute(model, 17, overlap, "standard_static", 1, False, "flat", False).args[0]


def test_every_context_window_gets_its_own_speech(model, monkeypatch):
    audio_in, forward = [], LongCatNetwork._forward

    def spy(self, *args, **conds):
        audio_in.append((conds["audio"], conds.get("num_cond_frames")))
        return forward(self, *args, **conds)
    monkeypatch.setattr(LongCatNetwork, "_forward", spy)
    made = guider(windowed(attach.install_techniques(model, (), ChunkPosition())))
    speech = random(1, 1, 4 * 10 - 3, 5, 5, 64, seed=5)
    made.original_conds["positive"][0]["audio_windows"] = speech
    mask = torch.ones(1, 1, 10, *SIZE)
    mask[:, :, :KNOWN] = 0
    with torch.inference_mode():
        made.sample(random(1, 16, 10, *SIZE), torch.zeros(1, 16, 10, *SIZE), comfy.samplers.sampler_object("euler"),
                    torch.tensor([1.0, 0.0]), denoise_mask=mask, disable_pbar=True, seed=1)
    (first, known), (second, later_known) = audio_in
    assert second.shape[2] in (21, 25), "ComfyUI 0.33 puts the latent before the window in front of it"
    assert torch.equal(first, speech[:, :, :17]) and torch.equal(second, speech[:, :, -second.shape[2]:])
    assert (known, later_known) == (KNOWN, 0)


def test_the_kv_cache_is_that_of_each_window(model):
    latent, results = random(1, 16, FRAMES, *SIZE, seed=8), []
    mask = torch.ones(1, 1, FRAMES, *SIZE)
    mask[:, :, :KNOWN] = 0
    for kind in (attach.install_techniques(model, (), ChunkPosition()),
                 attach.with_technique(model, ConditioningCache())):
        with torch.inference_mode():
            results.append(guider(windowed(kind, 4), 2.0).sample(
                random(1, 16, FRAMES, *SIZE), latent, comfy.samplers.sampler_object("euler"), SIGMAS,
                denoise_mask=mask, disable_pbar=True, seed=1))
    assert torch.allclose(*results, atol=1e-5)


def test_find_names_the_version(load):
    for name, version, shape in (("video", "LongCat-Video", None), ("avatar", "LongCat-Avatar 1.0", (12, 64)),
                                 ("avatar15", "LongCat-Avatar 1.5", (5, 64))):
        backbone = backbones.find(load(name))
        assert (backbone.name, backbone.audio_shape) == (version, shape)


def test_scaled_rope_scales_the_cache_too(model):
    """As core's ScaleROPE asks; conditioning frames see themselves with it."""
    results = []
    for kind in (model, attach.with_technique(model, ConditioningCache())):
        scaled = kind.clone()
        scaled.set_model_rope_options(scale_x=1.5, shift_x=0.0, scale_y=2.0, shift_y=0.0, scale_t=0.7, shift_t=2.0)
        results.append(sample(scaled))
    assert torch.allclose(*results, atol=1e-5), (results[0] - results[1]).abs().max()
    assert not torch.allclose(results[0], sample(model), atol=1e-4)
