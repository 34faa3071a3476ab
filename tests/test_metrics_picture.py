"""Colour, sharpness, flicker, seams, freezes, repetition and motion on videos whose right answer is known."""
import math

import numpy as np
import pytest
import torch
from lodestar.pipelines.metrics.colour import ColourDrift, ciede2000, lab_of_light, linear_light
from lodestar.pipelines.metrics.flicker import Flicker
from lodestar.pipelines.metrics.freeze import Freezes
from lodestar.pipelines.metrics.motion import Motion
from lodestar.pipelines.metrics.repetition import Likeness, Repetition
from lodestar.pipelines.metrics.seam import Seams
from lodestar.pipelines.metrics.sharpness import Sharpness
from lodestar.pipelines.metrics.track import CURVE_POINTS, Track

FPS, SIDE = 25, 48
# Sharma, Wu, Dalal (2005), table 1: L1 a1 b1, L2 a2 b2, difference
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.02 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1
50 -1.1848 -84.8006 50 0 -82.7485 1
50 -0.9009 -85.5211 50 0 -82.7485 1
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792
50 2.49 -0.001 50 -2.49 0.001 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195
50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045
50 -0.001 2.49 50 0.001 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.903
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1
50 2.5 0 50 3.2972 0 1
50 2.5 0 50 1.8634 0.5757 1
50 2.5 0 50 3.2592 0.335 1
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.263
61.2901 3.7196 -5.3901 61.4292 2.248 -4.962 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.694 23.0331 14.973 -42.5619 2.0373
36.4612 47.858 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.441 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.135 0.9033 -0.0636 -0.5514 0.9082
"""


def texture(seed=0, side=SIDE):
    """A smooth random picture (side, side, 3) that repeats at its edges."""
    made = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.arange(side) * (2 * math.pi / side)] * 2, indexing="ij")
    waves = torch.randint(-4, 5, (12, 2), generator=made)
    phases, colours = torch.rand(12, generator=made) * 6, torch.rand(12, 3, generator=made)
    picture = sum(torch.cos(a * x + b * y + phase)[..., None] * colour
                  for (a, b), phase, colour in zip(waves, phases, colours, strict=True))
    return (picture - picture.min()) / (picture.max() - picture.min()) * 0.6 + 0.2


def moved(frames, speed, seed=0, side=SIDE):
    """The texture going right by `speed` whole pixels a frame."""
    return torch.stack([texture(seed, side).roll(speed * frame, 1) for frame in range(frames)])


def swaying(frames, period=None, seed=0):
    """A picture whose patches come and go: as slow noise that never comes back, or as a loop of `period` frames."""
    steps = torch.arange(frames) if period is None else torch.arange(frames) % period
    noise = torch.randn(6, 1, frames + 50, generator=torch.Generator().manual_seed(seed))
    amounts = torch.conv1d(noise, torch.hann_window(51)[None, None])[:, 0].T
    patterns = torch.stack([texture(seed) for seed in range(1, 7)])
    return torch.einsum("tk,khwc->thwc", 0.5 + 0.2 * amounts[steps] / amounts.std(), patterns) / 6


def measured(measure, frames, piece=7):
    for part in frames.split(piece):
        measure.add(part)
    return measure.result()


# ---------------------------------------------------------------- tracks

def test_a_track_knows_its_drift_and_forgets_the_numbers():
    track, values = Track(FPS), 3 + torch.arange(100_000) / FPS / 60 * 0.25
    for part in values.double().split(999):
        track.add(part)
    found = track.result()
    assert found["slope_per_minute"] == pytest.approx(0.25)
    assert found["mean"] == pytest.approx(float(values.double().mean())) and found["frames"] == 100_000
    assert (found["first_second"], found["last_second"]) == pytest.approx((3, 19.66), abs=0.01)
    assert CURVE_POINTS / 4 < len(found["curve"]["values"]) <= CURVE_POINTS
    exact = 3 + np.array(found["curve"]["seconds"]) / 60 * 0.25
    assert np.allclose(found["curve"]["values"], exact, atol=1e-3)
    assert found["curve"]["least"][0] == 3 and found["curve"]["most"][-1] == pytest.approx(found["most"], rel=1e-4)
    assert all(low < high for low, high in zip(found["curve"]["least"], found["curve"]["most"], strict=True))
    assert sum(np.size(value) for value in vars(track).values()) < 5 * CURVE_POINTS


def test_unknown_frames_count_for_time_and_for_nothing_else():
    track = Track(1)
    track.add([1.0, math.nan, 3.0, math.nan])
    found = track.result()
    assert (found["mean"], found["least"], found["most"], found["frames"]) == (2, 1, 3, 2)
    assert found["slope_per_minute"] == pytest.approx(60) and found["last_second"] is None
    assert found["curve"] == {"seconds": [0, 2], "values": [1, 3], "least": [1, 3], "most": [1, 3]}
    track = Track(1)
    track.add([math.nan])
    assert track.result()["mean"] is None and track.result()["slope_per_minute"] is None


MEASURES = [ColourDrift, Sharpness, Flicker, Freezes, Repetition, Motion, lambda fps: Seams(fps, [20, 40]),
            lambda fps: Likeness(fps, texture()[None])]


@pytest.mark.parametrize("make", MEASURES)
def test_how_the_video_is_cut_into_pieces_does_not_matter(make):
    frames = torch.cat([moved(30, 1), moved(30, 1)[-1:].expand(20, -1, -1, -1), moved(10, 2, seed=3)])
    whole, single = measured(make(FPS), frames, 60), measured(make(FPS), frames, 1)
    assert str(whole.keys()) == str(single.keys())
    for name, value in whole.items():
        if isinstance(value, float):
            assert value == pytest.approx(single[name], rel=1e-4, abs=1e-6), name
        elif name == "curve":
            assert np.allclose(value["values"], single[name]["values"], rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- colour

@pytest.mark.parametrize("line", SHARMA.strip().splitlines())
def test_ciede2000_gives_the_published_differences(line):
    numbers = torch.tensor([float(number) for number in line.split()], dtype=torch.float64)
    assert float(ciede2000(numbers[:3], numbers[3:6])) == pytest.approx(float(numbers[6]), abs=5e-5)
    assert float(ciede2000(numbers[3:6], numbers[:3])) == pytest.approx(float(numbers[6]), abs=5e-5)


def test_colours_become_lab():
    rgb = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0.5, 0.5, 0.5]])
    known = torch.tensor([[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [53.39, 0, 0]]).double()
    assert torch.allclose(lab_of_light(linear_light(rgb)), known, atol=0.02)


def test_a_slow_tint_has_its_difference():
    start, end = torch.tensor([0.5, 0.4, 0.35]), torch.tensor([0.56, 0.42, 0.31])
    share = torch.linspace(0, 1, 251)[:, None]
    share[:FPS] = 0
    frames = (start + share * (end - start))[:, None, None].expand(-1, 32, 48, -1)
    found = measured(ColourDrift(FPS), frames)
    known = ciede2000(lab_of_light(linear_light(start)), lab_of_light(linear_light(end)))
    assert 4 < known < 10 and found["curve"]["values"][-1] == pytest.approx(float(known), rel=1e-3)
    assert found["first_second"] == pytest.approx(0, abs=1e-3)
    assert found["slope_per_minute"] == pytest.approx(float(known) * 6, rel=0.1)


def test_motion_is_no_colour_drift_and_a_tint_of_one_region_is():
    frames = texture().repeat(60, 1, 1, 1)
    frames[40:] = texture().roll(1, 1)
    assert measured(ColourDrift(FPS), frames)["last_second"] < 2
    frames[40:] = texture()
    assert measured(ColourDrift(FPS), frames)["most"] < 1e-3
    frames[40:, :24, :24, 0] += 0.1
    assert measured(ColourDrift(FPS), frames)["last_second"] > 0.5


def test_a_video_shorter_than_a_second_has_its_own_first_second():
    frames = torch.full((6, 8, 8, 3), 0.5)
    assert measured(ColourDrift(FPS), frames)["frames"] == 6


# ---------------------------------------------------------------- sharpness and flicker

def test_sharpness_of_a_wave_is_its_laplacian():
    turn = 2 * math.pi / 12
    wave = torch.cos(torch.arange(50) * turn).expand(26, 50)[None, ..., None].expand(1, -1, -1, 3) * 0.25 + 0.5
    known = (0.25 * 255) ** 2 / 2 * (2 - 2 * math.cos(turn)) ** 2
    assert measured(Sharpness(FPS), wave)["mean"] == pytest.approx(known, rel=1e-3)


def test_blur_makes_it_fall():
    frames = torch.rand(1, SIDE, SIDE, 3).repeat(50, 1, 1, 1)
    frames[25:] = (frames[25:] + frames[25:].roll(1, 1) + frames[25:].roll(1, 2)) / 3
    found = measured(Sharpness(FPS), frames)
    assert found["last_second"] < 0.5 * found["first_second"]


def test_flicker_is_what_goes_to_and_fro():
    fade = torch.linspace(0.2, 0.7, 60)[:, None, None, None].expand(-1, 32, 32, 3)
    assert measured(Flicker(FPS), fade)["mean"] == pytest.approx(0, abs=1e-3)
    light = torch.where(torch.arange(60) % 2 == 0, 0.5, 0.5 + 2 / 255)[:, None, None, None].expand(-1, 32, 32, 3)
    assert measured(Flicker(FPS), light)["mean"] == pytest.approx(2, abs=1e-3)


# ---------------------------------------------------------------- seams and freezes

def ramp(frames, jumps):
    """Every frame is 1 grey level brighter, at `jumps` as many as they say."""
    steps = torch.ones(frames)
    steps[0] = 0
    for frame, levels in jumps.items():
        steps[frame] = levels
    return (0.1 + steps.cumsum(0) / 255)[:, None, None, None].expand(-1, 16, 16, 3)


def test_a_jump_at_borders_gives_the_seam_score():
    found = measured(Seams(FPS, [20, 40]), ramp(60, {20: 4, 40: 8}))
    assert found["score"] == pytest.approx(6, rel=1e-3) and found["inside"] == pytest.approx(1, rel=1e-3)
    assert found["jumps"] == {"20": pytest.approx(4, rel=1e-2), "40": pytest.approx(8, rel=1e-2)}
    assert measured(Seams(FPS, [20, 40]), ramp(60, {}))["score"] == pytest.approx(1, rel=1e-3)
    assert measured(Seams(FPS, [21, 41]), ramp(60, {20: 4, 40: 8}))["score"] < 1


def test_seams_of_fast_motion_are_none_and_without_borders_there_is_no_score():
    frames = torch.cat([moved(20, 0), moved(40, 2)])
    assert measured(Seams(FPS, [40]), frames)["score"] == pytest.approx(1, rel=0.1)
    found = measured(Seams(FPS, []), frames)
    assert found["score"] is None and found["change"]["frames"] == 59


def test_the_answer_is_the_same_when_asked_twice():
    seams = Seams(FPS, [20])
    assert measured(seams, ramp(30, {20: 4})) == seams.result()
    freezes = Freezes(FPS)
    assert measured(freezes, moved(1, 0).expand(30, -1, -1, -1)) == freezes.result()


def test_a_frozen_stretch_is_found():
    frames = moved(100, 1)
    frames[40:66] = frames[40]
    frames[80:90] = frames[80]      # shorter than half a second
    found = measured(Freezes(FPS), frames)
    assert found["stretches"] == [(40, 66)] and found["count"] == 1
    assert found["share"] == pytest.approx(0.26)
    frames[40:66, :6, :6] = moved(26, 1)[:, :6, :6]     # a mouth that moves
    assert measured(Freezes(FPS), frames)["count"] == 0


def test_a_still_video_is_one_freeze():
    assert measured(Freezes(FPS), moved(1, 0).expand(50, -1, -1, -1))["stretches"] == [(0, 50)]


# ---------------------------------------------------------------- repetition

@pytest.mark.parametrize("period", [30, 75])
def test_a_loop_has_its_period(period):
    found = measured(Repetition(FPS), swaying(300, period))
    assert found["period_frames"] == period and found["strength"] == pytest.approx(1, abs=1e-3)
    assert found["period_seconds"] == period / FPS


@pytest.mark.parametrize("seed", range(4))
def test_what_never_comes_back_has_no_period(seed):
    assert measured(Repetition(FPS), swaying(400, seed=seed))["period_frames"] is None


def test_a_still_picture_has_no_period():
    still = measured(Repetition(FPS), moved(1, 0).expand(60, -1, -1, -1))
    assert still == {"period_frames": None, "period_seconds": None, "strength": None}


def test_the_autocorrelation_is_the_textbooks():
    frames = swaying(90)
    repetition = Repetition(FPS)
    measured(repetition, frames)
    coarse = torch.nn.functional.avg_pool2d((frames @ torch.tensor([0.2126, 0.7152, 0.0722])).double(), 3).flatten(1)
    spread = ((coarse - coarse.mean(0)) ** 2).sum() / 90
    known = [1 - float(((coarse[lag:] - coarse[:-lag]) ** 2).sum(1).mean() / (2 * spread)) for lag in range(1, 46)]
    assert np.allclose(repetition.autocorrelation(), known, atol=1e-5)


def test_frames_that_are_the_reference_again_are_counted():
    frames = moved(40, 1)
    frames[::2] = texture()
    frames[1::2] = texture(9)
    found = measured(Likeness(FPS, texture()[None]), frames)
    assert found["copied_share"] == 0.5 and found["most"] == pytest.approx(1, abs=1e-4)
    assert found["least"] < 0.8


# ---------------------------------------------------------------- motion

@pytest.mark.parametrize("speed", [1, 2])
def test_dynamic_degree_is_the_speed(speed):
    found = measured(Motion(FPS), moved(40, speed, side=64))
    assert found["mean"] == pytest.approx(100 * speed * FPS / 64, rel=0.1)
    assert found["smoothness"] > 0.9


def test_a_still_picture_does_not_move_and_trembling_is_not_smooth():
    assert measured(Motion(FPS), moved(1, 0).expand(9, -1, -1, -1))["mean"] == 0
    there_and_back = moved(2, 1).repeat(20, 1, 1, 1)
    found = measured(Motion(FPS), there_and_back)
    assert found["smoothness"] < 0.05 and found["mean"] > 40


def test_large_pictures_are_measured_small():
    fine = moved(12, 1, side=64).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert measured(Motion(FPS), fine)["mean"] == pytest.approx(100 * FPS / 64, rel=0.15)
