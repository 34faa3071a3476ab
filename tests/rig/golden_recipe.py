"""Weights and tensors that fixtures describe by a recipe, instead of holding them: seeded by their name, any size."""
import math
import zlib
from dataclasses import dataclass
from functools import cache

import golden
import numpy
import torch
from torch import Tensor

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0])
BLUR = TAPS[:, None] * TAPS / 64      # of mode "blur"


@cache
def draw(name: str, base: int, shape: tuple[int, ...], scale: float, offset: float, crc: int) -> Tensor:
    """One tensor, float32. ValueError where the numbers are not the recipe's."""
    state = numpy.random.RandomState((zlib.crc32(name.encode()) ^ base) & 0xffffffff)
    values = (offset + scale * (2 * state.random_sample(math.prod(shape)) - 1)).astype("<f4")
    if zlib.crc32(values.tobytes()) != crc:
        raise ValueError(f"{name}: the recipe gives other numbers here than where the fixtures were made")
    return torch.from_numpy(values).reshape(shape)


def weights(entries: dict[str, list], base: int) -> dict[str, Tensor]:
    """A group of config.json's "weights": [shape, (mode,) scale, offset, crc32] by name."""
    return {name: BLUR.clone() if "blur" in entry else draw(name, base, tuple(entry[0]), *entry[-3:])
            for name, entry in entries.items()}


@dataclass
class Family:
    """The fixtures of one family of models, whose weights are drawn by a recipe, and the host that its cases run on."""
    fixtures: golden.Fixtures
    host: golden.Host

    def load(self, name: str) -> dict:
        return self.fixtures.load(f"{name}.safetensors")

    @property
    def info(self) -> dict:
        return self.fixtures.cases

    @property
    def config(self) -> dict:
        return self.fixtures.config

    def weights(self, group: str, number: int = 0) -> dict[str, Tensor]:
        return weights(self.config["weights"][group], self.config["base_seed"] + number)
