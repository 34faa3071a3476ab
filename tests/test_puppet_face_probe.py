"""The face probe: held straight is straight, the embedding's distances mean something, and the pack's weights read
from drawn frames of characters they were not trained on what these were drawn from."""
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lodestar.pipelines.metrics.report import evaluate
from lodestar.pipelines.metrics.video_reader import Clip
from lodestar.training.puppet.drawing import HEAD_CENTRE, STATE, draw
from lodestar.training.puppet.face_probe import (
    HEAD,
    SIZE,
    WEIGHTS,
    FaceProbe,
    draw_batch,
    error,
    load_face_probe,
    straight,
)
from lodestar.training.puppet.identity import CHOICES, HELD_OUT_SEEDS, LETTERS, NUMBERS, identity
from lodestar.training.puppet.speech import SAMPLE_RATE, load_tracks
from lodestar.training.puppet.traits import (
    EMBEDDED,
    MEASURED,
    OPTIONS,
    PLACES,
    hidden_traits,
    identity_error,
    measure_traits,
    moles_there,
    option_indices,
    statistics,
    true_embedding,
)
from lodestar.training.puppet.wear import quantise, wear_pictures
from lodestar.training.puppet.world import FPS, World

CHARACTERS, MOMENTS = 24, 6


@pytest.fixture(scope="module")
def world():
    return World(load_tracks(Path(__file__).parent / "golden" / "puppet"), held_out=1)


@pytest.fixture(scope="module")
def people(world):
    """(characters, times) of held-out frames, what they are, and what the probe reads."""
    given = draw_batch(world, 5, 0, CHARACTERS, MOMENTS, held_out=True)
    return given, load_face_probe().read(given.frames.movedim(1, -1))


def correlation(first, second) -> float:
    return float(np.corrcoef(np.asarray(first).ravel(), np.asarray(second).ravel())[0, 1])


def state_of(states, name: str):
    return np.asarray(states)[:, STATE.index(name)]


def test_a_head_held_straight_looks_as_one_that_never_moved():
    who = identity(HELD_OUT_SEEDS[3])
    rest = np.zeros((1, len(STATE)), np.float32)
    rest[0, STATE.index("head_scale")] = 1
    moved = rest.copy()
    for name, value in (("head_x", 5), ("head_y", -3), ("head_tilt", 0.25), ("head_scale", 1.1)):
        moved[0, STATE.index(name)] = value

    def held(state, x, y, tilt, scale):
        frame = draw(who, state, SIZE).permute(0, 3, 1, 2).float() / 255
        inside = (-10, -10, 10, 12)      # of the face: what is around it does not move with it
        return straight(frame, inside, (44, 40), *(torch.tensor([float(value)]) for value in (x, y, tilt, scale)))

    x, y = HEAD_CENTRE
    apart = (held(rest, x, y, 0, 1) - held(moved, x + 5, y - 3, 0.25, 1.1)).abs().mean()
    unaware = (held(rest, x, y, 0, 1) - held(moved, x, y, 0, 1)).abs().mean()
    assert apart < 0.25 * unaware


def test_the_window_is_cut_at_its_place():
    row = torch.arange(SIZE) + 0.5
    places = torch.stack(torch.meshgrid(row, row, indexing="xy") + (torch.zeros(SIZE, SIZE),))[None]
    zero = torch.zeros(1)
    cut = straight(places, (-4, -2, 4, 2), (4, 8), zero + 30, zero + 20, zero, zero + 1)[0]
    assert torch.allclose(cut[0, 0], torch.arange(8) + 26.5) and torch.allclose(cut[1, :, 0], torch.arange(4) + 18.5)
    quarter = straight(places, (-2, -2, 2, 2), (4, 4), zero + 30, zero + 20, zero + torch.pi / 2, zero + 2)[0]
    assert torch.allclose(quarter[1, 0], 20 + 2 * (torch.arange(4) - 1.5), atol=1e-4)      # to its right is down
    assert HEAD[0] == -HEAD[2]


def test_every_trait_counts_the_same_in_the_embedding():
    states = np.random.default_rng(0).normal(size=(8, len(STATE)))
    statistic = statistics(states, people=1500)
    people = [identity(seed) for seed in range(20_000, 21_500)]
    everyone = torch.stack([true_embedding(who, statistic) for who in people])
    unseen = Counter(name for who in people for name in hidden_traits(who))
    assert everyone.shape[1] == len(EMBEDDED)
    variance = dict(zip(EMBEDDED, everyone.var(0).tolist(), strict=True))
    for name in NUMBERS:
        assert variance[name] == pytest.approx(1 - unseen[name] / len(people), abs=0.12), name
    for name in (*CHOICES, *(f"letter{index}" for index in range(LETTERS))):
        assert sum(variance[f"{name}.{option}"] for option in OPTIONS[name]) == pytest.approx(1, abs=0.15), name
    assert 1.1 < identity_error(everyone, everyone.roll(1, 0)).mean() < 1.45
    assert everyone.mean(0).abs().max() < 0.15


def test_what_cannot_be_seen_is_not_asked_for():
    plain = next(who for who in map(identity, range(200)) if who["pattern"] == "plain" and who["glasses"] != "none")
    unseen = {name for name, value in zip(MEASURED, measure_traits(plain), strict=True) if np.isnan(value)}
    assert {"pattern_scale", "pattern_colour.r"} <= unseen and "glasses_colour.r" not in unseen
    assert len(option_indices(plain)) == len(OPTIONS)


def test_moles_are_where_they_were_put():
    for who in map(identity, range(300)):
        there = dict(zip(PLACES, moles_there(who), strict=True))
        assert sum(there.values()) == len(who.moles)
        for x, y, _ in who.moles:
            place = "jaw" if y > 0.5 else "temple" if y < 0.2 and abs(x) > 0.67 else "cheek"
            assert there[f"mole.{place}.{'right' if x > 0 else 'left'}"] == 1


def test_wear_is_slight_and_quantising_is_rounding(world):
    frames = draw_batch(world, 5, 1, 4, 2).frames
    fine, coarse = (quantise(frames, torch.full((8, 1, 1, 1), step)) for step in (1e-4, 0.1))
    assert (fine - frames).abs().max() < 2e-3 < (coarse - frames).abs().mean() < 0.06
    assert 0.005 < (wear_pictures(frames, torch.Generator().manual_seed(0)) - frames).abs().mean() < 0.05


def test_a_batch_teaches_every_weight(world):
    probe, given = FaceProbe(), draw_batch(world, 5, 2, 8, 8)
    for name, values in statistics(given.states.numpy(), people=200)._asdict().items():
        getattr(probe, name).copy_(values)
    error(probe, given, torch.Generator().manual_seed(0)).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in probe.parameters())


def test_the_weights_are_small_and_say_where_they_come_from():
    assert WEIGHTS.stat().st_size < 1_000_000
    record = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    assert {"slices", "seed", "loss", "held_out", "held_out_worn"} <= set(record)


def test_one_character_is_near_and_strangers_are_far(people):
    given, seen = people
    apart = torch.stack([identity_error(seen.embeddings, one) for one in seen.embeddings])
    who = torch.arange(len(apart)) // MOMENTS
    same = (who[:, None] == who) & ~torch.eye(len(apart), dtype=torch.bool)
    strange = who[:, None] != who
    assert apart[same].mean() < apart[strange].mean() / 2.5
    farthest, nearest = apart[same].view(len(apart), -1).amax(1), apart[strange].view(len(apart), -1).amin(1)
    assert (farthest < nearest).float().mean() > 0.97


def test_a_frame_is_nearest_to_the_truth_of_its_own_character(people):
    given, seen = people
    truths = torch.stack([true_embedding(who, load_face_probe().world) for who in given.people[::MOMENTS]])
    nearest = torch.stack([identity_error(seen.embeddings, truth) for truth in truths]).argmin(0)
    assert torch.equal(nearest, torch.arange(CHARACTERS).repeat_interleave(MOMENTS))


def test_mouth_mood_and_head_are_read(people):
    given, seen = people
    for name, least in (("mouth_open", 0.95), ("head_x", 0.97), ("head_y", 0.95), ("head_tilt", 0.95), ("turn", 0.9),
                        ("expression", 0.85), ("blink", 0.9)):
        assert correlation(seen.state(name), state_of(given.states, name)) > least, name
    assert torch.equal(seen.openings, seen.state("mouth_open"))
    assert seen.poses.shape == (CHARACTERS * MOMENTS, 6) and seen.poses.abs().max() < 3


def test_letters_are_read_and_survive_wear(people):
    given, seen = people
    blurred = load_face_probe().read(wear_pictures(given.frames, torch.Generator().manual_seed(3)).movedim(1, -1))
    for found, least in ((seen, 0.9), (blurred, 0.8)):
        assert np.mean([word == who.letters for word, who in zip(found.letters, given.people, strict=True)]) > least


def test_other_sizes_are_looked_at_too(world):
    take = world.take(11, held_out=True)
    small, large = (load_face_probe().read(take.frames(np.arange(6), size)) for size in (64, 128))
    assert identity_error(small.embeddings, large.embeddings).max() < 0.35
    assert large.letters[0] == take.identity.letters


def test_a_take_report_of_the_puppet(world):
    take, other = world.take(3, held_out=True), world.take(4, held_out=True)
    frames = take.frames(np.arange(150))
    speech = {"waveform": torch.from_numpy(take.waveform(0, 150))[None, None], "sample_rate": SAMPLE_RATE}
    report = evaluate(Clip(frames, FPS), speech=speech, detect=load_face_probe().detect)["measures"]
    assert report["identity"]["mean"] > 0.9 and report["mouth"]["frames"] == 150
    assert abs(report["lip_sync"]["lag_frames"]) <= 1 and report["lip_sync"]["correlation"] > 0.3
    late = evaluate(Clip(frames.roll(3, 0)[3:], FPS), speech={**speech, "waveform": speech["waveform"][..., 1920:]},
                    detect=load_face_probe().detect)["measures"]["lip_sync"]
    assert late["lag_frames"] == report["lip_sync"]["lag_frames"] + 3
    swapped = torch.cat([frames[:75], other.frames(np.arange(75))])
    assert evaluate(Clip(swapped, FPS), detect=load_face_probe().detect)["measures"]["identity"]["mean"] < 0.75
