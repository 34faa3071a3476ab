"""Restorative flow against the paper's formulas; the authors' own numbers: the golden cases."""
import random

import numpy
import pytest
import torch
from lodestar.techniques import restorative_flow as flow
from lodestar.techniques.spoilt_pictures import Draw, Patch, draw_spoiling, move_picture, spoil

pytestmark = pytest.mark.once
EVERY = flow.levels()


def tensors(*shape):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_nothing_spoilt_is_plain_flow_matching_to_the_bit():
    x0, noise, _ = tensors(2, 3, 5, 2, 2)
    sigmas = torch.tensor([0.7, 0.9], dtype=torch.float64)
    for pair in (flow.make_pair(x0, noise, sigmas), flow.make_pair(x0, noise, sigmas, x0[:, :, 2:], flow.bell(sigmas,
                                                                                                          EVERY))):
        assert torch.equal(pair.target, noise - x0)
        assert torch.equal(pair.x, (1 - sigmas.view(-1, 1, 1, 1, 1)) * x0 + sigmas.view(-1, 1, 1, 1, 1) * noise)


def test_one_step_of_the_exact_form_ends_in_the_clean_clip():
    x0, noise, spoilt = tensors(2, 3, 4, 2, 2)
    sigmas = torch.tensor([0.6, 0.95], dtype=torch.float64)
    pair = flow.make_pair(x0, noise, sigmas, spoilt, flow.exact_weight(sigmas))
    assert torch.allclose(pair.x - sigmas.view(-1, 1, 1, 1, 1) * pair.target, x0, atol=1e-12)


def test_the_target_is_the_paper_s_with_its_weight_as_a_coefficient_of_what_was_spoilt():
    """v = (x1 - e) + w (x1 - P(x1)) in the paper's time, with w = lam (1 - s); here the sign of time is turned."""
    x0, noise, spoilt = tensors(1, 3, 4, 2, 2)
    sigma = torch.tensor([0.8], dtype=torch.float64)
    pair = flow.make_pair(x0, noise, sigma, spoilt, torch.tensor([0.4], dtype=torch.float64))
    assert torch.allclose(-pair.target, (x0 - noise) + 0.4 * 0.2 * (x0 - spoilt), atol=1e-12)


def test_pictures_of_the_person_are_never_spoilt():
    x0, noise, spoilt = tensors(1, 3, 6, 2, 2)
    sigma = torch.tensor([0.8], dtype=torch.float64)
    plain = flow.make_pair(x0, noise, sigma)
    pair = flow.make_pair(x0, noise, sigma, spoilt[:, :, :4], 1.0)
    assert torch.equal(pair.x[:, :, :2], plain.x[:, :, :2])
    assert torch.equal(pair.target[:, :, :2], plain.target[:, :, :2])
    assert not torch.equal(pair.x[:, :, 2:], plain.x[:, :, 2:])


def test_the_bell_is_bounded_and_greatest_in_the_middle():
    bell = flow.bell(EVERY, EVERY)
    assert bell.min() == 0 and bell.max() == 1 and abs(1000 * EVERY[bell.argmax()] - 500) < 1 and bell[0] == 0
    assert flow.loss_weight(EVERY, EVERY).mean() == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="schedule: got 'x', wanted one of gaussian_timestep"):
        flow.restoring_weight("x", EVERY, EVERY)


def test_the_loss_is_over_every_frame():
    x0, noise, _ = tensors(2, 3, 5, 2, 2)
    pair, weight = flow.make_pair(x0, noise, torch.tensor([0.7, 0.9])), torch.tensor([1.0, 3.0])
    wrong = pair.target.clone()
    wrong[1, :, 0] += 2       # a picture of the person: one of five frames
    assert flow.restorative_loss(wrong, pair, weight).item() == pytest.approx(3 * 4 / 5 / 2)


def test_only_the_noisy_half_is_spoilt_four_times_in_five():
    draw = random.Random(1)
    assert not any(flow.is_spoilt(0.49, draw) for _ in range(100))
    assert sum(flow.is_spoilt(0.5, draw) for _ in range(2000)) / 2000 == pytest.approx(0.8, abs=0.04)


def test_every_frame_of_a_clip_has_the_same_draw():
    frame = numpy.random.RandomState(0).randint(0, 255, (24, 32, 3), dtype=numpy.uint8)
    for seed in range(20):
        made = spoil(numpy.stack([frame] * 3), draw_spoiling(random.Random(seed)))
        assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2]) and made.abs().max() <= 1
    plain = spoil(frame[None], Draw())
    assert torch.equal(plain[0].permute(1, 2, 0), torch.from_numpy(frame).float() / 255 * 2 - 1)
    patched = spoil(frame[None], Draw(patches=(Patch(0.5, 0.25, 0.0, 1.0, 32),)))
    moved = (patched != plain).any(1)[0]
    assert moved[:12, 24:].any() and not moved[12:].any() and not moved[:, :24].any()


def test_a_picture_that_is_not_moved_stays():
    picture = torch.rand(1, 3, 8, 8)
    assert torch.allclose(move_picture(picture, 1.0, 0.0, 0.0), picture, atol=1e-6)
    assert not torch.allclose(move_picture(picture, 0.9, 0.1, 0.0), picture, atol=1e-2)


def test_the_stages_are_the_paper_s_lengths():
    adaptation, restoration = flow.STAGES["adaptation"], flow.STAGES["restoration"]
    assert (adaptation.steps, adaptation.spoils, restoration.steps, restoration.spoils) == (4000, False, 1000, True)
