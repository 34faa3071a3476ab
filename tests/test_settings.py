"""What is left to the model is the model's own, and said; what is typed stays as typed."""
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lodestar.networks.longcat import buckets
from lodestar.networks.longcat.versions import AVATAR_10, AVATAR_15, BASE, PUPPET, version_of
from lodestar.pipelines.take.settings import WIDEST, choose_settings


def picture(width, height):
    return torch.zeros(1, height, width, 3)


@pytest.mark.parametrize(("version", "own"), [
    (BASE, (15, 93, 13, 832, 480)), (AVATAR_10, (16, 93, 13, 832, 480)), (AVATAR_15, (25, 93, 13, 832, 480)),
    (PUPPET, (25, 49, 13, 96, 96))], ids=lambda value: getattr(value, "name", ""))
def test_everything_left_open_is_the_model_s_own(version, own):
    chosen = choose_settings(version)
    assert (chosen.fps, chosen.chunk_frames, chosen.overlap_frames, chosen.width, chosen.height) == own
    fps, chunk, overlap, width, height = own
    assert chosen.note == (f"taken from {version.name}: {fps} fps, chunks of {chunk} frames, {overlap} frames of "
                           f"overlap, {width}x{height}")


def test_what_is_typed_stays_and_is_not_said():
    chosen = choose_settings(AVATAR_15, picture(300, 200), width=64, height=48, fps=Fraction(30), chunk_frames=17,
                             overlap_frames=5)
    assert vars(chosen) == {"fps": 30, "chunk_frames": 17, "overlap_frames": 5, "width": 64, "height": 48, "note": "",
                            "size_note": "64x48 is no size that LongCat-Avatar 1.5 was trained at; the nearest is "
                                         "736x544, which nearest_bucket takes"}
    chosen = choose_settings(AVATAR_15, fps=Fraction(25), width=832, height=480, overlap_frames=0, chunk_frames=0)
    assert chosen.note == "taken from LongCat-Avatar 1.5: chunks of 93 frames"


@pytest.mark.parametrize(("size", "wanted"), [
    ((512, 512), (624, 624)), ((1080, 1920), (480, 848)), ((832, 480), (832, 480)), ((900, 1600), (480, 848)),
    ((10_000, 100), (896, 448)), ((100, 10_000), (448, 896))])
def test_a_size_takes_the_proportions_of_the_picture(size, wanted):
    chosen = choose_settings(AVATAR_15, picture(*size))
    assert (chosen.width, chosen.height) == wanted and "in the proportions of the reference" in chosen.note


WIDE = replace(BASE, grid=32, size=(1280, 704))


@given(st.integers(8, 4000), st.integers(8, 4000), st.sampled_from([BASE, replace(PUPPET, one_size=False), WIDE]))
def test_a_size_fits_the_grid_and_has_as_many_pixels(width, height, version):
    chosen = choose_settings(version, picture(1, 1).expand(1, height, width, 3))
    assert chosen.width % version.grid == chosen.height % version.grid == 0
    own = version.size[0] * version.size[1]
    side = min(chosen.width, chosen.height)
    assert abs(chosen.width * chosen.height - own) <= 2 * version.grid * max(chosen.width, chosen.height)
    proportion = min(max(width / height, 1 / WIDEST), WIDEST)
    assert chosen.width / chosen.height == pytest.approx(proportion, rel=1.5 * version.grid / side)


def test_a_model_of_one_size_keeps_it_whatever_the_picture():
    chosen = choose_settings(PUPPET, picture(1080, 1920))
    assert (chosen.width, chosen.height) == (96, 96) and chosen.note.endswith("96x96")


def test_half_a_size_and_an_overlap_outside_the_chunk_are_refused():
    with pytest.raises(ValueError, match="width, height: got 0 and 480; give both, or 0 for both"):
        choose_settings(BASE, height=480)
    outside = replace(BASE, name="S2V", overlap_frames=0)
    with pytest.raises(ValueError, match="overlap_frames: got 5, but S2V keeps its context outside the chunk"):
        choose_settings(outside, overlap_frames=5)
    assert choose_settings(outside).overlap_frames == choose_settings(outside, overlap_frames=0).overlap_frames == 0
    assert "context outside the chunk" in choose_settings(outside).note


def test_speech_features_say_which_version_it_is():
    assert [version_of(width) for width in (None, 12 * 768, 5 * 1280, 5 * 16)] == [BASE, AVATAR_10, AVATAR_15, PUPPET]
    assert [version_of(width, layers) for width, layers in ((12 * 64, 12), (5 * 64, 5), (5 * 16, 5))] == \
        [AVATAR_10, AVATAR_15, PUPPET]
    with pytest.raises(ValueError, match="320 speech features per step .3 layers., wanted 9216 or 6400"):
        version_of(320, 3)


# ---------------------------------------------------------------- buckets

BUCKETS = json.loads((Path(__file__).parent / "golden" / "longcat" / "scheduler" / "buckets.json").read_text("utf-8"))
TABLES = {"table_480p": buckets.P480, "table_720p": buckets.P720, "table_720p_f64": buckets.REFINED}


@pytest.mark.parametrize("name", TABLES)
def test_buckets_are_the_authors(name):
    table = {f"{height / width:.2f}": [height, width] for width, height in TABLES[name]}
    assert table == BUCKETS[name]


@pytest.mark.parametrize("image", BUCKETS["map"])
def test_a_picture_falls_into_the_authors_bucket(image):
    name, _, size = image.split()
    height, width = map(int, size.split("x"))
    own = {"480p": (832, 480), "720p": (1280, 704)}[name]
    chosen = choose_settings(replace(AVATAR_15, size=own), picture(1, 1).expand(1, height, width, 3),
                             nearest_bucket=True)
    assert [chosen.height, chosen.width] == BUCKETS["map"][image]


def test_a_typed_size_becomes_the_nearest_bucket_and_both_are_said():
    chosen = choose_settings(BASE, width=1280, height=720, nearest_bucket=True)
    assert (chosen.width, chosen.height) == (1312, 704)
    assert chosen.size_note == ("1312x704 in place of 1280x720: the nearest size that "
                                "LongCat-Video was trained at")
    assert choose_settings(BASE, width=832, height=480, nearest_bucket=True).size_note == ""
    assert choose_settings(BASE, width=480, height=832).size_note == ""


def test_a_model_without_a_list_keeps_the_size():
    chosen = choose_settings(PUPPET, width=64, height=48, nearest_bucket=True)
    assert (chosen.width, chosen.height, chosen.size_note) == (64, 48, "")
