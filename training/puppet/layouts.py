"""What a batch of the puppet's training is made of: one chunk of some clips, laid out as one of the papers has it.

From speech alone, from a picture, from re-encoded context or context as latents (Seo et al. 2025,
LongCat-Video-Avatar); a noise level for each block (AvatarForcing); several pictures at any times (EverAnimate); a
short video of the person ahead of the chunk (TAVR).
"""
import json
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lodestar.techniques.audio.features import slot_steps
from torch import Tensor

from .latents import CLIPS, LATENTS, MARGIN, PICTURES, RE_ENCODED, REFERENCE
from .network import CHUNK, CONTEXT

SHARES = {"speech": 0.05, "picture": 0.15, "re-encoded": 0.10, "latents": 0.25, "levels": 0.20, "pictures": 0.10,
          "video": 0.15}
REFERENCES = ("flexible", "fixed", "none")
SILENCES = ("encoded", "null", "left out")
SCENES = ("both", "same", "other", "stages")
FIRST_STAGE = 18 / 33           # of TAVR's steps, on the same scene
BLOCK, BLOCKS = 2, 4            # latents of a block and blocks of a rolling window
MOST_PICTURES, LEAST_VIDEO, VIDEO_AHEAD = 4, 3, 8


@dataclass(frozen=True)
class Config:
    """`shares` of the layouts. `reference`: "flexible" is at the picture's own time, in the chunk or up to
    `farthest_frames` ahead; "fixed" is `fixed_latents` after the chunk's end whatever picture it is. `silence`: what a
    clip without speech has as audio features, "null" being zeros; "left out" has no such clips. `lips`: how much more
    than another latent one counts in which lips move. `scenes`: where the video of layout "video" was filmed, "both" is
    each half of the time, "stages" the same scene first and then another, as TAVR is trained. `pairs`: of takes, where
    it is trained by preferences (preferences.py). `base`: the config whose network this one is a LoRA of, of
    `rank`. `batch` is twice as large while the rate falls."""
    name: str
    seed: int = 0
    base: str = ""
    rank: int = 8
    clips: int = CLIPS
    batch: int = 8
    steps: int = 40_000
    rate: float = 3e-2
    average: float = 0.9998
    settled: int = 2000
    shift: float = 3.0
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    reference: str = "flexible"
    farthest_frames: int = 80
    fixed_latents: int = 3
    null_audio: float = 0.1
    silence: str = "encoded"
    lips: float = 4.0
    scenes: str = "both"
    pairs: int = 0

    def __post_init__(self):
        unknown = set(self.shares) - set(SHARES)
        if self.reference not in REFERENCES or self.silence not in SILENCES or self.scenes not in SCENES or unknown:
            raise ValueError(f"{self.name}: reference {self.reference!r}, silence {self.silence!r}, scenes "
                             f"{self.scenes!r}, shares of {', '.join(self.shares)}; wanted one of {REFERENCES}, one of "
                             f"{SILENCES}, one of {SCENES}, and some of {tuple(SHARES)}")
        if abs(sum(self.shares.values()) - 1) > 1e-6:
            raise ValueError(f"{self.name}: shares add up to {sum(self.shares.values()):g}, wanted 1")

    @classmethod
    def read(cls, path: Path) -> "Config":
        settings = json.loads(path.read_text(encoding="utf-8"))
        unknown = set(settings) - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"{path}: got {', '.join(sorted(unknown))}, wanted one of the fields of Config")
        return cls(**settings)


    def scenes_at(self, step: int) -> str:
        """Where the videos of one step were filmed."""
        if self.scenes != "stages":
            return self.scenes
        return "same" if step < FIRST_STAGE * self.steps else "other"


class Window(NamedTuple):
    """`latents` long from the clip's latent `first`; `known` (B, 16, k, h, w) of them stand in front. A level for each
    `block` latents; 0 is one level for all."""
    first: int
    latents: int
    known: Tensor
    block: int = 0


@dataclass(frozen=True, eq=False)
class Sample:
    """One batch. `front`: (B, 16, f, h, w) clean frames, spans of `clean`; `noisy`: (B, 16, n, h, w); `times` of all;
    `audio`: (B, 1, frames, 5, 5, 16); `weight`: (B, 1, n, h, w), its mean 1. `block`: latents of one level, 0: all."""
    front: Tensor
    clean: tuple[int, ...]
    noisy: Tensor
    times: tuple[float, ...]
    audio: Tensor
    weight: Tensor
    block: int = 0


Clips = dict[str, Tensor]
Draw = np.random.Generator
Spans = list[tuple[Tensor, tuple[float, ...]]]      # clean latents and their times


def sample(config: Config, clips: Clips, step: int, batch: int = 0) -> Sample:
    draw = np.random.default_rng([config.seed, step])
    who = np.flatnonzero(~clips["silent"]) if config.silence == "left out" else np.arange(len(clips["silent"]))
    index = torch.from_numpy(draw.choice(who, size=batch or config.batch))
    layout = str(draw.choice(list(config.shares), p=list(config.shares.values())))
    window = window_of(layout, clips, index, draw)
    config = replace(config, scenes=config.scenes_at(step))
    spans = references_of(layout, config, clips, index, window, draw)
    known = window.known.shape[2]
    noisy = clips["latents"][index][:, :, window.first + known:window.first + window.latents]
    clean = (*(len(times) for _, times in spans), *((known,) if known else ()))
    times = (*(time for _, span in spans for time in span), *range(window.latents))
    lips = clips["lips"][index, None, window.first + known:window.first + window.latents].float()
    weight = 1 + config.lips * lips
    return Sample(torch.cat([*(latents for latents, _ in spans), window.known], 2).float(), clean, noisy.float(), times,
                  audio_features(config, clips, index, window, draw), weight / weight.mean(), window.block)


def window_of(layout: str, clips: Clips, index: Tensor, draw: Draw) -> Window:
    latents = clips["latents"][index]
    if layout in ("speech", "picture"):
        return Window(0, CHUNK, latents[:, :, :int(layout == "picture")])
    if layout == "re-encoded":
        which = int(draw.integers(len(RE_ENCODED)))
        return Window(RE_ENCODED[which], CHUNK, clips["re-encoded"][index, which])
    known = int(draw.integers(CONTEXT + 1)) if layout == "levels" else CONTEXT
    length = known + BLOCK * BLOCKS if layout == "levels" else CHUNK
    first = int(draw.integers(1, LATENTS - length + 1))
    return Window(first, length, latents[:, :, first:first + known], BLOCK if layout == "levels" else 0)


def references_of(layout: str, config: Config, clips: Clips, index: Tensor, window: Window, draw: Draw) -> Spans:
    """The clean spans in front of the chunk, each by itself."""
    if config.reference == "none":
        return []
    if layout == "levels":
        return [(picture(clips, index, int(draw.integers(len(PICTURES)))), (-1.0,))] if draw.random() < 0.5 else []
    if layout == "pictures":
        places = draw.choice(len(PICTURES), int(draw.integers(2, MOST_PICTURES + 1)), replace=False)
        end = CHUNK - 1 + config.farthest_frames / 4
        return [(picture(clips, index, int(place)), (float(draw.uniform(0, end)),)) for place in places]
    if layout == "video":
        length, ahead = int(draw.integers(LEAST_VIDEO, REFERENCE + 1)), int(draw.integers(1, VIDEO_AHEAD + 1))
        drawn = draw.integers(2, size=len(index))
        scene = torch.from_numpy({"same": 0 * drawn, "other": 0 * drawn + 1}.get(config.scenes, drawn))
        times = tuple(float(CHUNK - 1 + ahead + latent) for latent in range(length))
        return [(clips["videos"][index, scene][:, :, :length], times)]
    if draw.random() >= (0.4 if layout in ("speech", "picture") else 0.9):
        return []
    if config.reference == "fixed":
        return [(picture(clips, index, int(draw.integers(len(PICTURES)))), (float(CHUNK - 1 + config.fixed_latents),))]
    own_times = [(frame - 4 * window.first) / 4 for frame in PICTURES]
    inside = [place for place, time in enumerate(own_times) if 0 <= time <= CHUNK - 1 + config.farthest_frames / 4]
    place = int(draw.choice(inside))
    return [(picture(clips, index, place), (own_times[place],))]


def picture(clips: Clips, index: Tensor, place: int) -> Tensor:
    """(B, 16, 1, h, w): each person at PICTURES[place]."""
    return clips["pictures"][index, place][:, :, None]


def audio_features(config: Config, clips: Clips, index: Tensor, window: Window, draw: Draw) -> Tensor:
    """The chunk's audio features (B, 1, frames, 5, 5, 16); zeros where unconditional."""
    rows = slot_steps(4 * window.first + MARGIN, 4 * window.latents - 3, 1, clips["audio"].shape[1])
    audio = clips["audio"][index][:, rows].float()
    null = torch.from_numpy(draw.random(len(index)) < config.null_audio)
    if config.silence == "null":
        null |= clips["silent"][index]
    audio[null] = 0
    return audio[:, None]


def levels(given: Sample, shift: float, generator: torch.Generator) -> Tensor:
    """(B, n): how much noise there is in each latent to be made; blocks that come later have no less."""
    count, latents = given.noisy.shape[0], given.noisy.shape[2]
    drawn = torch.rand((count, latents // given.block if given.block else 1), generator=generator).sort(1).values
    drawn = drawn.repeat_interleave(given.block or latents, 1)
    return shift * drawn / (1 + (shift - 1) * drawn)
