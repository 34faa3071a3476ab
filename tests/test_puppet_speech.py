"""The puppet's speech: phonemes lie on the sound that they are, the mouth does what they say, pauses are quiet."""
from pathlib import Path

import numpy as np
import pytest
from lodestar.training.puppet.corpus import merge_phonemes, pauses_of, resample_spectrum, sentence
from lodestar.training.puppet.speech import (
    LETTER_VISEMES,
    SAMPLE_RATE,
    SILENT_LETTERS,
    VISEMES,
    Track,
    load_tracks,
    roughen,
    save_track,
    spell_letters,
)

FOLDER = Path(__file__).parent / "golden" / "puppet"


@pytest.fixture(scope="module")
def tracks():
    return load_tracks(FOLDER)


def test_a_track_is_whole(tracks):
    for track in tracks:
        assert len(track.waveform) % (SAMPLE_RATE // 25) == 0 and len(track.phonemes) == len(track.starts)
        assert track.starts[0] == 0 and (np.diff(track.starts) > 0).all() and track.starts[-1] < len(track.waveform)
        letters = {letter for phoneme in track.phonemes for letter in phoneme} - set(SILENT_LETTERS)
        assert letters and letters <= set(LETTER_VISEMES)


def test_pauses_are_quiet_and_the_mouth_rests_in_them(tracks):
    for track in tracks:
        speaking = track.speaking((np.arange(len(track.waveform)) + 0.5) / SAMPLE_RATE)
        level = track.waveform / 32768
        assert 0.05 < 1 - speaking.mean() < 0.5
        assert np.square(level[~speaking]).mean() < 1e-3 * np.square(level[speaking]).mean()
        for first, end in track.pauses / SAMPLE_RATE:
            assert not track.speaking(np.array([first + 0.01, end - 0.01])).any()
            assert track.mouth(np.array([(first + end) / 2]))[0, 0] < 0.02


def test_phonemes_lie_on_their_sound(tracks):
    """A sibilant hisses from its first sample to the next phoneme's, and not 40 ms before or after."""
    inside, outside = [], []
    for track in tracks:
        sound, smooth = track.waveform / 32768, np.ones(160) / 160
        rough = np.convolve(np.diff(sound, prepend=0) ** 2, smooth, "same") + 1e-7
        hiss = rough / (np.convolve(sound ** 2, smooth, "same") + 1e-6)
        for index, phoneme in enumerate(track.phonemes[:-1]):
            around = set(track.phonemes[index - 1] + track.phonemes[index + 1])
            if phoneme[:1] in ("s", "ʃ") and not around & set("szʃʒtç"):
                first, end = track.starts[index:index + 2]
                inside.append(hiss[first + 320:end - 320].mean())
                outside.append(hiss[[first - 640, end + 640]].mean())
    assert len(inside) >= 5 and np.median(inside) > 3 * np.median(outside)


def test_the_mouth_follows_the_speech_without_lag(tracks):
    for track in tracks:
        frames = len(track.waveform) // 640
        energy = np.sqrt(np.square(track.waveform.reshape(frames, 640) / 32768).mean(1))
        opening = track.mouth((np.arange(frames) + 0.5) / 25)[:, 0]
        fit = {lag: np.corrcoef(energy, np.roll(opening, lag))[0, 1] for lag in range(-4, 5)}
        assert max(fit, key=fit.get) == 0 and fit[0] > 0.6


def test_visemes_are_reached(tracks):
    shapes = {"lips": [], "wide": [], "purse": [], "spread": []}
    for track in tracks:
        ends = [*track.starts[1:], len(track.waveform)]
        for phoneme, first, end in zip(track.phonemes, track.starts, ends, strict=True):
            name = LETTER_VISEMES.get(phoneme[:1])
            if name in shapes and len(phoneme.strip("ː")) == 1:
                shapes[name].append(track.mouth(np.array([(first + end) / 2 / SAMPLE_RATE]))[0])
    lips, wide, spread = (np.mean(shapes[name], 0) for name in ("lips", "wide", "spread"))
    assert lips[0] < 0.12 and wide[0] > 0.5 and spread[0] < 0.35 and spread[1] > 0.5 > wide[1]


def synthetic(phonemes: tuple[str, ...]) -> Track:
    starts = np.arange(len(phonemes)) * 3200
    wave = (8000 * np.sin(np.arange(3200 * len(phonemes)) * 0.05)).astype(np.int16)
    return Track("none", wave, starts, phonemes, np.zeros((0, 2), np.int64))


def test_a_long_phoneme_is_its_viseme_and_a_diphthong_is_two():
    track = synthetic(("a", "u", "m", "aɪ"))
    middle = track.mouth((np.arange(4) * 3200 + 1600) / SAMPLE_RATE)
    for shape, name in zip(middle, ("wide", "purse", "lips"), strict=False):
        assert np.allclose(shape[1:], VISEMES[name][0][1:], atol=1e-6)
    early, late = track.mouth(np.array([0.625, 0.765]))
    assert early[0] > 2 * late[0] and early[1] < late[1]
    letters, places = spell_letters(("tʃ", "", "oː"), np.array([0, 100, 200]), 300)
    assert letters == ["t", "ʃ", " ", "o"] and places.tolist() == [0, 50, 100, 200]


def test_a_track_repeats_for_ever(tracks):
    track = tracks[0]
    times = np.linspace(0, track.seconds, 50, endpoint=False)
    assert np.allclose(track.mouth(times), track.mouth(times + 3 * track.seconds), atol=1e-6)
    assert (track.speaking(times) == track.speaking(times - track.seconds)).all()
    whole = track.window(0, len(track.waveform))
    assert (track.window(-100, 300) == np.concatenate([whole[-100:], whole[:200]])).all()


def test_a_track_survives_its_file(tracks, tmp_path):
    for track in tracks:
        save_track(track, tmp_path / "one.npz")
        again = load_tracks(tmp_path)[0]
        assert (again.name, again.phonemes) == (track.name, track.phonemes)
        for name in ("waveform", "starts", "pauses"):
            assert (getattr(again, name) == getattr(track, name)).all()
    with pytest.raises(ValueError, match="python -m training.puppet.corpus"):
        load_tracks(tmp_path / "nowhere")


def test_roughened_keeps_level_and_place(tracks):
    wave = tracks[0].window(0, 32_000)
    for seed in range(8):
        rough = roughen(wave, np.random.default_rng(seed))
        assert rough.dtype == np.float32 and rough.shape == wave.shape
        assert abs(10 * np.log10(np.square(rough).mean() / np.square(wave).mean())) < 4.5
        fit = [np.dot(np.roll(wave, lag), rough) for lag in range(-3, 4)]
        assert np.argmax(fit) == 3
    silent = [np.abs(roughen(np.zeros(1600, np.float32), np.random.default_rng(seed))).max() for seed in range(40)]
    assert 0 < np.mean(np.array(silent) == 0) < 0.5 and max(silent) < 0.05


def test_what_the_corpus_is_made_of():
    tone = np.sin(2 * np.pi * 440 * np.arange(22050) / 22050) * np.hanning(22050)
    expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000) * np.hanning(22050)[np.arange(16000) * 22050 // 16000]
    assert np.abs(resample_spectrum(tone, 22050)[:16000] - expected).max() < 2e-3
    starts, names = merge_phonemes(np.array([0, 0, 800, 1000, 5000, 9000]), ["a", "b", "", "c:", "_", ""], 12_000)
    assert names == ("b", "c", "") and starts.tolist() == [0, 1000, 5000]
    assert pauses_of(starts, names, 12_000).tolist() == [[5000, 12_000]]
    draw = np.random.default_rng(0)
    assert len({sentence([["a", "b"], ["c", "d"]], draw) for _ in range(30)}) > 4
