"""What a recipe reads: clips on disk, each with its latents and whatever else was made of it.

A clip is a mapping of memory-mapped arrays by the names in ARRAYS; a name that was not made is missing, and a recipe
that needs it says so before the first step. Latents are as the VAE made them (LATENT space), fp16; C, h, w: latent
channels, height, width; T latents of one stream, the first of them one pixel frame, 4 in each other.
"""
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor

ARRAYS: Mapping[str, str] = {
    "latents": "(C, T, h, w) the clip, encoded as one stream",
    "contexts": "(K, C, k, h, w) K pieces of it, each re-encoded from its decoded or own frames, as a take without "
                "Latent Stitch has its context",
    "context_starts": "(K,) int64: the latent of `latents` that each context's first one stands for",
    "pictures": "(P, C, h, w) frames of it, each encoded alone",
    "picture_frames": "(P,) int64: which pixel frame each is",
    "speech": "(layers, steps, width) audio features of the whole clip, `rate_hz` steps a second",
    "mask": "(1, T, h, w) 0 to 1: where the person's face is",
    "perturbed": "(C, T, h, w) the clip with its pictures spoilt, encoded as one stream",
    "text": "(tokens, width) its encoded prompt",
    "trajectory": "(levels, C, T, h, w) states of the teacher's path from noise in model space, the last one clean "
                  "(Backfill)",
    "trajectory_sigmas": "(levels,) their levels, falling from 1, the last 0",
    "given": "(C, k, h, w) clean latents that the teacher was given before a path or a pair of takes",
    "first": "() int64: the clip's latent at which a path or a pair of takes begins; 0 where it is missing",
    "winner": "(C, T, h, w) of two takes of the same speech the one that is more the person (Preference Pairs)",
    "loser": "(C, T, h, w) the other",
}


@dataclass(frozen=True)
class ClipInfo:
    """`name`: of the file that it was made from. `fps`: of its frames. `rate_hz`, `family`: of its audio features, as
    of an AUDIO_ENCODER_OUTPUT. `silent`: whether nobody speaks. `person`, `scene`: equal where two clips have the same;
    empty where not known, which equals none. `prompt`: what `text` was encoded from."""
    name: str
    fps: Fraction = Fraction(25)
    rate_hz: float = 0.0
    family: str = ""
    silent: bool = False
    person: str = ""
    scene: str = ""
    prompt: str = ""


class Clip(Protocol):
    @property
    def info(self) -> ClipInfo: ...

    def __contains__(self, name: object) -> bool:
        """Whether there is such an array."""

    def __getitem__(self, name: str) -> Tensor:
        """One array, mapped and not read; KeyError that names the clip and the array."""


class Clips(Protocol):
    """All clips of a folder, in an order that never changes. What pipelines/training/clip_store.py's ClipStore is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Clip: ...

    @property
    def digest(self) -> str:
        """Of the folder's list: a run that is resumed on other clips is refused."""


def check_arrays(clips: Clips, needed: Iterable[str], recipe: str) -> None:
    """Raises ValueError for an empty folder, and for clips that lack what a recipe needs."""
    makers = {"trajectory": "Backfill", "winner": "Preference Pairs"}
    if not len(clips):
        maker = next((makers[name] for name in needed if name in makers), "Make Training Clips")
        raise ValueError(f"clips: the folder has none for {recipe}. {maker} makes them")
    for name in needed:
        lacking = [index for index in range(len(clips)) if name not in clips[index]]
        if lacking:
            maker = makers.get(name, "Make Training Clips")
            raise ValueError(f"clips: {len(lacking)} of {len(clips)} have no {name} ({ARRAYS[name]}), which {recipe} "
                             f"needs; the first is {clips[lacking[0]].info.name!r}. Make them with {maker}")


def speaking(clips: Clips) -> Sequence[int]:
    """The clips in which somebody speaks."""
    return [index for index in range(len(clips)) if not clips[index].info.silent]
