"""What of a puppet can be seen, as targets of a regression and as one embedding in which distance means something.

In the embedding each of TRAITS counts the same: a number has variance one in the world, and so have the three channels
of a colour together and the probabilities of a choice together. What is not there to be seen (the scale of a pattern on
plain cloth) is 0, the world's mean: who reads cannot know it and is not asked.
"""
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .drawing import STATE, STYLES
from .identity import ALPHABET, CHOICES, COLOURS, LETTERS, MOLES, NUMBERS, SCENE, TRAINING_SEEDS, Identity, identity

OPTIONS = {name: tuple(dict.fromkeys(options)) for name, options in CHOICES.items()}
OPTIONS |= {f"letter{index}": (*ALPHABET, " ") for index in range(LETTERS)}
MEASURED = (*NUMBERS, *(f"{name}.{channel}" for name in COLOURS for channel in "rgb"))
PLACES = tuple(f"mole.{place}.{side}" for place in ("jaw", "cheek", "temple") for side in ("left", "right"))
PLACE_ENDS = (0.485, 0.67)      # of jaw and cheek, by distance from the middle, in half widths of the face
EMBEDDED = (*MEASURED, *PLACES, *(f"{name}.{option}" for name, options in OPTIONS.items() for option in options))
TRAITS = len(NUMBERS) + len(COLOURS) + MOLES + len(OPTIONS)
IN_SCENE = torch.tensor([name.split(".")[0] in SCENE or name.startswith("letter") for name in EMBEDDED])
SCENE_TRAITS = len(SCENE) + LETTERS


class Statistics(NamedTuple):
    """Mean and spread, in the world, of what is regressed: (len(MEASURED),); of the state (len(STATE),); and how
    often each mole and option is there (len(PLACES) + options,)."""
    mean: Tensor
    spread: Tensor
    state_mean: Tensor
    state_spread: Tensor
    share: Tensor


def hidden_traits(who: Identity) -> set[str]:
    """Numbers and colours that no frame of this character shows."""
    style, unseen = STYLES[who["hair"]], set()
    for absent, names in (
            (who["hair"] == "bald", ("hair_volume", "hair_length")), (style and not style.ears, ("ear_size",)),
            (who["hair"] == "bald" and who["beard"] != "full", ("hair_colour",)),
            (who["pattern"] == "plain", ("pattern_scale", "pattern_colour")),
            (who["texture"] in ("plain", "gradient"), ("texture_scale",)),
            (who["texture"] == "plain", ("texture_strength", "texture_colour")),
            (who["glasses"] == "none", ("glasses_colour",))):
        unseen |= set(names) if absent else set()
    return unseen


def measure_traits(who: Identity) -> np.ndarray:
    """(len(MEASURED),) in their own units; NaN what is hidden."""
    unseen = hidden_traits(who)
    values = [np.nan if name in unseen else who[name] for name in NUMBERS]
    values += [np.nan if name in unseen else channel for name in COLOURS for channel in who[name]]
    return np.array(values, np.float32)


def moles_there(who: Identity) -> np.ndarray:
    """(len(PLACES),) 0 or 1."""
    there: np.ndarray = np.zeros(len(PLACES), np.float32)
    for x, _, _ in who.moles:
        there[2 * np.searchsorted(PLACE_ENDS, abs(x)) + (x > 0)] = 1
    return there


def option_indices(who: Identity) -> list[int]:
    """The index of each of OPTIONS."""
    words = [who[name] for name in CHOICES] + list(who.letters.ljust(LETTERS))
    return [options.index(word) for options, word in zip(OPTIONS.values(), words, strict=True)]


def one_hot(choices: Sequence[int]) -> np.ndarray:
    return np.concatenate([np.eye(len(options), dtype=np.float32)[choice]
                           for options, choice in zip(OPTIONS.values(), choices, strict=True)])


def statistics(states: np.ndarray, people: int = 8192) -> Statistics:
    """Of the first `people` of TRAINING_SEEDS, and of `states` (N, len(STATE)) that the caller has seen."""
    everyone = [identity(seed) for seed in TRAINING_SEEDS[:people]]
    values = np.stack([measure_traits(who) for who in everyone])
    shares = np.mean([np.concatenate([moles_there(who), one_hot(option_indices(who))]) for who in everyone], 0)
    assert states.shape[1] == len(STATE)
    return Statistics(*(torch.from_numpy(np.asarray(array, np.float32)) for array in (
        np.nanmean(values, 0), np.nanstd(values, 0), states.mean(0), states.std(0), shares)))


@functools.cache
def trait_scale(share: tuple[float, ...]) -> Tensor:
    """(len(EMBEDDED),): what each column is multiplied by, so that all traits count the same."""
    scale = [1.0] * len(NUMBERS) + [3 ** -0.5] * (3 * len(COLOURS))
    moles, rest = share[:len(PLACES)], list(share[len(PLACES):])
    scale += [(MOLES / len(PLACES) / max(p * (1 - p), 1e-4)) ** 0.5 for p in moles]
    for options in OPTIONS.values():
        mine, rest = rest[:len(options)], rest[len(options):]
        scale += [(1 - sum(p * p for p in mine)) ** -0.5] * len(mine)
    return torch.tensor(scale)


def embedding(numbers: Tensor, probabilities: Tensor, world: Statistics) -> Tensor:
    """(..., len(EMBEDDED)) from standardised values (..., len(MEASURED)) and what moles and options are probable."""
    joined = torch.cat([numbers, probabilities - world.share], -1)
    return joined * trait_scale(tuple(world.share.tolist())).to(joined)


def true_embedding(who: Identity, world: Statistics) -> Tensor:
    """(len(EMBEDDED),): what a perfect reader sees."""
    numbers = ((torch.from_numpy(measure_traits(who)) - world.mean) / world.spread).nan_to_num(0)
    there = torch.from_numpy(np.concatenate([moles_there(who), one_hot(option_indices(who))]))
    return embedding(numbers, there, world)


def identity_error(embeddings: Tensor, wanted: Tensor) -> Tensor:
    """(T,): root mean square over all traits of how far each of (T, D) is from (D,) or (T, D), in the world's standard
    deviations. 0 is the same character; two strangers are a little more than 1 apart."""
    return ((embeddings - wanted).square().sum(-1) / TRAITS).sqrt()


def face_and_scene_error(embeddings: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The same over the traits of the person and over those of Identity.in_scene: two (T,)."""
    apart = (embeddings - wanted).square()
    return tuple((apart[..., where].sum(-1) / count).sqrt()
                 for where, count in ((~IN_SCENE, TRAITS - SCENE_TRAITS), (IN_SCENE, SCENE_TRAITS)))
