"""SyncNet's measure without its network: what it is fed with, what it makes of embeddings, and that it is a stream.

The embeddings here are plain: of a window of sound, how loud its five frames are; of five frames, how bright.
"""
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.pipelines.metrics.mfcc import SpeechMfcc
from lodestar.pipelines.metrics.syncnet import FaceCrops, SyncNetScores, face_crop, frame_at
from lodestar.pipelines.metrics.video_reader import Sound, sound_of
from safetensors.numpy import load_file

GOLDEN = Path(__file__).with_name("golden") / "syncnet" / "mfcc.safetensors"
RATE, FRAME = 16000, 640
BOX = torch.tensor([2.0, 1, 10, 11])
MISSING = torch.full((4,), torch.nan)


# ---------------------------------------------------------------- sound

def cut(samples, piece):
    return [samples[start:start + piece] for start in range(0, len(samples), piece)]


@pytest.mark.parametrize("piece", [6400, 1, 399, 641])
def test_coefficients_are_those_that_the_authors_use(piece):
    golden = load_file(GOLDEN)
    mfcc = SpeechMfcc()
    rows = np.concatenate([mfcc.add(part / 32768) for part in cut(golden["samples"], piece)])
    assert rows.shape == golden["rows"].shape and np.allclose(rows, golden["rows"], atol=1e-9)


def test_samples_are_16_bit():
    wave = np.random.default_rng(0).normal(size=800) * 1e-3
    assert np.array_equal(SpeechMfcc().add(wave), SpeechMfcc().add(np.rint(wave * 32768) / 32768))
    assert np.array_equal(SpeechMfcc().add(np.full(800, 7.0)), SpeechMfcc().add(np.full(800, 32767 / 32768)))


@pytest.mark.parametrize("piece", [100_000, 1000, 77])
def test_sound_at_another_rate_keeps_its_time(piece):
    def tone(rate):
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate * 2) / rate)

    found = np.concatenate(list(Sound(44100, iter(cut(tone(44100), piece))).at_rate(RATE)))
    assert 2 * RATE <= len(found) < 2 * RATE + 20 and np.allclose(found[100:31900], tone(RATE)[100:31900], atol=2e-3)


# ---------------------------------------------------------------- frames

@pytest.mark.parametrize("fps", [Fraction(25), Fraction(16), Fraction(50), Fraction(24000, 1001), Fraction(30)])
def test_frames_are_taken_by_time(fps):
    crops, count = FaceCrops(fps), 40
    frames = (torch.arange(count) / 255)[:, None, None, None].expand(-1, 12, 12, 3)
    found = []
    for first in range(0, count, 7):
        found += crops.add(frames[first:first + 7], BOX.expand(len(frames[first:first + 7]), 4))
    found = [int(crop[0, 80, 112]) for crop in found + crops.finish()]
    middles = [Fraction(2 * tick + 1, 50) for tick in range(100)]
    expected = [max(i for i in range(200) if i / fps <= moment) for moment in middles if moment < count / fps]
    assert found == expected and [frame_at(tick, fps) for tick in range(len(expected))] == expected


def crop_oracle(picture, x, y, half):
    """Padded on all sides, cut, and scaled by the two nearest pixels each way."""
    reach = int(half * 1.8)
    padded = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), constant_values=110).astype(float)
    rows = slice(int(y + reach - half), int(y + reach + half * 1.8))
    face = padded[rows, int(x + reach - half * 1.4):int(x + reach + half * 1.4)]
    for axis in (0, 1):
        places = ((np.arange(224) + 0.5) * face.shape[axis] / 224 - 0.5).clip(0, face.shape[axis] - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, face.shape[axis] - 1)
        share = (places - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        face = face.take(low, axis) * (1 - share) + face.take(high, axis) * share
    return face[..., ::-1].transpose(2, 0, 1)


@pytest.mark.parametrize(("x", "y", "half"), [(50.5, 40.2, 20.3), (10, 8, 22), (88, 75.5, 30), (45, 40, 300)])
def test_the_crop_is_the_face_with_what_is_around_and_below(x, y, half):
    picture = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    found = face_crop(torch.from_numpy(picture), x, y, half)
    assert found.shape == (3, 224, 224) and np.abs(found.numpy() - crop_oracle(picture, x, y, half)).max() < 0.51


def test_a_face_outside_the_picture_is_grey():
    picture = torch.zeros(20, 30, 3, dtype=torch.uint8)
    for x, y in ((-90, 5), (200, 5), (9, -90), (9, 200)):
        assert (face_crop(picture, x, y, 10) == 110).all()


def test_the_place_of_the_face_is_a_running_median():
    made = np.random.default_rng(0)
    boxes = np.stack([made.uniform(10, 30, 40), made.uniform(10, 30, 40), made.uniform(60, 80, 40),
                      made.uniform(50, 70, 40)], 1)
    boxes[[9, 20]] = np.nan
    picture = torch.from_numpy(made.integers(0, 256, (80, 90, 3), np.uint8))
    crops = FaceCrops(Fraction(25))
    found = crops.add((picture / 255).expand(40, -1, -1, -1), torch.from_numpy(boxes)) + crops.finish()
    sizes = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) / 2
    places = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2, sizes], 1)
    for frame, crop in enumerate(found):
        around = places[max(frame - 6, 0):frame + 7]
        if frame in (9, 20):
            assert crop is None
        else:
            x, y, half = np.median(around[~np.isnan(around[:, 0])], 0)
            assert torch.equal(crop, face_crop(picture, x, y, half)), frame


# ---------------------------------------------------------------- the measure

class Plain:
    """Brightness and loudness as they are: sound whose frames are as loud as the picture is bright has distance 0."""

    def __init__(self):
        self.zero = float(SpeechMfcc().add(square(np.zeros(1)))[0, 0])

    def of_sound(self, mfcc):
        return (mfcc[:, 0, ::4] - self.zero) / 4

    def of_lips(self, crops):
        return crops[:, 0, 80, 112].div(255).unfold(0, 5, 1)


def square(codes):
    """Sound of exp(2 * code) for each frame."""
    return np.repeat(0.01 * np.exp(2 * np.asarray(codes)), FRAME) * np.where(np.arange(len(codes) * FRAME) % 2, 1, -1)


class Foreign:
    """No relation at all: what comes of each window is a random direction of its own content."""

    def of_sound(self, mfcc):
        return torch.sin(mfcc.flatten(1)[:, :6] * 3) * 2

    def of_lips(self, crops):
        return Plain.of_lips(self, crops) @ torch.randn(5, 6, generator=torch.Generator().manual_seed(0)) + 0.3


def codes(count, seed=0):
    return np.round(np.random.default_rng(seed).uniform(0, 1, count) * 255) / 255


def scored(brightness, samples, network=None, fps=25, piece=16, sound_piece=16000, boxes=None):
    frames = torch.from_numpy(brightness).float()[:, None, None, None].expand(-1, 12, 12, 3)
    boxes = BOX.expand(len(frames), 4) if boxes is None else boxes
    scores = SyncNetScores(network or Plain(), Fraction(fps), iter(cut(samples, sound_piece)))
    for first in range(0, len(frames), piece):
        scores.add(frames[first:first + piece], boxes[first:first + piece])
    return scores.result()


@pytest.mark.parametrize("late", [-7, 0, 3, 15])
def test_a_mouth_that_is_late_by_some_frames_has_that_offset(late):
    said = codes(160)
    found = scored(said[20 - late:140 - late], square(said[20:140]))
    assert found["offset_frames"] == late and found["offset_seconds"] == late / 25
    assert found["windows"] == 115 and found["skipped"] == 0
    still = scored(np.full(120, 0.5), square(said[20:140]))
    assert found["confidence"] > 0.4 > 5 * still["confidence"]
    assert found["distance"] < 0.25 < still["distance"]


def oracle(lips, sound, known=None):
    """As the authors count: all distances of 31 offsets, the sound padded with zeros, means over the video."""
    padded = np.pad(sound, ((15, 15), (0, 0)))
    distances = np.array([[np.linalg.norm(row - padded[number + place] + 1e-6) for place in range(31)]
                          for number, row in enumerate(lips) if known is None or known[number]])
    mean = distances.mean(0)
    return np.median(mean) - mean.min(), mean.min(), 15 - mean.argmin(), mean


@pytest.mark.parametrize(("frames", "sounding"), [(80, 80), (80, 50.5), (50, 80), (20, 20), (6, 6), (80, 12)])
def test_the_scores_are_those_of_all_windows_at_once(frames, sounding):
    brightness, samples = codes(frames), square(codes(80, 1))[:int(sounding * FRAME)]
    count = min(frames, int(sounding)) - 5
    network, rows = Foreign(), SpeechMfcc().add(samples)
    sound = network.of_sound(torch.from_numpy(np.stack([rows[4 * i:4 * i + 20].T for i in range(count)])).float())
    crops = torch.from_numpy(brightness).float()[:, None, None, None].mul(255).round().expand(-1, 3, 224, 224)
    confidence, distance, offset, mean = oracle(network.of_lips(crops)[:count].numpy(), sound.numpy())
    found = scored(brightness, samples, network)
    assert found["windows"] == count and found["offset_frames"] == offset
    assert found["confidence"] == pytest.approx(confidence, abs=1e-4)
    assert found["distance"] == pytest.approx(distance, abs=1e-4)
    assert found["by_offset"]["offsets"] == list(range(-15, 16))
    assert found["by_offset"]["distances"] == pytest.approx(mean[::-1], abs=1e-4)


@pytest.mark.parametrize(("piece", "sound_piece"), [(1, 16000), (7, 501), (100, 80), (33, 100_000)])
def test_the_scores_do_not_depend_on_how_video_and_sound_are_cut(piece, sound_piece):
    brightness, samples = codes(70), square(codes(68, 1))
    boxes = BOX.repeat(70, 1)
    boxes[40] = MISSING
    whole = scored(brightness, samples, Foreign(), boxes=boxes)
    assert scored(brightness, samples, Foreign(), piece=piece, sound_piece=sound_piece, boxes=boxes) == whole


def test_windows_without_a_face_are_left_out():
    brightness, samples = codes(80), square(codes(80, 1))
    boxes = BOX.repeat(80, 1)
    boxes[[0, 30, 31, 60]] = MISSING
    known = np.array([bool(boxes[i:i + 5].isfinite().all()) for i in range(75)])
    found = scored(np.where(boxes[:, 0].isfinite(), brightness, 0.99), samples, Foreign(), boxes=boxes)
    network, rows = Foreign(), SpeechMfcc().add(samples)
    sound = network.of_sound(torch.from_numpy(np.stack([rows[4 * i:4 * i + 20].T for i in range(75)])).float())
    crops = torch.from_numpy(brightness).float()[:, None, None, None].mul(255).round().expand(-1, 3, 224, 224)
    expected = oracle(network.of_lips(crops)[:75].numpy(), sound.numpy(), known)
    assert (found["windows"], found["skipped"]) == (known.sum(), 75 - known.sum()) == (63, 12)
    assert found["by_offset"]["distances"] == pytest.approx(expected[3][::-1], abs=1e-4)


@pytest.mark.parametrize("fps", [16, Fraction(24000, 1001), 50])
def test_video_at_another_rate_is_in_time_with_its_sound(fps):
    said = np.repeat(codes(40), 5)      # 8 seconds, a new sound every fifth of a second
    moments = (np.arange(int(200 / 25 * fps)) + 0.5) / float(fps)
    for late in (0, 4):
        brightness = said[np.maximum((moments * 25).astype(int) - late, 0)]
        found = scored(brightness, square(said), fps=fps)
        assert found["offset_frames"] == late and found["windows"] >= 190 and found["confidence"] > 0.3


@pytest.mark.parametrize(("frames", "sounding", "boxes"), [(5, 40, None), (40, 5, None), (40, 0, None),
                                                        (40, 40, MISSING.expand(40, 4))])
def test_where_nothing_can_be_said_nothing_is_said(frames, sounding, boxes):
    found = scored(codes(frames), square(codes(sounding)), boxes=boxes)
    assert found["windows"] == 0 and found["skipped"] == (35 if boxes is not None else 0)
    assert {found[name] for name in ("confidence", "distance", "offset_frames", "offset_seconds")} == {None}


def test_sound_is_read_as_far_as_the_frames_have_come():
    read = []

    def endless():
        while True:
            read.append(FRAME)
            yield square([0.5])

    scores = SyncNetScores(Plain(), Fraction(25), endless())
    for frames in range(100, 500, 100):
        scores.add(torch.rand(100, 12, 12, 3), BOX.expand(100, 4))
        assert frames - 30 < len(read) <= frames
        assert len(scores._sound.rows) < 64 and len(scores._lips) < 64 and len(scores._crops) < 16
        assert len(scores._faces._pictures) < 8 and len(scores._sound._steps) < 100


def test_all_channels_of_the_speech_count():
    sounding = sound_of(torch.tensor([[[0.2, 0.4], [0.4, 0.8]]]), RATE)
    assert np.concatenate(list(sounding.pieces)) == pytest.approx([0.3, 0.6]) and sounding.sample_rate == RATE
