"""Makes the corpus: minutes of espeak-ng speech with exact phoneme times, `python -m training.puppet.corpus`.

Needs the shared library of espeak-ng (Debian: apt-get install espeak-ng), which nothing else here does. The same
version of it makes the same files. Sentences are put together from sentences.json.
"""
import argparse
import ctypes
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from lodestar.techniques.audio.waveform import level_loudness

from .speech import LETTER_VISEMES, SAMPLE_RATE, SILENT_LETTERS, Track, load_tracks, save_track

VOICES = ("en-us+f3", "en-us+m3", "en-gb-x-rp+f2", "en+m7", "en-gb-scotland+m1", "de+f4", "de+m4", "fr+f1", "fr+m6",
          "es+f5", "es-419+m2", "it+f2", "it+m5", "pt+f3", "nl+m8", "pl+f1", "sv+m1", "tr+f4",
          "en-us+f5", "de+m2", "es+m5")  # the last HELD_OUT are for measuring
HELD_OUT, MINUTES, STEP = 3, 2.0, 8  # samples are multiples of STEP: 13 bits, and a third less to store
PAUSES_SECONDS, SHORTEST_PAUSE_SECONDS, WHOLE = (0.3, 3.0), 0.2, SAMPLE_RATE // 25
RETRIEVAL, PHONEMES_IN_IPA, UTF8, PHONEME_EVENT = 1, 3, 1, 7
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER


class Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("unique", ctypes.c_uint), ("text_position", ctypes.c_int),
                ("length", ctypes.c_int), ("milliseconds", ctypes.c_int), ("sample", ctypes.c_int),
                ("user", ctypes.c_void_p), ("id", Id)]


class Espeak:
    """The library, speaking into arrays."""

    def __init__(self, library: str = "libespeak-ng.so.1"):
        self.library = ctypes.CDLL(library)
        self.rate = self.library.espeak_Initialize(RETRIEVAL, 0, None, PHONEMES_IN_IPA)
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
        self.receive = callback(self.receive_samples)
        self.library.espeak_SetSynthCallback(self.receive)
        self.pieces: list[bytes] = []
        self.events: list[tuple[int, str]] = []

    def receive_samples(self, samples, count: int, events) -> int:
        if samples and count:
            self.pieces.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type:
            if events[index].type == PHONEME_EVENT:
                self.events.append((events[index].sample, events[index].id.string.decode(errors="ignore")))
            index += 1
        return 0

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int, pitch_range: int):
        """(N,) float32 at self.rate, and [(first sample, phoneme)]."""
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"voice: this espeak-ng has no {voice!r}")
        for parameter, value in ((RATE, words_per_minute), (PITCH, pitch), (RANGE, pitch_range)):
            self.library.espeak_SetParameter(parameter, value, 0)
        self.pieces, self.events = [], []
        data = text.encode()
        self.library.espeak_Synth(data, len(data) + 1, 0, 1, 0, UTF8, None, None)
        self.library.espeak_Synchronize()
        return np.frombuffer(b"".join(self.pieces), np.int16).astype(np.float32) / 32768, self.events


def resample_spectrum(waveform: np.ndarray, rate: int) -> np.ndarray:
    """(N,) at `rate` to SAMPLE_RATE by cutting its spectrum, exact for what is silent at both ends."""
    seconds_exact = math.gcd(rate, SAMPLE_RATE)
    step = rate // seconds_exact
    padded = np.pad(waveform, (0, -len(waveform) % step + step))
    count = len(padded) * SAMPLE_RATE // rate
    spectrum = np.fft.rfft(padded)[:count // 2 + 1]
    return (np.fft.irfft(spectrum, count) * (count / len(padded))).astype(np.float32)


def sentence(parts: list[list[str]], draw: np.random.Generator) -> str:
    """One from each column of a language; now and then a question, an exclamation or a number."""
    words = " ".join(column[draw.integers(len(column))] for column in parts)
    number = f", {draw.integers(2, 1000)}" if draw.random() < 0.15 else ""
    return words + number + draw.choice([".", ".", ".", "?", "!"])


def make_track(espeak: Espeak, voice: str, parts: list[list[str]], seconds: float, seed: int) -> Track:
    """`seconds` or a little more of one voice: one to three sentences, a pause, and so on; rate and pitch wander. Each
    pause ends with a video frame."""
    draw = np.random.default_rng([seed, 0x5A])
    pieces, starts, phonemes, done = [], [], [], 0
    while done < seconds * SAMPLE_RATE:
        text = " ".join(sentence(parts, draw) for _ in range(draw.integers(1, 4)))
        sound, events = espeak.say(text, voice, int(draw.integers(125, 215)), int(draw.integers(30, 75)),
                                    int(draw.integers(30, 80)))
        low, high = np.log(PAUSES_SECONDS)
        silent = int(np.exp(draw.uniform(low, high)) * SAMPLE_RATE)
        starts += [done + sample * SAMPLE_RATE // espeak.rate for sample, _ in events]
        phonemes += [phoneme for _, phoneme in events]
        pieces.append(resample_spectrum(sound, espeak.rate))
        done += len(pieces[-1])
        silent += -(done + silent) % WHOLE
        pieces.append(np.zeros(silent, np.float32))
        starts.append(done)
        phonemes.append("")
        done += silent
    waveform = level_loudness(torch.from_numpy(np.concatenate(pieces)), SAMPLE_RATE).numpy()
    if starts[0] > 0:
        starts, phonemes = [0, *starts], ["", *phonemes]
    kept_starts, kept = merge_phonemes(np.array(starts), phonemes, len(waveform))
    return Track(voice, (np.round(waveform * (32768 / STEP)) * STEP).clip(-32768, 32760).astype(np.int16), kept_starts,
                 kept, pauses_of(kept_starts, kept, len(waveform)))


def merge_phonemes(starts: np.ndarray, phonemes: list[str], end: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Without phonemes of no length; a nameless one shorter than 60 ms belongs to the one before, not to a pause."""
    length = np.diff([*starts, end])
    found: list[tuple[int, str]] = []
    for first, phoneme, samples in zip(starts, phonemes, length, strict=True):
        name = phoneme.strip("_:; ")
        if samples <= 0 or (found and not name and (samples < 0.06 * SAMPLE_RATE or not found[-1][1])):
            continue
        found.append((int(first), name))
    return np.array([first for first, _ in found]), tuple(name for _, name in found)


def pauses_of(starts: np.ndarray, phonemes: tuple[str, ...], end: int) -> np.ndarray:
    """(K, 2) where nothing is said for SHORTEST_PAUSE_SECONDS or longer."""
    spans = zip(starts, [*starts[1:], end], phonemes, strict=True)
    silent = [(first, last) for first, last, phoneme in spans
              if not phoneme and last - first >= SHORTEST_PAUSE_SECONDS * SAMPLE_RATE]
    return np.array(silent, np.int64).reshape(-1, 2)


def corpus_folder() -> Path:
    cache = Path(os.environ.get("LODESTAR_CACHE") or Path.home() / ".cache" / "lodestar")
    return cache.expanduser() / "puppet" / "corpus"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=corpus_folder())
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of each voice")
    parser.add_argument("--voices", nargs="*", default=VOICES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    languages = json.loads((Path(__file__).parent / "sentences.json").read_text(encoding="utf-8"))
    espeak = Espeak()
    for index, voice in enumerate(options.voices):
        parts = languages[voice.split("+")[0].split("-")[0]]
        track = make_track(espeak, voice, parts, 60 * options.minutes, index)
        save_track(track, options.out / f"{index:02d}_{voice}.npz")
    tracks = load_tracks(options.out)
    unknown = {letter for track in tracks for phoneme in track.phonemes for letter in phoneme
               if letter not in LETTER_VISEMES and letter not in SILENT_LETTERS}
    silent = sum(np.diff(track.pauses).sum() for track in tracks) / SAMPLE_RATE
    minutes = sum(track.seconds for track in tracks) / 60
    size = sum(path.stat().st_size for path in options.out.glob("*.npz")) / 1e6
    print(f"{options.out}: {len(tracks)} voices, {minutes:.1f} minutes, {silent / 60:.1f} of them pauses, {size:.0f} MB"
          + (f"; phonemes without a viseme: {' '.join(sorted(unknown))}" if unknown else ""))


if __name__ == "__main__":
    main()
