"""HuMo's guidance, references and solver, by their definitions."""
import itertools

import pytest
import torch
from lodestar.backbones.humo.guidance import Prediction, large_chain, small_chain
from lodestar.techniques.audio.features import halve_rate
from lodestar.techniques.flow_schedules import humo_schedule
from lodestar.techniques.speech_guidance import shares
from lodestar.techniques.unipc import sample


def guided(chain, made):
    """The prediction of a chain, `made` being those of its parts."""
    weights = shares(*chain.scales)
    assert abs(sum(weights) - 1) < 1e-12
    return sum(weight * made[part] for weight, part in zip(weights, chain.predictions, strict=True))


def every_prediction():
    """A number for each, and what gives it by (prompt, speech, reference)."""
    made = {Prediction(*map(bool, bits)): torch.randn(()) for bits in itertools.product((0, 1), repeat=3)}
    return made, lambda *bits: made[Prediction(*map(bool, bits))]


def test_the_17b_drops_the_reference_and_two_of_the_text_scale_below_the_switch():
    made, v = every_prediction()
    early, late = (guided(large_chain(5, 5.5, timestep), made) for timestep in (981, 980))
    assert torch.isclose(early, 5.5 * (v(1, 1, 1) - v(1, 0, 1)) + 5 * (v(1, 0, 1) - v(0, 0, 1)) + v(0, 0, 1))
    assert torch.isclose(late, 5.5 * (v(1, 1, 1) - v(1, 0, 1)) + 3 * (v(1, 0, 1) - v(0, 0, 0)) + v(0, 0, 0))


def test_the_17b_without_a_reference_never_switches():
    assert large_chain(5, 5.5, 999, False) == large_chain(5, 5.5, 1, False) != large_chain(5, 5.5, 1)


@pytest.mark.parametrize(("scale", "late"), [(5, 3), (3, 1), (2, 1), (1, 1), (0.5, 0.5)])
def test_a_low_text_scale_is_not_lowered_below_no_guidance(scale, late):
    assert large_chain(scale, 1, 500).scales == (1, late)


def test_the_1_7b_weighs_four_predictions():
    made, v = every_prediction()
    whole = guided(small_chain(7.5, 7, 4), made)
    assert torch.isclose(whole, 4 * (v(1, 1, 1) - v(1, 1, 0)) + 7 * (v(1, 1, 0) - v(1, 0, 0))
                         + 7.5 * (v(1, 0, 0) - v(0, 0, 0)) + v(0, 0, 0))


@pytest.mark.parametrize(("chain", "left"), [((5, 5.5, 999), (3, 2, 3)), ((5, 5.5, 1), (3, 2, 3)), (None, (4, 3, 3))])
def test_what_is_not_there_takes_a_prediction_and_its_scale_away(chain, left):
    """Of a chain with speech and reference, without speech, without a reference."""
    whole = small_chain(7.5, 7, 4) if chain is None else large_chain(*chain, chain[-1] > 980)
    made, _ = every_prediction()
    for (speech, reference), count in zip(((True, True), (False, True), (True, False)), left, strict=True):
        found = whole.among(speech, reference)
        assert len(found.predictions) == len(found.scales) + 1 == count
        assert found.predictions[0] == (True, speech, reference)
        alike = {part: made[part._replace(speech=part.speech and speech, reference=part.reference and reference)]
                 for part in made}
        assert torch.isclose(guided(found, alike), guided(whole, alike), atol=1e-5)


def test_the_solver_is_exact_for_a_constant_prediction_and_ends_at_it():
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    states = []
    last = sample(lambda state, sigma: clean, noise, humo_schedule(7), lambda _, state, __: states.append(state))
    assert torch.equal(last, clean)
    sigma0 = humo_schedule(7)[0]
    for state, sigma in zip(states[1:], humo_schedule(7)[1:], strict=False):      # x = s / s0 * x0 + (1 - s / s0 ...)
        wanted = sigma / sigma0 * noise + (1 - sigma - sigma / sigma0 * (1 - sigma0)) * clean
        assert torch.allclose(state, wanted, atol=1e-5)


def test_the_solver_s_second_order_beats_its_first():
    def denoise(state, sigma):      # the exact clean latents of a Gaussian of deviation 1/2 around 0
        return state * (1 - sigma) / 4 / ((1 - sigma) ** 2 / 4 + sigma ** 2)

    noise = torch.ones(1, dtype=torch.float64)

    def ends(steps):
        return sample(denoise, noise, humo_schedule(steps).double())

    fine = ends(400)
    assert (ends(40) - fine).abs() < (ends(20) - fine).abs() / 2.5


def test_the_sigmas_are_whole_timesteps_of_a_thousand():
    sigmas = humo_schedule(50)
    assert (sigmas[:-1] * 1000).long()[:5].tolist() == [999, 995, 991, 987, 982] and sigmas[-1] == 0


def test_a_lost_step_stretches_the_whole_speech():
    rows = torch.arange(58.0)[:, None]
    found = torch.cat(list(halve_rate(rows.split(13), 28, 58)))
    assert found[0] == 0 and found[-1] == 57 and torch.allclose(found[:, 0], torch.linspace(0, 57, 28), atol=1e-4)
