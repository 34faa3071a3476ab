"""HuMo's own solver through ComfyUI: its numbers, whole timesteps, any schedule, and who else may use it."""
from contextlib import contextmanager

import comfy.samplers
import pytest
import tiny_talk
import torch
from comfy.ldm.wan.model import sinusoidal_embedding_1d
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from humo_models import SIZE, inputs_of, load, plain_guider, random, sample
from lodestar.backbones import attach
from lodestar.backbones.humo.sampler import make_sampler
from lodestar.nodes.humo_sampler import LodestarHuMoSampler
from lodestar.techniques import unipc
from lodestar.techniques.flow_schedules import humo_schedule


@pytest.fixture(scope="module", params=tiny_talk.HUMO)
def model(request, tiny_models):
    return load(tiny_models, request.param)


@contextmanager
def recording(network):
    """What the timestep embedding is made from in each call: sines and cosines of it."""
    seen = []
    hook = network.time_embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0].float().clone()))
    try:
        yield seen
    finally:
        hook.remove()


def run(model, sigmas, sampler):
    inputs = inputs_of(model)
    return sample(model, inputs, guider=plain_guider(model, inputs, 3.0), sigmas=sigmas.tolist(), sampler=sampler)


@pytest.mark.parametrize("whole", [True, False])
def test_the_model_is_given_whole_timesteps_where_they_are_asked_for(model, whole):
    network, (sampler, sigmas) = model.model.diffusion_model, LodestarHuMoSampler.execute(model, 3, 5.0, whole).args
    with recording(network) as seen:
        run(attach.ready_model(model), sigmas[[0, 1, 3]], sampler)
    asked = sigmas[:2] * 1000
    assert asked.trunc().tolist() == [999, 908] and (asked - asked.trunc() > 0.5).all()
    wanted = sinusoidal_embedding_1d(network.freq_dim, asked.trunc() if whole else asked)
    assert all(torch.allclose(found, row, atol=1e-3) for found, row in zip(seen, wanted, strict=True))


def test_a_run_is_the_solver_s_own_over_core_s_predictions(model):
    """Given the denoised latents that ComfyUI's model makes, state by state."""
    ready, sigmas = attach.ready_model(model), humo_schedule(4)
    inputs, states, cleans = inputs_of(model), [], []
    guider = plain_guider(ready, inputs, 3.0)
    with torch.inference_mode():
        found = guider.sample(random(*inputs.samples.shape, seed=1), inputs.samples, make_sampler(False), sigmas,
                              callback=lambda step, clean, state, steps: (states.append(state), cleans.append(clean)),
                              disable_pbar=True)
    given = iter(cleans)
    wanted = unipc.sample(lambda *_: next(given), states[0], sigmas)
    assert len(states) == 4 and torch.allclose(model.model.process_latent_in(found), wanted, atol=1e-5)


def test_core_s_schedule_from_noise_alone_is_as_good(model):
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    assert sigmas[0] == 1 and run(attach.ready_model(model), sigmas, make_sampler(True)).isfinite().all()


def test_it_is_no_solver_of_core_s(model):
    """The authors' numbers are those of this one alone."""
    ready, sigmas = attach.ready_model(model), humo_schedule(6)
    ours = run(ready, sigmas, make_sampler(False))
    for name in ("uni_pc", "uni_pc_bh2", "euler"):
        other = run(ready, sigmas, comfy.samplers.sampler_object(name))
        assert (ours - other).norm() > 1e-3 * ours.norm()


def test_core_s_node_samples_with_it(model):
    inputs, ready = inputs_of(model), attach.ready_model(model)
    sampler, sigmas = LodestarHuMoSampler.execute(ready, 2, 5.0, True).args
    latent = {"samples": inputs.samples}
    with torch.inference_mode():
        node = SamplerCustomAdvanced.execute(Noise_RandomNoise(3), plain_guider(ready, inputs), sampler, sigmas, latent)
    assert node.args[0]["samples"].shape == (1, 16, 6, *SIZE) and node.args[0]["samples"].isfinite().all()


def test_another_model_is_refused(tiny_models, wan):
    with pytest.raises(ValueError, match="model: got Wan text-to-video, wanted HuMo"):
        LodestarHuMoSampler.execute(wan.load(tiny_models, "wan21_t2v"), 50, 5.0, True)
