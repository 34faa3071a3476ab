"""A report in five words: what is good, to look at and bad, the worst moment, and two takes side by side."""
from fractions import Fraction

import pytest
import torch
from lodestar.pipelines.metrics.report import evaluate
from lodestar.pipelines.metrics.verdict import BAD, GOOD, LOOK, Thumbnails, figure_of, judge, lips, worst_of
from lodestar.pipelines.metrics.verdict_picture import better, comparison_picture, not_measured, verdict_picture
from lodestar.pipelines.metrics.video_reader import Clip

pytestmark = pytest.mark.once
FRAMES, FPS = 48, Fraction(16)


def scene(tint=0.0):
    """A bar that walks over a textured wall, (48, 48, 64, 3); from the middle on `tint` redder."""
    wall = torch.rand(48, 64, 1, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    frames = wall.expand(FRAMES, -1, -1, 3).clone()
    for number, frame in enumerate(frames):
        frame[:, number:number + 6] += 0.08
    frames[FRAMES // 2:, ..., 0] += tint
    return frames.clamp(0, 1)


def report_of(tint=0.0, **options):
    small = Thumbnails()
    return evaluate(Clip(scene(tint), FPS, "the clip"), thumbnails=small, **options), small


@pytest.mark.parametrize("amount, word", [(0, GOOD), (2, GOOD), (2.1, LOOK), (5, LOOK), (5.1, BAD), (50, BAD)])
def test_a_word_for_each_amount(amount, word):
    figure = figure_of("colour drift", "", amount, 2, 5, None)
    assert figure.word == word and (figure.badness <= 1) == (word == GOOD) and (figure.badness > 2) == (word == BAD)


def test_a_take_that_turns_red_is_found_with_the_moment():
    report, small = report_of(0.3)
    figures = {figure.name: figure for figure in judge(report)}
    assert figures["colour drift"].word == BAD and 1.5 <= figures["colour drift"].seconds <= 3
    assert worst_of(judge(report)).name == "colour drift"
    assert [one["name"] for one in report["verdict"]] == list(figures)
    picture = verdict_picture(report, judge(report), small)
    assert picture.shape[1] == 460 and picture.shape[0] < 320 and 0 <= picture.min() < picture.max() <= 1
    calm = judge(report_of()[0])
    assert {figure.name: figure.word for figure in calm}["colour drift"] == GOOD


def test_what_was_not_measured_is_one_plain_line():
    report, _ = report_of(drawn=True)
    line = not_measured(report)
    assert line.startswith("not measured: ") and "identity" in line and "install" not in line
    assert "install" not in " ".join(report["left_out"].values()) and "face files" not in str(report["left_out"])


def test_seams_and_lips_are_judged_where_they_were_measured():
    cut = scene()
    cut[24:] = cut[24:].flip(2)
    report = evaluate(Clip(cut, FPS, "cut"), borders=[24])
    assert {figure.name: (figure.word, figure.seconds) for figure in judge(report)}["seams"] == (BAD, 1.5)
    assert lips({"syncnet": {"offset_frames": 1}}, 16).word == GOOD
    assert lips({"lip_sync": {"correlation": 0.5, "lag_frames": -2}}, 16).value == "125 ms early"
    assert lips({"lip_sync": {"correlation": 0.1, "lag_frames": 2}}, 16) is None


def test_thumbnails_are_bounded_and_near_their_frame():
    small = Thumbnails()
    for start in range(0, 700, 50):
        small.add(torch.arange(start, start + 50).view(-1, 1, 1, 1).expand(-1, 6, 8, 3) / 700)
    assert len(small._kept) <= Thumbnails.MOST and small.at(0).shape == (150, 200, 3)
    assert all(abs(float(small.at(frame).float().mean()) / 255 * 700 - frame) < 8 for frame in (0, 333, 698))


def test_two_takes_are_set_side_by_side():
    red, calm = judge(report_of(0.3)[0]), judge(report_of()[0])
    picture = comparison_picture(("no anchor", "anchor"), (red, calm))
    assert picture.shape[1] == 460      # as wide as a report's, which can be read in its node
    index = [figure.name for figure in red].index("colour drift")
    assert better(red[index], calm[index]) == 2 and better(calm[index], red[index]) == 1
    assert better(calm[index], calm[index]) == 0
