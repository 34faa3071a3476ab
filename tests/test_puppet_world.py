"""The puppet's world: deterministic, any span by itself, every parameter seen where it belongs, letters readable."""
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.training.puppet import drawing
from lodestar.training.puppet.drawing import STATE, draw
from lodestar.training.puppet.identity import (
    ALPHABET,
    CHOICES,
    COLOURS,
    HELD_OUT_SEEDS,
    LETTERS,
    NAMES,
    SCENE,
    TRAINING_SEEDS,
    Identity,
    identity,
    luminance,
)
from lodestar.training.puppet.motion import MOTION, motion, uniform, with_speech
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.textures import CELL, GLYPHS
from lodestar.training.puppet.traits import face_and_scene_error, statistics, true_embedding
from lodestar.training.puppet.world import MARGIN_FRAMES, SAMPLES_PER_FRAME, Take, World

REST = np.zeros((1, len(STATE)), np.float32)
REST[0, STATE.index("head_scale")] = 1


@pytest.fixture(scope="module")
def world():
    return World(load_tracks(Path(__file__).parent / "golden" / "puppet"), held_out=1)


def posed(**values: float) -> np.ndarray:
    state = REST.copy()
    for name, value in values.items():
        state[0, STATE.index(name)] = value
    return state


def picture(who: Identity, size: int = 64, **values: float) -> np.ndarray:
    return draw(who, posed(**values), size)[0].numpy().astype(float) / 255


# ---------------------------------------------------------------- who

def test_an_identity_is_its_seed_and_no_two_are_alike():
    vectors = np.stack([identity(seed).vector for seed in range(60)])
    assert vectors.shape == (60, len(NAMES)) and (identity(7).vector == vectors[7]).all()
    apart = np.abs(vectors[:, None] - vectors[None]).sum(-1) + 99 * np.eye(60)
    assert apart.min() > 5
    assert not set(TRAINING_SEEDS) & set(HELD_OUT_SEEDS)


def test_the_vector_says_what_the_traits_say():
    for seed in range(40):
        who = identity(seed)
        vector = dict(zip(NAMES, who.vector.tolist(), strict=True))
        assert vector["skin.g"] == pytest.approx(who["skin"][1]) and vector["mole0.x"] == pytest.approx(who.moles[0][0])
        for name, options in CHOICES.items():
            assert [option for option in options if vector[f"{name}.{option}"]][0] == who[name]
        read = "".join(letter for place in range(LETTERS) for letter in ALPHABET if vector[f"letter{place}.{letter}"])
        assert read == who.letters and 2 <= len(read) <= 3
        assert sum(vector[f"mole{place}.there"] for place in range(3)) == len(who.moles) >= 1
        assert all(0 <= channel <= 1 for name in COLOURS for channel in who[name])
        assert abs(luminance(who["letter_colour"]) - luminance(who["cloth"])) > 0.25


def test_every_choice_occurs():
    seen = Counter((name, identity(seed)[name]) for seed in range(400) for name in CHOICES)
    assert all(seen[name, option] >= 8 for name, options in CHOICES.items() for option in options)


def test_the_same_person_elsewhere():
    """Above the neck nothing but the light is another; below it and behind, everything is."""
    for seed in range(12):
        who = identity(seed)
        there, again, elsewhere = who.in_scene(1), who.in_scene(1), who.in_scene(2)
        assert (there.vector == again.vector).all() and there.light == again.light != elsewhere.light
        assert there.moles == who.moles and all(there[name] == who[name] for name in who.traits if name not in SCENE)
        assert there["cloth"] != who["cloth"] != elsewhere["cloth"] and there["background"] != elsewhere["background"]
        unlit = replace(there, light=(1.0, 1.0, 1.0))
        face = slice(22, 34), slice(28, 36)
        assert np.abs(picture(unlit) - picture(who))[face].max() < 0.01
        assert np.abs(picture(there) - picture(unlit) * np.array(there.light)).max() < 0.01
        assert np.abs(picture(unlit) - picture(who))[:4].mean() > 0.02
        world = statistics(np.zeros((4, len(STATE)), np.float32), 64)
        face_error, scene_error = face_and_scene_error(true_embedding(there, world), true_embedding(who, world))
        assert face_error == 0 and scene_error > 0.4


# ---------------------------------------------------------------- how they move

def test_any_window_of_a_take_is_the_same_frames(world):
    take = world.take(3)
    whole = take.frames(np.arange(-20, 40))
    assert torch.equal(whole[35:45], take.frames(np.arange(15, 25)))
    assert torch.equal(whole[[50, 5, 30]], take.frames(np.array([30, -15, 10])))
    assert (take.waveform(-20, 60)[55 * 640:] == take.waveform(35, 5)).all()


def test_motion_is_smooth_never_rests_and_never_repeats():
    for seed in range(6):
        moved = motion(seed, np.arange(0, 120, 1 / 25))
        assert moved.shape == (3000, len(MOTION)) and np.isfinite(moved).all()
        named = dict(zip(MOTION, moved.T, strict=True))
        slow = np.stack([named[name] for name in ("head_x", "head_y", "sway", "turn", "nod", "head_tilt")])
        scale = slow.std(1)
        assert (np.abs(np.diff(slow, axis=1)).max(1) < 0.8 * scale).all()        # nothing jumps
        assert (np.abs(np.diff(slow, 2, axis=1)).max(1) < 0.3 * scale).all()     # nothing jitters
        assert (slow.reshape(6, 60, 50).std(2).mean(1) > 0.3 * scale).all()      # something moves in every two seconds
        x = named["head_x"] - named["head_x"].mean()
        assert max(np.dot(x[:-lag], x[lag:]) / np.dot(x, x) for lag in range(75, 1500)) < 0.6
        assert 5 <= (np.diff(named["blink"] > 0.5) & (named["blink"][1:] > 0.5)).sum() <= 60
        assert 0 <= named["blink"].min() and named["blink"].max() > 0.95 and np.abs(named["expression"]).max() <= 1


def test_louder_the_head_moves_further_and_the_rest_does_not_care():
    moved = motion(3, np.arange(0, 20, 1 / 25))
    quiet, loud = (with_speech(moved, np.full(len(moved), level)) for level in (0.0, 1.0))
    far = {name: (loud[:, column] - (name == "head_scale")).std() / (quiet[:, column] - (name == "head_scale")).std()
           for column, name in enumerate(MOTION)}
    for name in ("head_x", "head_y", "head_scale", "head_tilt"):
        assert far[name] == pytest.approx(1.4 / 0.6)
    assert far["turn"] > 1.5 and far["nod"] > 1.5 and np.abs(loud[:, MOTION.index("turn")]).max() <= 1
    assert all(far[name] == 1 for name in ("sway", "lean", "breath", "blink", "gaze_x", "expression"))


def test_loudness_rises_with_speech_and_falls_in_pauses(world):
    take = Take(identity(1), 1, world.tracks[0], 37)
    frames = np.arange(len(take.track.waveform) // SAMPLES_PER_FRAME)
    energy = np.square(take.waveform(0, len(frames)).reshape(len(frames), -1)).mean(1)
    loud = take.track.loudness(take.seconds(frames + take.offset_frames))
    assert 0 <= loud.min() < 0.3 and 0.7 < loud.max() <= 1 and np.abs(np.diff(loud)).max() < 0.2
    around = np.sqrt(np.convolve(np.pad(energy, 6, mode="wrap"), np.ones(13) / 13, "valid"))
    assert np.corrcoef(loud, around)[0, 1] > 0.9
    plain, talking = motion(take.seed, take.seconds(frames)), take.states(frames)[:, :len(MOTION)]
    assert np.allclose(talking, with_speech(plain, loud), atol=1e-5)


def test_random_numbers_are_even_and_independent():
    values = np.stack([uniform(5, channel, np.arange(-5000, 5000)) for channel in range(3)])
    assert np.abs(values.mean(1) - 0.5).max() < 0.02 and np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.04
    assert np.abs(np.corrcoef(values[0, 1:], values[0, :-1])[0, 1]) < 0.04


# ---------------------------------------------------------------- how they look

def test_each_parameter_is_seen_where_it_belongs():
    """Rows of the picture that change, for twenty characters at once."""
    people = [identity(seed) for seed in range(20)]
    rest = [picture(who) for who in people]

    def change(**values: float) -> np.ndarray:
        pairs = zip(people, rest, strict=True)
        return np.mean([np.abs(picture(who, **values) - base).sum((1, 2)) for who, base in pairs], 0)

    for values, top, bottom in (
            ({"mouth_open": 1}, 27, 44), ({"teeth": 1, "mouth_open": 0.3}, 27, 42), ({"blink": 1}, 15, 29),
            ({"gaze_x": 1}, 17, 29), ({"brow": 1}, 12, 26), ({"expression": 1}, 11, 40), ({"mouth_round": 1}, 27, 40),
            ({"mouth_wide": 1}, 27, 40), ({"sway": 2}, 36, 64), ({"lean": 0.05}, 36, 64), ({"breath": 1}, 36, 64)):
        rows = change(**values)
        assert rows[top:bottom].sum() > 0.97 * rows.sum() > 0.6, values
    for name, value in (("head_x", 2), ("head_y", 2), ("head_scale", 1.1), ("head_tilt", 0.2), ("turn", 1), ("nod", 1)):
        rows = change(**{name: value})
        assert rows[:46].sum() > 0.97 * rows.sum() > 5, name


def test_the_mouth_opens_as_much_as_it_is_said_to():
    people = [identity(seed) for seed in range(20)]
    closed = [picture(who) for who in people]
    seen = [np.mean([np.abs(picture(who, mouth_open=opening) - base)[27:44].sum()
                     for who, base in zip(people, closed, strict=True)]) for opening in (0.25, 0.5, 0.75, 1.0)]
    assert seen[0] > 5 and (np.diff(seen) > 0.15 * seen[-1]).all()


def letters_read(frame: np.ndarray, who: Identity) -> str:
    """Match every glyph at every place of the chest, on the share of the letters' colour over the cloth's."""
    ink, cloth = np.array(who["letter_colour"]), np.array(who["cloth"])
    share = (((frame - cloth) @ (ink - cloth)) / np.square(ink - cloth).sum()).clip(0, 1)
    left = 32 - CELL * (6 * len(who.letters) - 1) / 2
    pixel = (np.arange(64) + 0.5)
    read = ""
    for place in range(len(who.letters)):
        fit = {}
        for letter, rows in GLYPHS.items():
            dots = np.array([[row >> (4 - column) & 1 for column in range(5)] for row in rows])
            x, y = (pixel - left - 6 * CELL * place) / CELL, (pixel - 57 + 3.5 * CELL) / CELL
            across, down = (x >= 0) & (x < 5), (y >= 0) & (y < 7)
            glyph = dots[np.ix_(y[down].astype(int), x[across].astype(int))]
            fit[letter] = np.corrcoef(share[np.ix_(down, across)].ravel(), glyph.ravel())[0, 1]
        read += max(fit, key=fit.get)
    return read


def test_letters_are_read_at_64_pixels():
    people = [identity(seed) for seed in range(60)]
    right = sum(letters_read(picture(who), who) == who.letters for who in people)
    assert right == len(people)


def test_moles_are_seen():
    for seed in range(60):
        who = identity(seed)
        without = Identity(seed, who.traits, (), who.letters)
        change = np.abs(picture(who) - picture(without)).max(2)
        for x, y, _ in who.moles:
            row, column = 24 + y * who["face_height"], 32 + x * who["face_width"]
            spot = change[int(row) - 1:int(row) + 2, int(column) - 1:int(column) + 2]
            assert spot.max() > 0.12, (seed, x, y)
        assert np.count_nonzero(change > 0.02) < 40 * len(who.moles)


@pytest.mark.parametrize("size", [96, 128])
def test_the_same_picture_at_every_size(size):
    for seed in range(6):
        who, scale = identity(seed), size // 32
        large = picture(who, size, mouth_open=0.6, turn=0.5).reshape(32, scale, 32, scale, 3).mean((1, 3))
        small = picture(who, 64, mouth_open=0.6, turn=0.5).reshape(32, 2, 32, 2, 3).mean((1, 3))
        assert np.abs(large - small).mean() < 0.012 and np.abs(large - small).max() < 0.3


def test_nothing_is_cut_by_the_rectangles_it_is_drawn_in(world, monkeypatch):
    takes = [world.take(seed) for seed in range(24)]
    states = [take.states(np.arange(0, 60, 20)) for take in takes]
    bounded = [draw(take.identity, state) for take, state in zip(takes, states, strict=True)]
    monkeypatch.setattr(drawing.Stage, "pixel_range", lambda stage, edge: (0, stage.size))
    for take, state, frames in zip(takes, states, bounded, strict=True):
        difference = (draw(take.identity, state).int() - frames.int()).abs()
        assert difference.max() <= 1, (take.identity.seed, take.identity["hair"])


def test_a_tenth_of_a_pixel_is_a_tenth_of_the_change():
    who = identity(11)
    base, little, whole = picture(who), picture(who, head_x=0.1), picture(who, head_x=1.0)
    ratio = np.abs(little - base).sum() / np.abs(whole - base).sum()
    assert 0.06 < ratio < 0.16


# ---------------------------------------------------------------- batches

def test_a_batch_is_its_seed_and_index(world):
    one, again, other = world.batch(5, 0, 3, 9), world.batch(5, 0, 3, 9), world.batch(5, 1, 3, 9)
    assert one.frames.shape == (3, 9, 64, 64, 3) and one.frames.dtype == torch.uint8
    assert one.states.shape == (3, 9, len(STATE)) and one.identities.shape == (3, len(NAMES))
    assert one.waveform.shape == (3, (9 + 2 * MARGIN_FRAMES) * SAMPLES_PER_FRAME) and one.speaking.shape == (3, 9)
    for name in ("frames", "states", "identities", "speaking", "waveform"):
        assert torch.equal(getattr(one, name), getattr(again, name))
    assert not torch.equal(one.frames, other.frames) and len({take.identity.seed for take in one.takes}) == 3


def test_a_batch_agrees_with_its_takes(world):
    batch = world.batch(5, 2, 2, 9, rough=False)
    for index, (take, first) in enumerate(zip(batch.takes, batch.first, strict=True)):
        assert torch.equal(batch.frames[index], take.frames(first + np.arange(9)))
        wave = batch.waveform[index].numpy()
        inner = wave[MARGIN_FRAMES * SAMPLES_PER_FRAME:-MARGIN_FRAMES * SAMPLES_PER_FRAME]
        assert (inner == take.waveform(first, 9)).all()


def test_held_out_is_other_characters_with_other_speech(world):
    inside, outside = ([world.take(seed, held_out) for seed in range(12)] for held_out in (False, True))
    assert all(take.identity.seed in TRAINING_SEEDS for take in inside)
    assert all(take.identity.seed in HELD_OUT_SEEDS for take in outside)
    assert not {take.track.name for take in inside} & {take.track.name for take in outside}


def test_frames_sound_and_mouth_are_on_one_clock(world):
    """In a take that begins in the middle of its track, the mouth still opens with the waveform's energy."""
    take = Take(identity(1), 1, world.tracks[0], 37)
    frames = len(take.track.waveform) // SAMPLES_PER_FRAME
    energy = np.sqrt(np.square(take.waveform(0, frames).reshape(frames, -1)).mean(1))
    opening = take.states(np.arange(frames))[:, STATE.index("mouth_open")]
    fit = {lag: np.corrcoef(energy, np.roll(opening, lag))[0, 1] for lag in range(-3, 4)}
    assert max(fit, key=fit.get) == 0
    assert energy[~take.speaking(np.arange(frames))].max() < 0.2 * energy.max()
