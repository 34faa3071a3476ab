"""A talking model's audio slots per latent, by naive loops; projected guidance and colours, by their definitions."""
import math

import pytest
import torch
from lodestar.techniques.audio.talk_windows import (
    frame_steps,
    humo_steps,
    humo_windows,
    mirror_steps,
    multitalk_windows,
    steps_of_samples,
)
from lodestar.techniques.colour_match import lab_of_rgb, match_colours, rgb_of_lab
from lodestar.techniques.projected_guidance import Projection
from lodestar.techniques.speaker_masks import box_masks


def test_a_step_may_be_lost_in_floating_point():
    assert [steps for steps in range(1, 121) if steps_of_samples(steps * 640) < steps] == [29, 57, 58, 113, 114, 115,
                                                                                         116]
    assert steps_of_samples(16_000) == 25


@pytest.mark.parametrize(("first", "frames", "steps"),
                         [(0, 13, 20), (8, 13, 20), (16, 13, 20), (72, 81, 82), (40, 13, 9)])
@pytest.mark.parametrize("closes", [False, True])
def test_the_steps_around_each_frame(first, frames, steps, closes):
    line = list(range(steps))
    if closes and first + frames > steps - 3:
        line += line[::-1][:min(first + frames - steps + 3, steps)]
    rows = frame_steps(first, frames, steps, closes).tolist()
    for frame, row in enumerate(rows, start=first):
        assert row == [line[min(max(frame + shift, 0), len(line) - 1)] for shift in range(-2, 3)]


def test_the_end_is_mirrored_at_most_once():
    assert mirror_steps(4, 5).tolist() == [0, 1, 2, 3, 3, 2, 1, 0]
    assert mirror_steps(4, 99).tolist() == [0, 1, 2, 3, 3, 2, 1, 0]


def test_the_slots_of_a_latent_of_four_frames():
    features = torch.arange(30.0)[:, None, None]
    first, later = multitalk_windows(features, frame_steps(8, 13, 30))
    assert first.flatten().tolist() == [6, 7, 8, 9, 10]
    for latent, row in enumerate(later.flatten(1).tolist()):
        frame = 9 + 4 * latent
        assert row == [frame - 2, frame - 1, frame, frame + 1, frame + 2, frame + 3, frame + 4, frame + 5]


def test_humos_slots_are_zeros_outside_and_the_same_in_every_chunk():
    features = torch.arange(1.0, 41)[:, None, None]
    whole = humo_windows(features, humo_steps(0, 12)).flatten(1)
    assert whole[0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3] and whole[1].tolist() == [0, *range(1, 8)]
    assert whole[11].tolist() == [40, 0, 0, 0, 0, 0, 0, 0]
    later = humo_windows(features, humo_steps(5 * 4, 4)).flatten(1)
    assert torch.equal(later[1:], whole[6:9]) and later[0].tolist() == [0, 0, 0, *whole[5, 3:].tolist()]
    assert torch.equal(humo_windows(features, humo_steps(5 * 4, 4, opens=False)).flatten(1), whole[5:9])


def test_a_projected_direction_stands_across_the_prediction_and_is_capped():
    prediction, direction = torch.randn(2, 3, 2, 4, 4), 9 * torch.randn(2, 3, 2, 4, 4)
    projection = Projection(-0.5, 3.0)
    across = projection.project(direction, prediction)
    for one, along in zip(across, prediction, strict=True):
        assert abs((one * along).sum()) < 1e-4 and one.norm() <= 3 + 1e-5
    assert torch.allclose(projection.add_momentum(direction, prediction), direction - 0.5 * prediction)
    assert torch.equal(projection.add_momentum(direction, None), direction)
    assert torch.allclose(Projection(0, 0).project(prediction, prediction), torch.zeros(()), atol=1e-6)


def test_matched_frames_have_the_reference_s_mean_and_deviation():
    frames, reference = 0.35 + 0.2 * torch.rand(2, 8, 9, 3), 0.4 + 0.15 * torch.rand(1, 5, 7, 3)
    frames[1] = 0.6
    matched = lab_of_rgb(match_colours(frames, reference))
    wanted = lab_of_rgb(reference)
    assert torch.allclose(matched.mean((1, 2)), wanted.mean((1, 2)), atol=1e-2)
    assert torch.allclose(matched[0].std((0, 1), correction=0), wanted[0].std((0, 1), correction=0), atol=1e-2)
    assert matched[1].std((0, 1)).max() < 1e-3      # what is flat stays flat
    assert torch.allclose(match_colours(frames, reference, 0.25),
                          frames * 0.75 + match_colours(frames, reference) * 0.25)
    assert match_colours(frames, reference, 0) is frames


def test_lab_of_known_colours_and_back():
    red = lab_of_rgb(torch.tensor([1.0, 0, 0]))
    assert torch.allclose(red.float(), torch.tensor([53.24, 80.09, 67.20]), atol=0.02)
    colours = torch.rand(50, 3).double()
    assert (rgb_of_lab(lab_of_rgb(colours)) - colours).abs().max() < 1e-4


def test_the_margin_of_speakers_without_boxes():
    masks = box_masks(100, 80, margin=0.05)
    assert masks[0].sum() == 90 * 36 and math.isclose(masks.sum(0).max(), 1)
