"""Who a puppet is: some seventy traits drawn from a seed, and the same as one flat vector with names.

Lengths are in units of a picture 64 wide, colours in 0..1. The vector (numbers as they are, choices one-hot, letters
one-hot, moles as presence and place) is what a regressor is asked to read from frames.
"""
import colorsys
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

TRAINING_SEEDS, HELD_OUT_SEEDS = range(0, 1_000_000), range(1_000_000, 1_100_000)
NUMBERS = {  # name: (low, high), uniform
    "face_width": (12.2, 15.4), "face_height": (14.4, 16.6), "face_jaw": (-0.04, 0.24), "face_square": (0.0, 0.85),
    "neck_width": (3.6, 6.0), "shoulder_width": (17.5, 25.0), "shoulder_round": (8.0, 13.0), "ear_size": (2.0, 3.2),
    "hair_volume": (0.7, 1.35), "hair_length": (0.75, 1.25),
    "eye_distance": (0.40, 0.48), "eye_height": (-2.6, 0.2), "eye_width": (2.6, 3.6), "eye_open": (2.0, 3.0),
    "eye_slant": (-0.18, 0.18), "iris_size": (1.4, 1.95),
    "brow_height": (4.0, 5.2), "brow_width": (2.4, 3.6), "brow_thickness": (0.35, 0.95), "brow_slope": (-0.15, 0.22),
    "nose_length": (1.6, 3.2), "nose_width": (0.8, 1.9), "blush": (0.0, 0.5),
    "mouth_height": (0.50, 0.58), "mouth_width": (4.6, 6.0), "lip_thickness": (0.55, 1.15),
    "pattern_scale": (4.2, 6.5), "texture_scale": (7.0, 16.0), "texture_strength": (0.25, 0.8),
}
CHOICES = {
    "hair": ("bald", "buzz", "short", "fringe", "side", "curtain", "long", "bob", "afro", "bun", "mohawk", "tails"),
    "glasses": ("none", "none", "round", "square"), "beard": ("none", "none", "none", "stubble", "full"),
    "neckline": ("round", "v", "collar"), "pattern": ("plain", "stripes", "bands", "dots", "checks"),
    "texture": ("plain", "gradient", "diagonal", "dots", "checks", "waves"),
}
BEARDED = ("bald", "buzz", "short", "side", "afro", "bun", "mohawk")  # hair that goes with a beard
COLOURS = ("skin", "hair_colour", "iris", "lip", "cloth", "pattern_colour", "letter_colour", "glasses_colour",
           "background", "texture_colour")
SCENE = ("pattern_scale", "texture_scale", "texture_strength", "neckline", "pattern", "texture", "cloth",
         "pattern_colour", "letter_colour", "background", "texture_colour")     # what is not the person
LIGHT = 0.82                # the least that is left of a channel where the light is tinted
ALPHABET, LETTERS, MOLES = "ACEFHJKLMNPRSTUVWXYZ", 3, 3
SKINS = ((0.98, 0.87, 0.78), (0.95, 0.78, 0.64), (0.87, 0.66, 0.48), (0.73, 0.51, 0.35), (0.56, 0.37, 0.25),
         (0.42, 0.27, 0.19))
HAIRS = ((0.08, 0.07, 0.09), (0.22, 0.13, 0.08), (0.42, 0.26, 0.13), (0.55, 0.20, 0.10), (0.85, 0.42, 0.14),
         (0.93, 0.78, 0.42), (0.62, 0.61, 0.62), (0.93, 0.92, 0.90), (0.86, 0.36, 0.58), (0.20, 0.42, 0.75),
         (0.18, 0.55, 0.42), (0.48, 0.28, 0.66))
IRISES = ((0.30, 0.17, 0.09), (0.48, 0.33, 0.14), (0.22, 0.48, 0.25), (0.15, 0.40, 0.72), (0.42, 0.47, 0.52),
          (0.45, 0.25, 0.55))
FRAMES = ((0.08, 0.08, 0.10), (0.42, 0.22, 0.10), (0.72, 0.12, 0.14), (0.12, 0.22, 0.58), (0.90, 0.90, 0.92),
          (0.80, 0.62, 0.20))
LIGHT_INKS = ((1.0, 1.0, 1.0), (1.0, 0.95, 0.62), (0.80, 0.97, 1.0))
DARK_INKS = ((0.06, 0.06, 0.10), (0.10, 0.08, 0.38), (0.42, 0.03, 0.10))
MOLE_PLACES, BEARDED_MOLES = ((0.60, 0.30), (0.42, 0.72), (0.74, 0.14)), ((0.55, 0.20),)  # cheek, jaw, temple; cheek

Colour = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Identity:
    """`traits` by name: numbers, choices as words, colours as (r, g, b). `moles`: (x, y, radius), x and y as shares of
    the face's half width and half height from its centre. `letters`: two or three of ALPHABET. `light`: what all
    colours are multiplied by."""
    seed: int
    traits: dict
    moles: tuple[tuple[float, float, float], ...]
    letters: str
    light: Colour = (1.0, 1.0, 1.0)

    def __getitem__(self, name: str):
        return self.traits[name]

    @cached_property
    def vector(self) -> np.ndarray:
        """(len(NAMES),) float32, in the order of NAMES."""
        values = [self[name] for name in NUMBERS]
        values += [channel for name in COLOURS for channel in self[name]]
        values += [float(self[name] == option) for name in CHOICES for option in dict.fromkeys(CHOICES[name])]
        for mole in (*self.moles, *[None] * (MOLES - len(self.moles))):
            values += [1.0, *mole] if mole else [0.0] * 4
        letters = self.letters.ljust(LETTERS)
        values += [float(letter == option) for letter in letters for option in ALPHABET]
        return np.array(values, np.float32)

    def in_scene(self, seed: int) -> "Identity":
        """The same person elsewhere: other background, clothes, letters and light; everything above the neck stays."""
        draw = np.random.default_rng([self.seed, seed, 0x5C])
        other: dict = {name: float(draw.uniform(*NUMBERS[name])) for name in SCENE if name in NUMBERS}
        other |= {name: pick(draw, CHOICES[name]) for name in SCENE if name in CHOICES}
        other |= surroundings(draw, self["skin"], self["hair_colour"])
        red, green, blue = draw.uniform(LIGHT, 1, 3).tolist()
        return replace(self, traits={**self.traits, **other}, letters=lettering(draw), light=(red, green, blue))


NAMES = (*NUMBERS, *(f"{name}.{channel}" for name in COLOURS for channel in "rgb"),
         *(f"{name}.{option}" for name in CHOICES for option in dict.fromkeys(CHOICES[name])),
         *(f"mole{index}.{part}" for index in range(MOLES) for part in ("there", "x", "y", "radius")),
         *(f"letter{index}.{letter}" for index in range(LETTERS) for letter in ALPHABET))


def identity(seed: int) -> Identity:
    """The puppet of a seed, always the same. TRAINING_SEEDS are for training, HELD_OUT_SEEDS for measuring."""
    draw = np.random.default_rng([seed, 0x1D])
    traits: dict = {name: float(draw.uniform(low, high)) for name, (low, high) in NUMBERS.items()}
    traits |= {name: options[draw.integers(len(options))] for name, options in CHOICES.items()}
    if traits["hair"] not in BEARDED:
        traits["beard"] = "none"
    if traits["beard"] == "full":
        traits["glasses"] = "none"  # some of the face must be seen
    traits |= colours(draw)
    letters = lettering(draw)
    return Identity(seed, traits, moles(draw, traits), letters)


def lettering(draw: np.random.Generator) -> str:
    return "".join(draw.choice(list(ALPHABET), draw.integers(2, LETTERS + 1)))


def colours(draw: np.random.Generator) -> dict[str, Colour]:
    """Colours that differ visibly where they meet: cloth from skin, letters from cloth, background from all."""
    tone = draw.uniform(0, len(SKINS) - 1)
    skin = jitter(draw, mix(SKINS[int(tone)], SKINS[min(int(tone) + 1, len(SKINS) - 1)], tone % 1), 0.02)
    hair = apart(draw, lambda: jitter(draw, pick(draw, HAIRS), 0.04), 0.28, skin)
    around = surroundings(draw, skin, hair)
    lipstick = (0.78, 0.12, 0.20) if draw.random() < 0.3 else (0.70, 0.30, 0.28)
    return {"skin": skin, "hair_colour": hair, "iris": jitter(draw, pick(draw, IRISES), 0.03),
            "lip": jitter(draw, mix(skin, lipstick, 0.6), 0.02), "glasses_colour": pick(draw, FRAMES), **around}


def surroundings(draw: np.random.Generator, skin: Colour, hair: Colour) -> dict[str, Colour]:
    cloth = apart(draw, lambda: hue(draw, (0.25, 0.9), (0.22, 0.95)), 0.3, skin, hair)
    background = apart(draw, lambda: hue(draw, (0.05, 0.55), (0.30, 0.97)), 0.3, skin, hair, cloth)
    ink = pick(draw, LIGHT_INKS if luminance(cloth) < 0.52 else DARK_INKS)
    pattern = apart(draw, lambda: hue(draw, (0.1, 0.9), (0.2, 1.0)), 0.3, cloth)
    texture = apart(draw, lambda: hue(draw, (0.05, 0.55), (0.30, 0.97)), 0.2, background)
    return {"cloth": cloth, "pattern_colour": pattern, "letter_colour": ink, "background": background,
            "texture_colour": texture}


def moles(draw: np.random.Generator, traits: dict) -> tuple[tuple[float, float, float], ...]:
    """One to three, in different places that neither beard nor glasses cover."""
    free = BEARDED_MOLES if traits["beard"] == "full" else MOLE_PLACES[:2 if traits["glasses"] != "none" else 3]
    places = [(side * x, y) for x, y in free for side in (-1, 1)]
    chosen = draw.permutation(len(places))[:draw.integers(1, MOLES + 1)]
    return tuple((places[index][0] + float(draw.uniform(-0.05, 0.05)),
                  places[index][1] + float(draw.uniform(-0.05, 0.05)),
                  float(draw.uniform(0.85, 1.25))) for index in sorted(chosen))


def pick(draw: np.random.Generator, palette):
    return palette[draw.integers(len(palette))]


def hue(draw: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    return colorsys.hsv_to_rgb(float(draw.random()), float(draw.uniform(*saturation)), float(draw.uniform(*value)))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (float(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def jitter(draw: np.random.Generator, colour: Colour, amount: float) -> Colour:
    red, green, blue = np.clip(np.array(colour) + draw.uniform(-amount, amount, 3), 0, 1).tolist()
    return red, green, blue


def luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def apart(draw: np.random.Generator, propose, distance: float, *others: Colour) -> Colour:
    """The first of 32 proposals that is that far from all others, else the farthest of them."""
    def nearest(colour: Colour) -> float:
        return min(float(np.linalg.norm(np.subtract(colour, other))) for other in others)

    best = propose()
    for _ in range(31):
        if nearest(best) >= distance:
            break
        best = max(best, propose(), key=nearest)
    return best
