"""High/Low Noise Guider against core's own way with a pair: two samplers one after the other."""
import types
from dataclasses import replace
from functools import cache
from itertools import groupby

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise
from lodestar.backbones import attach
from lodestar.backbones.high_low_guider import HighLowGuider
from lodestar.host.chunk_sampler import Sampling
from lodestar.host.session import TakeSession
from lodestar.host.take_inputs import TakeInputs
from lodestar.nodes.high_low_guider import LodestarHighLowGuider
from lodestar.nodes.one_chunk import LodestarOneChunk
from lodestar.nodes.plan_take import LodestarPlanTake
from lodestar.pipelines.take.video_writer import VideoWriter
from lodestar.techniques.lookahead_anchor import LookaheadAnchor
from lodestar.techniques.reference_skip import ReferenceSkip
from take_values import lora

SIGMAS = torch.tensor([1.0, 0.95, 0.9, 0.7, 0.4, 0.0])


@pytest.fixture(autouse=True, scope="module")
def forget_models():
    yield
    pair.cache_clear()


@cache
def pair(tiny_models, wan, name="wan21_t2v"):
    """Two models of one architecture and of other weights."""
    high, low = wan.load(tiny_models, name), wan.load(tiny_models, name)
    with torch.no_grad():
        for index, weight in enumerate(low.model.diffusion_model.parameters()):
            weight += 0.05 * weight.std().nan_to_num() * wan.random(*weight.shape, seed=100 + index)
    return high, low


def prompt(wan, seed):
    return [[wan.random(1, 7, 4096, seed=seed), {}]]


def core(model, wan, cfg=1.0):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(prompt(wan, 10), prompt(wan, 11))
    guider.set_cfg(cfg)
    return guider


def both(high, low, wan, cfg_high=2.0, cfg_low=3.0, boundary=None):
    return HighLowGuider(high, low, prompt(wan, 10), prompt(wan, 11), cfg_high, cfg_low, boundary)


def sampled(guider, wan, sampler="euler", sigmas=SIGMAS, latent=None, noise=None):
    noise = wan.noise(guider.model_patcher) if noise is None else noise
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise) if latent is None else latent,
                             comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=1)


def watched(model, seen, name):
    """A clone that writes down which model was asked, at which sigma."""
    clone = model.clone()

    def watch(apply_model, args):
        seen.append((name, round(float(args["timestep"].max()), 4)))
        return apply_model(args["input"], args["timestep"], **args["c"])

    clone.set_model_unet_function_wrapper(watch)
    return clone


def steps_of(seen) -> list[tuple[str, float]]:
    """Without repetitions: on a full machine ComfyUI asks for one prediction at a time."""
    return [step for step, _ in groupby(seen)]


@pytest.mark.parametrize(("name", "border"), [("wan21_t2v", 3), ("wan22_i2v", 3)])
def test_it_is_two_samplers_of_core_one_after_the_other(tiny_models, wan, name, border):
    high, low = pair(tiny_models, wan, name)
    assert float(SIGMAS[border]) < both(high, low, wan).boundary <= float(SIGMAS[border - 1]) + 1e-6
    first = sampled(core(high, wan, 2.0), wan, sigmas=SIGMAS[:border + 1])
    noise = torch.zeros_like(first)
    # core's own second stage begins with x = latent / (1 - sigma), which its first stage has left so
    expected = sampled(core(low, wan, 3.0), wan, sigmas=SIGMAS[border:], latent=first, noise=noise)
    made = sampled(both(high, low, wan), wan)
    assert torch.allclose(made, expected, atol=1e-4)
    for other in (both(high, high, wan), both(low, low, wan), both(low, high, wan), both(high, low, wan, cfg_low=2.0)):
        assert not torch.allclose(sampled(other, wan), made, atol=1e-3)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc", "euler_cfg_pp", "dpm_fast", "er_sde"])
def test_a_pair_of_one_model_is_core_s_guider_to_the_bit(tiny_models, wan, sampler):
    """One run of the sampler: what multistep samplers remember passes the boundary, and what they add to CFG does."""
    model = wan.load(tiny_models, "wan21_t2v")
    expected = sampled(core(model, wan, 2.0), wan, sampler)
    assert torch.equal(sampled(both(model, model, wan, 2.0, 2.0), wan, sampler), expected)


def test_two_clones_of_one_model_keep_their_own_loras_and_scales(tiny_models, wan):
    model = wan.load(tiny_models, "wan21_t2v")
    strong, weak = (comfy.sd.load_lora_for_models(model, None, lora(model, seed), 3.0, 0.0)[0] for seed in (3, 4))
    first = sampled(core(strong, wan, 2.0), wan, sigmas=SIGMAS[:4])
    expected = sampled(core(weak, wan, 3.0), wan, sigmas=SIGMAS[3:], latent=first, noise=torch.zeros_like(first))
    assert torch.allclose(sampled(both(strong, weak, wan), wan), expected, atol=1e-4)
    assert not torch.allclose(sampled(both(strong, strong, wan), wan), expected, atol=1e-3)


@pytest.mark.parametrize(("boundary", "asked"), [(None, 3), (0.9, 3), (0.5, 4), (0.96, 1)])
def test_each_step_asks_the_model_of_its_part(tiny_models, wan, boundary, asked):
    seen = []
    high, low = (watched(model, seen, name) for model, name in zip(pair(tiny_models, wan), ("high", "low"),
                                                                   strict=True))
    sampled(both(high, low, wan, boundary=boundary), wan)
    assert steps_of(seen) == [("high" if place < asked else "low", round(float(sigma), 4))
                              for place, sigma in enumerate(SIGMAS[:-1])]
    seen.clear()
    sampled(both(high, low, wan), wan, "heun")     # a step that crosses the boundary asks both
    assert steps_of(seen)[:5] == [("high", 1.0), ("high", 0.95), ("high", 0.9), ("low", 0.7), ("low", 0.4)]


def test_the_second_model_is_loaded_when_its_part_begins(tiny_models, wan, monkeypatch):
    events = []
    high, low = (watched(model, events, name) for model, name in zip(pair(tiny_models, wan), ("high", "low"),
                                                                     strict=True))
    load, names = comfy.model_management.load_models_gpu, {id(high.model): "high", id(low.model): "low"}

    def note(models, *args, **kwargs):
        events.append(("load", [names[id(model.model)] for model in models]))
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    sampled(both(high, low, wan), wan)
    assert [event for event in events if event[0] == "load"] == [("load", ["high"]), ("load", ["low"])]
    assert events.index(("load", ["low"])) == 4    # behind the first loading and three steps


def test_ksampler_advanced_twice_on_one_chunk_s_output_is_the_same(tiny_models, wan):
    high, low = pair(tiny_models, wan, "wan22_i2v")
    file = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(file)), dtype=torch.float32)
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    positive, negative, latent, _ = LodestarOneChunk.execute(high, prompt(wan, 10), prompt(wan, 11), vae, 64, 64, 17,
                                                          reference=picture).args
    high, low = (attach.with_technique(model, LookaheadAnchor(3.0, latents=wan.picture(high))) for model in (high, low))
    noise = comfy.sample.prepare_noise(latent["samples"], 5)
    steps, schedule = 6, comfy.samplers.calculate_sigmas(high.get_model_object("model_sampling"), "simple", 6)
    border = int((schedule >= 0.9).sum())
    guider = HighLowGuider(high, low, positive, negative, 2.0, 3.0)
    made = sampled(guider, wan, sigmas=schedule, latent=latent["samples"], noise=noise)
    common = {"positive": positive, "negative": negative, "disable_pbar": True, "seed": 5, "steps": steps,
              "sampler_name": "euler", "scheduler": "simple"}
    with torch.inference_mode():    # as nodes.KSamplerAdvanced calls it: leftover noise, then none added
        first = comfy.sample.sample(high, noise, cfg=2.0, latent_image=latent["samples"], start_step=0,
                                    last_step=border, force_full_denoise=False, **common)
        expected = comfy.sample.sample(low, torch.zeros_like(noise), cfg=3.0, latent_image=first, disable_noise=True,
                                       start_step=border, last_step=10000, force_full_denoise=True, **common)
    assert 0 < border < steps and torch.allclose(made, expected, atol=1e-4)


@pytest.mark.parametrize("on", [0, 1])
def test_a_node_on_one_of_the_two_acts_on_both(tiny_models, wan, on):
    models = pair(tiny_models, wan)
    plain = sampled(both(*models, wan), wan)

    def anchored(model):
        return attach.with_technique(attach.with_technique(model, LookaheadAnchor(3.0, latents=wan.picture(model))),
                                     ReferenceSkip("hard", 1))

    expected = sampled(both(*map(anchored, models), wan), wan)
    given = [anchored(model) if place == on else model for place, model in enumerate(models)]
    assert torch.equal(sampled(both(*given, wan), wan), expected) and not torch.equal(expected, plain)
    assert not attach.techniques_of(models[0]) and not attach.techniques_of(models[1])


def take(model, guider, vae, wan, tmp_path, **plan):
    folder_paths.set_output_directory(str(tmp_path))
    options = {"width": 64, "height": 64, "chunk_frames": 17, "overlap_frames": 5, "seed_step": 1, "max_seconds": 0.0}
    audio = {"waveform": torch.zeros(1, 1, 16000 * 2), "sample_rate": 16000}
    planned = LodestarPlanTake.execute(model=model, audio=audio, fps=16.0, script="", **{**options, **plan}).args[0]
    picture = torch.rand(1, 80, 70, 3, generator=torch.Generator().manual_seed(4))
    return TakeSession(TakeInputs(guider.model_patcher, vae, planned.plan, picture),
                       Sampling(Noise_RandomNoise(3), guider, comfy.samplers.sampler_object("euler"), SIGMAS), planned,
                       types.SimpleNamespace(unique_id="1", prompt=None, extra_pnginfo=None))


@pytest.mark.parametrize("name", ["wan21_t2v", "wan22_i2v"])
def test_a_long_take_goes_through_both_in_every_chunk(tiny_models, wan, tmp_path, name):
    seen = []
    high, low = (watched(model, seen, side) for model, side in zip(pair(tiny_models, wan, name), ("high", "low"),
                                                                   strict=True))
    guider = both(attach.with_technique(high, LookaheadAnchor()), low, wan)
    file = tiny_models / "models" / "vae" / "lodestar_tiny_wan_vae.safetensors"
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(file)), dtype=torch.float32)
    session = take(high, guider, vae, wan, tmp_path)
    assert len(session.take.plan.chunks) == 3
    with torch.inference_mode():
        finished = session.make("pair/take", False)
        assert [name for name, _ in steps_of(seen)] == (["high"] * 3 + ["low"] * 2) * 3
        swapped = replace(session, sampling=replace(session.sampling, guider=both(low, high, wan)),
                          inputs=replace(session.inputs, model=both(low, high, wan).model_patcher))
        assert not torch.allclose(swapped.make("pair/swapped", False).tail, finished.tail, atol=1e-3)


def test_every_model_of_a_guider_stands_at_the_chunk_s_place(tiny_models, wan):
    high, low = pair(tiny_models, wan)
    position = attach.ChunkPosition(chunk=2, first_latent=9)
    chunk = attach.guider_at(both(high, low, wan), (LookaheadAnchor(),), position, {}, {})
    for model in (chunk.model_patcher, chunk.low_noise_model):
        assert attach.patch_of(model).position is position
    assert [kind.__name__ for kind in map(type, attach.techniques_of(chunk.low_noise_model))] == ["LookaheadAnchor"]


def test_its_parts_are_in_a_take_s_fingerprint(tiny_models, wan, tmp_path):
    high, low = pair(tiny_models, wan)
    other = comfy.sd.load_lora_for_models(low, None, lora(low), 1.0, 0.0)[0]
    guiders = [both(high, low, wan), both(high, other, wan), both(high, low, wan, cfg_low=2.5),
               both(high, low, wan, boundary=0.5), both(high, high, wan)]
    found = set()
    for guider in [*guiders, both(high, low, wan)]:
        prints, unreadable = take(high, guider, None, wan, tmp_path).fingerprints(VideoWriter(64, 64, 16))
        assert unreadable == []
        found.add(tuple(sorted(prints[0].items())))
    assert len(found) == len(guiders)


def test_models_that_are_no_pair_are_refused(tiny_models, wan):
    t2v, i2v, newer, ti2v, s2v = (wan.load(tiny_models, name) for name in ("wan21_t2v", "wan21_i2v", "wan22_i2v",
                                                                          "wan22_ti2v", "wan22_s2v"))
    text = prompt(wan, 10)
    for models, words in (((t2v, i2v), "got Wan text-to-video .16 channels in.* and Wan image-to-video .36 channels"),
                          ((i2v, newer), "CLIP vision. and Wan image-to-video .36 channels in.* which are no pair"),
                          ((t2v, ti2v), "low_noise: Wan 2.2 TI2V-5B is one model"),
                          ((s2v, t2v), "high_noise: Wan 2.2 S2V is one model")):
        with pytest.raises(ValueError, match=words):
            LodestarHighLowGuider.execute(*models, text, text, 1.0, 1.0, 0.0)
    for twice in ((t2v, t2v.clone()), (t2v, wan.load(tiny_models, "wan21_t2v"))):
        with pytest.raises(ValueError, match="high_noise, low_noise: got one model twice. Load the pair's two files"):
            LodestarHighLowGuider.execute(*twice, text, text, 1.0, 1.0, 0.0)
    high, low = pair(tiny_models, wan)
    far = attach.with_technique(high, LookaheadAnchor(3.0))
    with pytest.raises(ValueError, match="carry different techniques .LookaheadAnchor and LookaheadAnchor"):
        LodestarHighLowGuider.execute(far, attach.with_technique(low, LookaheadAnchor(5.0)), text, text, 1.0, 1.0, 0.0)
    LodestarHighLowGuider.execute(far, attach.with_technique(low, LookaheadAnchor(3.0)), text, text, 1.0, 1.0, 0.0)


def test_a_schedule_that_never_reaches_one_of_them_is_refused(tiny_models, wan, tmp_path):
    high, low = pair(tiny_models, wan)
    sampled(both(high, low, wan, boundary=1.0), wan)    # 1 is the first sigma: the high-noise model makes that step
    guider = both(high, low, wan, boundary=0.3)
    for run in (lambda: sampled(guider, wan), lambda: take(high, guider, None, wan, tmp_path).check()):
        with pytest.raises(ValueError, match="all 5 steps of the schedule, from 1 to 0.4, are at or above the boundary "
                                             "of 0.3: the low-noise model"):
            run()
    with pytest.raises(ValueError, match="all 2 steps .*below the boundary of 0.875: the high-noise model"):
        sampled(both(high, low, wan), wan, sigmas=SIGMAS[3:])
    with pytest.raises(ValueError, match="^the schedule's one step, at 1, is at or above the boundary of 0.875"):
        sampled(both(high, low, wan), wan, sigmas=torch.tensor([1.0, 0.0]))


def test_a_run_that_fails_leaves_both_as_they_were(tiny_models, wan):
    high, low = pair(tiny_models, wan)

    def fail(*_):
        raise RuntimeError("broken")

    broken = low.clone()
    broken.set_model_unet_function_wrapper(fail)
    expected = sampled(both(high, low, wan), wan)
    with pytest.raises(RuntimeError, match="broken"):
        sampled(both(high, broken, wan), wan)
    assert high.model.current_patcher is None and low.model.current_patcher is None
    assert torch.equal(sampled(both(high, low, wan), wan), expected)
