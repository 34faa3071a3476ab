"""The puppet's world: takes of drawn characters that talk, every frame's true parameters known.

A take is an identity, a seed of motion and a place in a voice's track. It has no beginning and no end; any frames of it
can be drawn, its waveform cut, its state read. `python -m training.puppet.world --preview OUT.png` lets you look.
"""
import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import preview
from .corpus import HELD_OUT, corpus_folder
from .drawing import draw
from .identity import HELD_OUT_SEEDS, TRAINING_SEEDS, Identity, identity
from .motion import motion, with_speech
from .speech import SAMPLE_RATE, Track, load_tracks, roughen

FPS, SAMPLES_PER_FRAME = 25, SAMPLE_RATE // 25
MARGIN_FRAMES = 8  # of waveform on both sides of a batch's frames: audio slots reach beyond them


@dataclass(frozen=True, eq=False)
class Take:
    """`offset_frames`: where in the track frame 0 of the take is."""
    identity: Identity
    seed: int
    track: Track
    offset_frames: int = 0

    def seconds(self, frames: np.ndarray) -> np.ndarray:
        return (np.asarray(frames) + 0.5) / FPS

    def states(self, frames: np.ndarray) -> np.ndarray:
        """(T,) frame numbers, in any order, to (T, len(drawing.STATE)) float32: the middle of each frame's time."""
        seconds = self.seconds(np.asarray(frames) + self.offset_frames)
        moving = with_speech(motion(self.seed, self.seconds(frames)), self.track.loudness(seconds))
        talking = self.track.mouth(seconds)
        return np.concatenate([moving, talking], 1).astype(np.float32)

    def frames(self, frames: np.ndarray, size: int = 64) -> Tensor:
        """(T,) frame numbers to (T, size, size, 3) uint8."""
        return draw(self.identity, self.states(frames), size)

    def speaking(self, frames: np.ndarray) -> np.ndarray:
        """(T,) booleans: False in the pauses."""
        return self.track.speaking(self.seconds(np.asarray(frames) + self.offset_frames))

    def waveform(self, first_frame: int, frames: int) -> np.ndarray:
        """(frames * SAMPLES_PER_FRAME,) float32 at SAMPLE_RATE and -23 LUFS."""
        return self.track.window((self.offset_frames + first_frame) * SAMPLES_PER_FRAME, frames * SAMPLES_PER_FRAME)


@dataclass(frozen=True, eq=False)
class Batch:
    """`frames` (B, T, H, W, 3) uint8; `states` (B, T, len(STATE)) and `identities` (B, len(NAMES)) float32; `speaking`
    (B, T) bool; `waveform` (B, (T + 2 * MARGIN_FRAMES) * SAMPLES_PER_FRAME) float32, MARGIN_FRAMES more on each side;
    `takes` draw any other frame (frame `first` of a take is the batch's first): a reference, what came before."""
    takes: tuple[Take, ...]
    first: np.ndarray
    frames: Tensor
    states: Tensor
    identities: Tensor
    speaking: Tensor
    waveform: Tensor


class World:
    """All takes that a list of tracks allows; without one, the corpus in the cache."""

    def __init__(self, tracks: list[Track] | None = None, size: int = 64, held_out: int = HELD_OUT):
        tracks = tracks or load_tracks(corpus_folder())
        cut = max(len(tracks) - held_out, 1)
        self.size, self.tracks, self.held_out_tracks = size, tracks[:cut], tracks[cut:] or tracks[:cut]

    def take(self, seed: int, held_out: bool = False) -> Take:
        """The take of a seed: who, how it moves, which voice and where in it."""
        random = np.random.default_rng([seed, 0x7A, held_out])
        people, tracks = (HELD_OUT_SEEDS, self.held_out_tracks) if held_out else (TRAINING_SEEDS, self.tracks)
        track = tracks[random.integers(len(tracks))]
        return Take(identity(people[random.integers(len(people))]), int(random.integers(1 << 62)), track,
                    int(random.integers(track.seconds * FPS)))

    def batch(self, seed: int, index: int, count: int = 8, frames: int = 49, held_out: bool = False,
              rough: bool = True) -> Batch:
        """Batch `index` of an endless row: `count` takes of `frames` frames, a new character each. `rough`: the
        waveform as recorded by some microphone, not as espeak-ng made it."""
        draws = np.random.default_rng([seed, index, 0xBA, held_out])
        takes = tuple(self.take(int(number), held_out) for number in draws.integers(1 << 62, size=count))
        first = draws.integers(0, 1 << 16, size=count)
        numbers = [start + np.arange(frames) for start in first]
        waves = [take.waveform(start - MARGIN_FRAMES, frames + 2 * MARGIN_FRAMES)
                 for take, start in zip(takes, first, strict=True)]
        waves = [roughen(wave, draws) for wave in waves] if rough else waves

        def stack_values(make) -> np.ndarray:
            return np.stack([make(take, number) for take, number in zip(takes, numbers, strict=True)])

        drawn = [take.frames(number, self.size) for take, number in zip(takes, numbers, strict=True)]
        identities = np.stack([take.identity.vector for take in takes])
        return Batch(takes, first, torch.stack(drawn), torch.from_numpy(stack_values(Take.states)),
                     torch.from_numpy(identities), torch.from_numpy(stack_values(Take.speaking)),
                     torch.from_numpy(np.stack(waves)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preview", type=Path, required=True, help="OUT.png: characters; OUT.mp4: one that talks")
    parser.add_argument("--corpus", type=Path, default=corpus_folder())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    world = World(load_tracks(options.corpus), options.size)
    if options.preview.suffix == ".mp4":
        preview.film(world.take(options.seed), options.preview, options.size, round(options.seconds * FPS))
    else:
        preview.sheet([world.take(options.seed + index) for index in range(24)], options.preview, options.size)
    print(options.preview)


if __name__ == "__main__":
    main()
