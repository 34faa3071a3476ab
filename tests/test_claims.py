"""The claims' harness: statistics on constructed numbers, what each condition lays out, verdicts, and a small run of
all of it with random weights and a VAE of averages."""
import argparse
import importlib
import re
import sys
import types
from fractions import Fraction
from pathlib import Path
from time import process_time

import numpy as np
import pytest
import torch
from averages import Averages
from lodestar.pipelines.headless import longcat_sampling as headless
from lodestar.training.puppet import face_probe
from lodestar.training.puppet.drawing import STATE
from lodestar.training.puppet.export import weights_file
from lodestar.training.puppet.network import puppet
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.traits import statistics
from lodestar.training.puppet.world import World
from PIL import Image
from safetensors.torch import save_file

pytestmark = pytest.mark.once

(claims_conditions, claims_measures, claims_page, claims_pictures, claims_run, claims_statistics, claims_takes,
 claims_verdicts, claims_reference) = (
     importlib.import_module(f"lodestar.experiments.claims.{name}") for name in (
         "conditions", "measures", "page", "pictures", "run", "statistics", "takes", "verdicts", "reference_claims"))
CONDITIONS = claims_conditions.CONDITIONS
CLAIMS = claims_reference.ALL_CLAIMS
ALL = {name for claim in CLAIMS for name in claim.conditions}


@pytest.fixture(scope="module")
def world():
    return World(load_tracks(Path(__file__).parent / "golden" / "puppet"), held_out=1)


@pytest.fixture(scope="module")
def players(world):
    return claims_takes.cast(world, Averages(), 2, 3, silent=False)


# ---------------------------------------------------------------- statistics

def test_the_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(2, 1, (600, 8))
    found = [claims_statistics.interval(row, 500) for row in draws]
    assert 0.92 < np.mean([one.low < 2 < one.high for one in found]) < 0.98
    assert all(one.low < one.value < one.high for one in found)
    assert claims_statistics.interval(draws[0], 500) == found[0]
    for freedom, quantile in ((3, 3.182), (7, 2.365), (30, 2.042)):
        assert claims_statistics.student_quantile(freedom) == pytest.approx(quantile, abs=5e-4)


def test_what_is_unknown_is_left_out():
    assert claims_statistics.interval(np.array([1, np.nan, 1, 1])) == (1, 1, 1)
    assert claims_statistics.interval(np.array([1, np.nan, 3])) == (2, -np.inf, np.inf)     # two say nothing
    assert np.isnan(claims_statistics.interval(np.array([np.nan])).value)


def test_slopes_are_of_least_squares_and_skip_what_is_unknown():
    x = np.array([0.0, 0.5, 1.0, 2.0])
    lines = np.stack([3 * x + 1, np.where(x == 1, np.nan, -2 * x), np.where(x > 0, np.nan, x), [0, 1, 0, 0]])
    found = claims_statistics.slopes(x, lines)
    assert found[:2] == pytest.approx([3, -2]) and np.isnan(found[2])
    assert found[3] == pytest.approx(np.polyfit(x, [0, 1, 0, 0], 1)[0])


@pytest.mark.parametrize("late", [-3, 0, 2, 8])
def test_a_mouth_that_is_late_has_that_lag(late):
    true = np.random.default_rng(0).normal(size=(4, 20 + 16))
    seen = 0.3 * true[:, 8 - late:28 - late] + 5
    found = claims_statistics.by_lag(seen, true, 8)
    assert claims_statistics.best_lag(found) == late and found[8 + late] == pytest.approx(1)
    assert np.isnan(claims_statistics.best_lag(claims_statistics.by_lag(np.zeros((1, 5)), np.zeros((1, 21)), 8)))


# ---------------------------------------------------------------- conditions

def laid_out(name: str, players, chunk: int = 1):
    """(pictures, times, visibility) of a chunk's call."""
    known = torch.zeros(2, 16, 4 if chunk else 1, 8, 8)
    asked = claims_takes.request(CONDITIONS[name], players, chunk, known, 9 * chunk, 13)
    return headless.arrange_sequence(asked, 13, known.shape[2])[:3]


@pytest.mark.parametrize(("name", "time"), [
    ("plain", 10), ("ahead 4", 13), ("ahead 8", 14), ("ahead 12", 15), ("ahead 24", 18), ("ahead 48", 24),
    ("ahead 80", 32), ("past", -2), ("end", 12), ("start", 0), ("middle", 8), ("fixed", 15), ("sonic", 10),
    ("used only", 15), ("neither", 15), ("encoded, silence guided", 15)])
def test_where_the_reference_stands(name, time, players):
    for chunk in (0, 1, 2):
        pictures, times, visibility = laid_out(name, players, chunk)
        assert times == (time, *range(13)) and len(pictures) == 1 and pictures[0] is players.picture
        assert all(query > 0 and key > 0 or weight == 0 for (query, key), weight in visibility.items())


def test_without_a_reference_there_is_none(players):
    for name in ("none", "used only, none", "neither, none"):
        assert laid_out(name, players)[:2] == ([], tuple(range(13)))


def test_the_skip_hides_the_reference_from_the_middle_alone(players):
    hidden = {query - 1 for (query, key), weight in laid_out("skip", players)[2].items() if key == 0}
    assert hidden == {7, 8, 9}
    assert [4 * (latent - 4) for latent in (7, 10)] == [claims_measures.NEAR.start, claims_measures.NEAR.stop]


def test_a_keyframe_is_the_anchor_until_its_time(players):
    (first, smile), (second, sad), (third, grin) = players.story
    fps = Fraction(25)
    assert [float(time * 4) for time in (first, second, third)] == pytest.approx(
        [players.frames / 25, players.frames / 25 * 2, players.frames / 25 * 3])
    pursued = [laid_out("story", players, chunk)[0][0] for chunk in range(3)]
    starts = [0, *(claims_conditions.first_new_frame(chunk) / fps for chunk in (1, 2))]
    for picture, start in zip(pursued, starts, strict=True):
        assert picture is next((one for time, one in players.story if time > start), players.picture)
    assert pursued[0] is smile and not torch.equal(smile, sad) and torch.equal(smile, grin)
    for time, _ in players.story:
        chunk = claims_conditions.chunk_at(time)
        assert claims_conditions.first_new_frame(chunk) < time * fps <= claims_conditions.first_new_frame(chunk + 1)


def test_audio_slots_of_the_players(players):
    talk, null = (players.speech(CONDITIONS[name], 9, 13) for name in ("ahead 12", "encoded, null"))
    assert talk.shape == null.shape == (2, 1, 49, 5, 5, 16) and not null.any()
    assert torch.equal(talk[:, 0, 3, 2], players.audio[:, 2 + 4 * 9 + 3])


def test_only_what_a_condition_names_differs():
    assert set(CONDITIONS) == ALL and len({condition.label for condition in CONDITIONS.values()}) == len(CONDITIONS)
    weights = {name: condition.weights for name, condition in CONDITIONS.items() if condition.weights != "puppet"}
    configs = Path(claims_run.HERE.parents[1] / "training" / "puppet" / "configs")
    assert {path.stem for path in configs.glob("*.json")} == {"puppet", *weights.values()}
    assert {condition.audio_scale for condition in CONDITIONS.values()} == {1.0, claims_conditions.GUIDED}
    with pytest.raises(ValueError, match="wanted one of"):
        claims_conditions.Condition("x", context="stich")


def test_chunks_cover_the_take_and_the_same_ones_are_looked_at():
    for seconds in (1, 20, 60):
        chunks = claims_conditions.chunks_for(seconds)
        frames = [claims_conditions.TIMELINE.frames_for_latents(9 * count + 4) for count in (chunks - 1, chunks)]
        assert frames[1] >= seconds * 25 > frames[0]
    assert claims_conditions.chunks_to_measure(9, 4) == (0, 4, 8)
    assert claims_conditions.chunks_to_measure(8, 4, (Fraction(120, 25),)) == (2, 3, 7)


# ---------------------------------------------------------------- takes

def test_sonics_windows_tile_the_take_at_every_step(players, monkeypatch):
    seen: list[list[int]] = []

    def one(network, x, sigmas, asked):
        seen.append([round(float(sigmas[0]), 4), x.shape[2], asked.audio.shape[2]])
        return x + 1

    monkeypatch.setattr(claims_takes, "sample", one)
    made = claims_takes.make_take(None, Averages(), CONDITIONS["sonic"], players)
    assert torch.allclose(made, claims_takes.noise(players, 0, players.latents) + claims_takes.STEPS, atol=1e-5)
    steps = [[window[1] for window in seen if window[0] == sigma] for sigma in dict.fromkeys(one[0] for one in seen)]
    assert len(steps) == 8 and all(sum(windows) == players.latents for windows in steps)
    assert steps[0] != steps[1] and max(map(max, steps)) == 13
    assert all(window[2] == 4 * window[1] - 3 for window in seen)


@pytest.mark.parametrize("name", ["ahead 12", "neither"])
def test_chunks_continue_as_their_condition_says(name, players, monkeypatch):
    known = []

    def one(network, x, sigmas, asked):
        known.append(asked.conditioning)
        return torch.cat([asked.conditioning, x[:, :, asked.conditioning.shape[2]:].clamp(0, 1)], 2)

    monkeypatch.setattr(claims_takes, "sample", one)
    made = claims_takes.make_take(None, Averages(), CONDITIONS[name], players)
    assert made.shape[2] == players.latents and known[0] is players.picture
    for chunk, context in enumerate(known[1:], 1):
        tail = made[:, :, 9 * chunk:9 * chunk + 4]
        wanted = tail if name == "ahead 12" else claims_takes.re_encode(Averages(), made[:, :, :9 * chunk + 4])
        assert torch.allclose(context, wanted, atol=1e-6) and context.shape[2] == 4
        assert torch.allclose(made[:, :, 9 * chunk + 4:9 * chunk + 13],
                              claims_takes.noise(players, chunk)[:, :, 4:].clamp(0, 1))


def test_frames_of_a_chunk_are_those_of_the_truth(players):
    true = torch.stack([take.frames(np.arange(players.frames)) for take in players.takes])
    latents = Averages().encode(true)
    whole = Averages().decode(latents)
    for chunk in range(players.chunks):
        numbers = claims_measures.numbers(chunk)
        found = claims_takes.frames_of_chunk(Averages(), latents, chunk)
        assert torch.equal(found, whole[:, numbers])
        assert torch.equal(found, claims_takes.true_frames_of_chunk(Averages(), players, chunk, 64))


def test_what_was_made_is_kept(tmp_path):
    calls = []

    def make():
        calls.append(1)
        while process_time() < began + 0.1 * len(calls):
            pass
        return {"x": torch.arange(3.0)}

    began = process_time()

    for key in (("a", 1), ("a", 1), ("a", 2)):
        found, seconds = claims_takes.load_or_make(tmp_path, key, make)
        assert torch.equal(found["x"], torch.arange(3.0)) and seconds == pytest.approx(0.1, abs=0.09)
    assert len(calls) == 2 and not list(tmp_path.glob("*.part"))


# ---------------------------------------------------------------- figures and verdicts

def predictions_of(players, late: int = 0, expression: float = 0.15, drift: float = 0.0) -> dict:
    """Of a perfect probe that sees the truth `late` frames late, with an identity error that grows `drift` a minute."""
    chunks, opening, poses, error = (0, 1, 2), [], [], []
    for chunk in chunks:
        numbers = claims_measures.numbers(chunk)
        states = torch.from_numpy(np.stack([take.states(numbers - late) for take in players.takes]))
        opening.append(states[:, :, STATE.index("mouth_open")])
        poses.append(states[:, :, :6])
        error.append(torch.full((2, 36), 0.2 + drift * numbers.mean() / 25 / 60))
    one = torch.ones(2, 3, 36)
    return {"chunks": torch.tensor(chunks), "opening": torch.stack(opening, 1), "poses": torch.stack(poses, 1),
            "error": torch.stack(error, 1), "expression": expression * one, "letters": one.bool(), "sharpness": one,
            "colour": torch.zeros(2, 3), "background": torch.zeros(2, 3), "reference": torch.zeros(2, 6)}


def test_figures_of_predictions_that_are_known(players):
    found = claims_measures.figures(predictions_of(players, 2, 0.55, 3.0), players, (0, 2))
    assert set(found) == set(claims_measures.FIGURES)
    assert found["lag"].tolist() == [2, 2] and found["identity_slope"] == pytest.approx([3, 3], abs=1e-4)
    assert found["arrival"] == pytest.approx([(0.5 - 0.5 + 0.5) / 3] * 2)      # two keyframes smile, one is sad
    assert found["sync"].max() < 0.95 < claims_measures.figures(predictions_of(players), players, (0, 2))["sync"].min()


def test_verdicts_say_yes_partly_and_no():
    check = claims_verdicts.Check("less", "identity", ("a",), ("b",), 0.5)
    other = claims_verdicts.Check("more", "sync", ("b",), ("a",), margin=0.05)
    claim = claims_verdicts.Claim(0, "", "", (check, other))
    spread = np.linspace(-0.01, 0.01, 8)

    def word(identity: float, sync: float) -> str:
        return claims_verdicts.judge_claim(claim, {"a": {"identity": identity + spread, "sync": sync + spread},
                                              "b": {"identity": np.ones(8), "sync": np.full(8, 0.5)}})[0]

    assert [word(0.4, 0.48), word(0.6, 0.48), word(0.4, 0.4), word(0.6, 0.4)] == ["yes", "partly", "partly", "no"]
    assert claims_verdicts.judge_claim(claim, {"a": {}})[0] == "not measured"
    unsure = claims_verdicts.judge_claim(claim, {name: {"identity": np.linspace(-1, 1, 8), "sync": spread}
                                            for name in "ab"})[1][0]
    assert unsure.holds is None and "not shown" in str(unsure)


def test_who_does_nothing_reproduces_nothing():
    """The same take under all conditions, and takes that differ by next to nothing."""
    draw = np.random.default_rng(0)
    take = {name: draw.normal(0.3, 0.2, 8) for name in claims_measures.FIGURES} | {"arrival": np.zeros(8)}
    for level in (0, 1e-3):
        found = {name: {figure: values + level * draw.random() for figure, values in take.items()} for name in ALL}
        found["none"]["identity_slope"] = -np.ones(8)       # half of it is more than it is
        for claim in CLAIMS:
            carried = [one for one in claims_verdicts.judge_claim(claim, found)[1] if one.holds and not one.check.keeps]
            assert all("none" in one.check.conditions for one in carried), claim.title
        assert claims_verdicts.judge_claim(claims_verdicts.CLAIMS[0], found)[0] == "no"


def test_a_trend_follows_the_distance():
    rising = {f"ahead {frames}": {"dynamics": np.log2(frames) + np.zeros(3)} for frames in claims_conditions.DISTANCES}
    for sign in (1, -1):
        assert claims_verdicts.Trend("", "dynamics", sign).advantage(rising) == pytest.approx([sign] * 3)


def test_the_page_keeps_what_was_written_by_hand(tmp_path):
    path = tmp_path / "docs" / "claims.md"
    claims_page.write_part(path, "first\n")
    path.write_text("by hand\n" + path.read_text() + "after\n")
    claims_page.write_part(path, "second\n")
    text = path.read_text()
    assert "first" not in text and text.startswith("by hand\n") and "second\n" in text and text.endswith("after\n")


def test_a_plot_alone_has_a_page_half_as_wide():
    plot = claims_pictures.Plot("a", "b", "c", (claims_pictures.Curve("d", [0, 1], [0, 1], [0, 1], [0, 1]),))
    one, two = (claims_pictures.draw_plots([plot] * count) for count in (1, 2))
    assert one.shape[0] == two.shape[0] and 0.5 <= one.shape[1] / two.shape[1] < 0.55
    assert torch.equal(one[:, :-40], two[:, :one.shape[1] - 40])


# ---------------------------------------------------------------- all of it

def test_a_small_run_with_random_weights(tmp_path, monkeypatch, world, capsys):
    torch.manual_seed(0)
    network, probe = puppet(), face_probe.FaceProbe().eval()
    for name, values in statistics(world.take(0).states(np.arange(100)), people=50)._asdict().items():
        getattr(probe, name).copy_(values)
    for name in ("puppet", "vae", "face_probe"):
        weights_file(name, tmp_path).parent.mkdir(exist_ok=True)
        weights_file(name, tmp_path).write_bytes(b"")
    save_file({name: weight + 0.02 * torch.randn_like(weight) for name, weight in network.state_dict().items()},
              weights_file("puppet", tmp_path))
    monkeypatch.setattr(claims_run, "PuppetVAE", lambda path: Averages())
    monkeypatch.setattr(claims_run, "load_tracks", lambda path: world.tracks)
    monkeypatch.setattr(face_probe, "load_face_probe", lambda path: probe)
    options = argparse.Namespace(quick=True, claims=[1, 6], characters=2, seconds=2.5, every=1, weights=tmp_path,
                                 corpus=tmp_path, kept=tmp_path / "kept", page=tmp_path / "docs" / "claims.md",
                                 workers=1, part="0/2")
    parts = []
    for options.part in ("0/2", "1/2", None):
        claims_run.run(options)
        parts.append({line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ":" in line})
    assert not parts[0] & parts[1] and parts[0] | parts[1] == parts[2] > {"none", "used only"}
    text = options.page.read_text()
    assert "`python -m experiments.claims --quick --claims 1 6 --characters 2 --seconds 2.5 --every 1`" in text
    assert "## 6. Stitched latents, trained and used, against a hand-over that is only used, or re-encoded: not meas" \
        in text
    assert re.search(r"; \d+ minutes on \d+ cores, .*; \d+ minutes of processor time, ", text)
    assert text.count("| 1 |") == 1 and "- no take of: stitching not trained, used" in text
    for name in ("claims_drift", "claims_strip"):
        path = options.page.parent / "images" / f"{name}.png"
        assert path.stat().st_size <= 100_000 and Image.open(path).width > 400
    assert len(list(options.kept.iterdir())) == 3 + 4   # takes, and what was seen in them and in the truth
    monkeypatch.setattr(claims_run, "make_take", None)       # what was made is not made again
    claims_run.run(options)
    assert "used only: no weights" in capsys.readouterr().out


@pytest.mark.parametrize("begun_as", [None, types.SimpleNamespace(name="script")], ids=["file", "module"])
def test_parts_are_made_side_by_side_and_a_failure_is_reported(tmp_path, monkeypatch, begun_as):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", begun_as)
    script = tmp_path / "script.py"
    script.write_text("import os, pathlib, sys\n"
                      f"pathlib.Path({str(tmp_path)!r}, sys.argv[-1].replace('/', '_')).touch()\n"
                      "assert int(os.environ['OMP_NUM_THREADS']) >= 1 and '--fail' not in sys.argv\n")
    monkeypatch.setattr(sys, "argv", [str(script), "--quick"])
    claims_run.share_takes(2)
    assert {path.name for path in tmp_path.glob("*_2")} == {"0_2", "1_2"}
    monkeypatch.setattr(sys, "argv", [str(script), "--fail"])
    with pytest.raises(SystemExit, match="what was made is kept"):
        claims_run.share_takes(2)


def test_every_take_is_in_one_part_and_the_long_ones_are_spread():
    names = claims_run.select_conditions(CLAIMS)
    parts = [claims_run.part_of(names, part, 2) for part in range(2)]
    assert not set(parts[0]) & set(parts[1]) and parts[0] | parts[1] == names and set(names) == ALL
    assert [[CONDITIONS[name].context == "re-encode" for name in part].index(True) for part in parts] == [0, 0]
    assert {name for name, with_story in names.items() if with_story} == {"story", claims_verdicts.AHEAD}
