"""What a puppet says: a waveform with its phonemes, the mouth that makes them, and the pauses between.

Phonemes are IPA with exact start samples (corpus.py asks espeak-ng for them). Each letter has a viseme; neighbours
blend by weight (lips that must close win), which is Cohen and Massaro's dominance model with one kernel for all.
"""
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

SAMPLE_RATE, TRACK_HZ, BLEND_SECONDS, LEAD_SECONDS, LOUDNESS_SECONDS = 16_000, 200, 0.11, 0.015, 0.5
MOUTH = ("mouth_open", "mouth_wide", "mouth_round", "teeth")
VISEMES = {  # (open 0..1, wide -1..1, round 0..1, teeth 0..1), weight, the phonemes
    "rest": ((0.00, 0.0, 0.00, 0.0), 1.0, " "),
    "lips": ((0.00, 0.1, 0.10, 0.0), 5.0, "pbmɓɱ"),
    "bite": ((0.14, 0.2, 0.00, 1.0), 3.0, "fvʋɸβ"),
    "tongue": ((0.22, 0.2, 0.00, 0.6), 1.0, "θðtdnlɾɹrɫʈɖɳɭɬɮɗ"),
    "hiss": ((0.16, 0.5, 0.00, 1.0), 1.6, "szɕʑ"),
    "hush": ((0.22, -0.4, 0.65, 0.9), 1.8, "ʃʒʂʐ"),
    "back": ((0.28, 0.0, 0.00, 0.2), 0.6, "kɡgŋxɣχʁhɦʔqħʕɴʀɰcɟɲʎçʝʛ"),
    "glide": ((0.20, 0.8, 0.00, 0.7), 1.0, "jɥ"),
    "spread": ((0.26, 1.0, 0.00, 0.8), 1.6, "iɪɨ"),
    "mid": ((0.52, 0.6, 0.00, 0.5), 1.6, "eɛɘ"),
    "wide": ((1.00, 0.2, 0.00, 0.25), 1.6, "aæɐʌɑɶɒ"),
    "slack": ((0.38, 0.0, 0.10, 0.3), 1.0, "əɜɚɝɤɵɞᵻ"),
    "oval": ((0.70, -0.5, 0.75, 0.0), 1.8, "oɔ"),
    "purse": ((0.26, -0.9, 1.00, 0.0), 2.2, "uʊwyʏøœɯʍʉ"),
}
SILENT_LETTERS = "ːˑʲʰʷˈˌˠˤʼ" + "".join(map(chr, range(0x300, 0x370))) + "\u200d^-'\"?|!.1234567890"
LETTER_VISEMES = {letter: name for name, (_, _, letters) in VISEMES.items() for letter in letters}


@dataclass(frozen=True, eq=False)
class Track:
    """Minutes of one voice, whole video frames of them, that repeat for ever. `waveform`: (N,) int16 at SAMPLE_RATE, at
    -23 LUFS. `starts`: (P,) first sample of each phoneme; a phoneme is "" where nothing is said. `pauses`: (K, 2) first
    sample and end."""
    name: str
    waveform: np.ndarray
    starts: np.ndarray
    phonemes: tuple[str, ...]
    pauses: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLE_RATE

    @cached_property
    def mouth_track(self) -> np.ndarray:
        """(seconds * TRACK_HZ, 4) MOUTH, blended; what is said louder opens wider."""
        letters, starts = spell_letters(self.phonemes, self.starts, len(self.waveform))
        viseme = [VISEMES[LETTER_VISEMES.get(letter, "slack")] for letter in letters]
        moments = (np.arange(round(self.seconds * TRACK_HZ)) + 0.5) * SAMPLE_RATE / TRACK_HZ
        index = np.searchsorted(starts, moments, side="right") - 1
        weight = np.array([entry[1] for entry in viseme])[index]
        target = np.array([entry[0] for entry in viseme])[index]
        mouth = np.stack([self.blend(weight * column) for column in target.T], 1) / self.blend(weight)[:, None]
        mouth[:, 0] *= 0.6 + 0.5 * self.loud(BLEND_SECONDS).clip(0, 1.2)
        return mouth.clip(-1, 1)

    @staticmethod
    def blend(values: np.ndarray, seconds: float = BLEND_SECONDS) -> np.ndarray:
        """(N,) at TRACK_HZ, each with its neighbours, around the end to the beginning."""
        width = round(seconds * TRACK_HZ)
        kernel = np.hanning(width + 2)[1:-1] / np.hanning(width + 2).sum()
        return np.convolve(np.pad(values, (width // 2, width - 1 - width // 2), mode="wrap"), kernel, "valid")

    def loud(self, seconds: float) -> np.ndarray:
        """(seconds * TRACK_HZ,): the level over `seconds`, 1 where it is as in the loudest tenth."""
        samples = self.waveform.reshape(round(self.seconds * TRACK_HZ), -1) / 32768
        level = np.sqrt(self.blend(np.square(samples).mean(1), seconds))
        return level / max(np.quantile(level[level > 1e-3], 0.9), 1e-3) if (level > 1e-3).any() else level

    @cached_property
    def loudness_track(self) -> np.ndarray:
        return self.loud(LOUDNESS_SECONDS).clip(0, 1)

    def loudness(self, seconds: np.ndarray) -> np.ndarray:
        """(T,) times to (T,) in 0..1, over LOUDNESS_SECONDS."""
        return self.at(self.loudness_track[:, None], seconds)[:, 0]

    def mouth(self, seconds: np.ndarray) -> np.ndarray:
        """(T,) times to (T, len(MOUTH))."""
        return self.at(self.mouth_track, seconds + LEAD_SECONDS)

    @staticmethod
    def at(track: np.ndarray, seconds: np.ndarray) -> np.ndarray:
        """(N, D) at TRACK_HZ, between its entries."""
        place = seconds * TRACK_HZ - 0.5
        first, share = np.floor(place).astype(int), (place % 1)[:, None]
        return track[first % len(track)] * (1 - share) + track[(first + 1) % len(track)] * share

    def speaking(self, seconds: np.ndarray) -> np.ndarray:
        """(T,) times to (T,) booleans: False in the pauses."""
        sample = np.floor(seconds * SAMPLE_RATE) % len(self.waveform)
        index = np.searchsorted(self.pauses[:, 0], sample, side="right") - 1
        return (index < 0) | (sample >= self.pauses[index, 1])

    def window(self, first_sample: int, samples: int) -> np.ndarray:
        """(samples,) float32 in -1..1; any first sample, negative too."""
        return self.waveform[np.arange(first_sample, first_sample + samples) % len(self.waveform)] / np.float32(32768)


def spell_letters(phonemes: tuple[str, ...], starts: np.ndarray, end: int) -> tuple[list[str], np.ndarray]:
    """One letter per entry: a diphthong or affricate shares its time between its letters, "" is the letter of rest."""
    letters: list[str] = []
    places: list[float] = []
    for phoneme, first, last in zip(phonemes, starts, [*starts[1:], end], strict=True):
        known = [letter for letter in phoneme if letter not in SILENT_LETTERS] or [" "]
        letters += known
        places += [first + (last - first) * index / len(known) for index in range(len(known))]
    return letters, np.array(places)


def save_track(track: Track, path: Path) -> None:
    """A compressed .npz of plain arrays and two words of text, written whole or not at all."""
    text = np.frombuffer(json.dumps([track.name, " ".join(p or "_" for p in track.phonemes)]).encode(), np.uint8)
    partial = path.with_name(path.name + ".part")
    with open(partial, "wb") as handle:
        np.savez_compressed(handle, waveform=track.waveform, starts=track.starts.astype(np.int32),
                            pauses=track.pauses.astype(np.int32), text=text)
    partial.replace(path)


def load_track(path: Path) -> Track:
    with np.load(path) as file:
        name, phonemes = json.loads(file["text"].tobytes())
        phoneme_names = tuple("" if phoneme == "_" else phoneme for phoneme in phonemes.split(" "))
        return Track(name, file["waveform"], file["starts"], phoneme_names, file["pauses"])


def load_tracks(folder: Path) -> list[Track]:
    """All tracks of a corpus, in order of their names; ValueError where there are none."""
    paths = sorted(Path(folder).glob("*.npz"))
    if not paths:
        raise ValueError(f"corpus: no tracks in {folder}. Make them with `python -m training.puppet.corpus`")
    return [load_track(path) for path in paths]


def roughen(waveform: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """As another microphone in another room would have it: a tilted spectrum, a little more or less level, in three of
    four cases a noise floor. Silence stays exact in the fourth."""
    tilt = draw.uniform(-0.35, 0.45)
    tilted = waveform - np.float32(tilt) * np.concatenate([waveform[:1], waveform[:-1]])
    loss = (np.square(waveform).sum() + 1e-9) / (np.square(tilted).sum() + 1e-9)
    level = 10 ** (draw.uniform(-4, 4) / 20) * np.sqrt(loss)
    floor = 10 ** (draw.uniform(-75, -45) / 20) if draw.random() < 0.75 else 0.0
    return (tilted * level + floor * draw.standard_normal(len(waveform))).astype(np.float32)
