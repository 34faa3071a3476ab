"""What lies on surfaces: the background, the patterns of cloth, the letters on the chest in a small font of its own."""
import functools
import math

import torch
from torch import Tensor

from .identity import Identity

CANVAS = 64.0
GLYPHS = {  # five dots by seven, a row per number
    "A": (14, 17, 17, 31, 17, 17, 17), "C": (15, 16, 16, 16, 16, 16, 15), "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16), "H": (17, 17, 17, 31, 17, 17, 17), "J": (7, 1, 1, 1, 1, 17, 14),
    "K": (17, 18, 20, 24, 20, 18, 17), "L": (16, 16, 16, 16, 16, 16, 31), "M": (17, 27, 21, 21, 17, 17, 17),
    "N": (17, 25, 25, 21, 19, 19, 17), "P": (30, 17, 17, 30, 16, 16, 16), "R": (30, 17, 17, 30, 20, 18, 17),
    "S": (15, 16, 16, 14, 1, 1, 30), "T": (31, 4, 4, 4, 4, 4, 4), "U": (17, 17, 17, 17, 17, 17, 14),
    "V": (17, 17, 17, 17, 10, 10, 4), "W": (17, 17, 17, 21, 21, 27, 17), "X": (17, 17, 10, 4, 10, 17, 17),
    "Y": (17, 17, 10, 4, 4, 4, 4), "Z": (31, 1, 2, 4, 8, 16, 31)}
CELL = 1.45  # one dot of the chest's letters


@functools.lru_cache(256)
def glyph_sheet(letters: str) -> Tensor:
    """(1, 1, 7, n) of ink, one column free between letters."""
    columns = [[[row >> (4 - place) & 1 for place in range(5)] for row in GLYPHS[letter]] for letter in letters]
    sheet = torch.tensor(columns, dtype=torch.float32)
    return torch.nn.functional.pad(sheet, (0, 1)).permute(1, 0, 2).reshape(1, 1, 7, -1)[..., :-1]


@functools.lru_cache(256)
def background(identity: Identity, size: int) -> Tensor:
    """(3, size, size): it never moves."""
    row = ((torch.arange(size) + 0.5) * CANVAS / size)[:, None]
    column = row.T
    alpha = pattern(identity["texture"], column, row, identity["texture_scale"], size / CANVAS)
    alpha = alpha.expand(size, size) * identity["texture_strength"]
    first, second = (torch.tensor(identity[name]).view(3, 1, 1) for name in ("background", "texture_colour"))
    return first + (second - first) * alpha


def pattern(kind: str, u: Tensor, v: Tensor, scale: float, density: float) -> Tensor:
    """How much of the second colour there is, 0..1."""
    k, sharp = 2 * math.pi / scale, density * scale / (2 * math.pi)
    if kind == "gradient":
        return (v / CANVAS + 0 * u).clamp(0, 1)
    wave = {"plain": lambda: torch.full((), -1.0) + 0 * (u + v), "stripes": lambda: torch.cos(k * u) + 0 * v,
            "bands": lambda: torch.cos(k * v) + 0 * u, "diagonal": lambda: torch.cos(0.7 * k * (u + v)),
            "waves": lambda: torch.cos(k * (v + 0.18 * scale * torch.cos(0.8 * k * u))),
            "dots": lambda: torch.cos(k * u) + torch.cos(k * v) - 0.75,
            "checks": lambda: torch.cos(0.7 * k * u) * torch.cos(0.7 * k * v) * 1.4}[kind]()
    return (wave * sharp + 0.5).clamp_(0, 1)
