"""Trains the puppet on latents of its world: `python -m training.puppet.train CONFIG LATENTS FOLDER --minutes 9`.

Rectified flow on chunks, in the modes of papers 000 and 001: from speech alone, from a picture, or continued from
context that was encoded afresh or handed over as latents; the reference stands at any time in the window or ahead.
"""
import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lodestar.techniques.speech_features import window_steps
from safetensors.torch import load_file, save_file
from torch import Tensor

from .latents import ENCODED_AFRESH, HEARD, LATENTS, PICTURES, load
from .network import CHUNK, CONFIG, CONTEXT, puppet
from .run import Run

REFERENCES = ("flexible", "fixed", "none")
SILENCES = ("encoded", "null", "left out")


@dataclass(frozen=True)
class Config:
    """`modes`: shares of speech alone, picture, context encoded afresh, context as latents. `reference`: "flexible" is
    at the picture's own time, in the window or up to `farthest_frames` ahead; "fixed" is `fixed_latents` after the
    window's end whatever picture it is. `silence`: what a clip without speech hears, "null" being zeros; "left out" has
    no such clips. `lips`: how much more than another latent one counts in which lips move. `stem`: the config whose
    weights it begins with. `left`: of the learning rate, at the end."""
    name: str
    seed: int = 0
    stem: str = ""
    clips: int = 1200
    batch: int = 8
    steps: int = 3000
    rate: float = 3e-2
    left: float = 0.05
    shift: float = 3.0
    modes: tuple[float, float, float, float] = (0.1, 0.25, 0.15, 0.5)
    reference: str = "flexible"
    farthest_frames: int = 80
    fixed_latents: int = 3
    null_audio: float = 0.1
    silence: str = "encoded"
    lips: float = 4.0

    @classmethod
    def read(cls, path: Path) -> "Config":
        told = json.loads(path.read_text(encoding="utf-8"))
        config = cls(**{**told, "modes": tuple(told.get("modes", cls.modes))})
        if config.reference not in REFERENCES or config.silence not in SILENCES:
            raise ValueError(f"{path}: reference {config.reference!r}, silence {config.silence!r}; wanted one of "
                             f"{REFERENCES} and one of {SILENCES}")
        return config


@dataclass(frozen=True, eq=False)
class Sample:
    """One batch. `front`: (B, 16, f, h, w) clean frames, spans of `clean`; `noisy`: (B, 16, n, h, w); `times` of all;
    `audio`: (B, 1, frames, 5, 5, 16); `weight`: (B, 1, n, h, w), its mean 1."""
    front: Tensor
    clean: tuple[int, ...]
    noisy: Tensor
    times: tuple[float, ...]
    audio: Tensor
    weight: Tensor


def window_of(mode: int, clips: dict[str, Tensor], index: Tensor, draw: np.random.Generator
              ) -> tuple[int, Tensor, Tensor]:
    """(first latent, known latents, latents to be made) of one window of all clips in `index`."""
    latents = clips["latents"][index]
    if mode < 2:
        return 0, latents[:, :, :mode], latents[:, :, mode:CHUNK]
    if mode == 2:
        which = int(draw.integers(len(ENCODED_AFRESH)))
        first = ENCODED_AFRESH[which]
        return first, clips["afresh"][index, which], latents[:, :, first + CONTEXT:first + CHUNK]
    first = int(draw.integers(1, LATENTS - CHUNK + 1))
    return first, latents[:, :, first:first + CONTEXT], latents[:, :, first + CONTEXT:first + CHUNK]


def reference_of(config: Config, clips: dict[str, Tensor], index: Tensor, first: int, draw: np.random.Generator
                 ) -> tuple[Tensor, float]:
    """A picture (B, 16, 1, h, w) of each person and its RoPE time, counted from the window's first latent."""
    times = [(frame - 4 * first) / 4 for frame in PICTURES]
    if config.reference == "fixed":
        place, time = int(draw.integers(len(PICTURES))), float(CHUNK - 1 + config.fixed_latents)
    else:
        inside = [place for place, time in enumerate(times) if 0 <= time <= CHUNK - 1 + config.farthest_frames / 4]
        place = int(draw.choice(inside))
        time = times[place]
    return clips["pictures"][index, place][:, :, None], time


def sample(config: Config, clips: dict[str, Tensor], step: int) -> Sample:
    draw = np.random.default_rng([config.seed, step])
    who = np.flatnonzero(~clips["silent"]) if config.silence == "left out" else np.arange(len(clips["silent"]))
    index = torch.from_numpy(draw.choice(who, size=config.batch))
    mode = int(draw.choice(4, p=config.modes))
    first, known, noisy = window_of(mode, clips, index, draw)
    front, clean, times = [known], (known.shape[2],) if known.shape[2] else (), list(range(CHUNK))
    if config.reference != "none" and draw.random() < (0.9 if mode > 1 else 0.4):
        picture, time = reference_of(config, clips, index, first, draw)
        front, clean, times = [picture, known], (1, *clean), [time, *times]
    audio = heard(config, clips, index, first, draw)
    weight = 1 + config.lips * clips["lips"][index, None, first + known.shape[2]:first + CHUNK].float()
    return Sample(torch.cat(front, 2).float(), clean, noisy.float(), tuple(times), audio, weight / weight.mean())


def heard(config: Config, clips: dict[str, Tensor], index: Tensor, first: int, draw: np.random.Generator) -> Tensor:
    """The window's speech (B, 1, frames, 5, 5, 16); zeros where it is the null condition."""
    rows = window_steps(4 * first + HEARD, 4 * CHUNK - 3, 1, clips["heard"].shape[1])
    audio = clips["heard"][index][:, rows].float()
    null = torch.from_numpy(draw.random(len(index)) < config.null_audio)
    if config.silence == "null":
        null |= clips["silent"][index]
    audio[null] = 0
    return audio[:, None]


def loss_of(network, config: Config, given: Sample, generator: torch.Generator, device) -> Tensor:
    """Mean squared error of x0 - noise, over the frames to be made, lips more than the rest."""
    noisy, front = given.noisy.to(device), given.front.to(device)
    sigma = torch.rand(len(noisy), generator=generator).to(device)
    sigma = config.shift * sigma / (1 + (config.shift - 1) * sigma)
    noise = torch.randn(noisy.shape, generator=generator).to(device)
    level = sigma.view(-1, 1, 1, 1, 1)
    timestep = torch.cat([noisy.new_zeros(len(noisy), front.shape[2]),
                          (1000 * sigma)[:, None].expand(-1, noisy.shape[2])], 1)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        made = network(torch.cat([front, (1 - level) * noisy + level * noise], 2), timestep, clean=given.clean,
                       times=given.times, audio=given.audio.to(device))
    return ((made[:, :, front.shape[2]:].float() - (noisy - noise)).square() * given.weight.to(device)).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("latents", type=Path, help="the folder that training.puppet.latents fills")
    parser.add_argument("folder", type=Path, help="of the run: its checkpoint, log and finished weights")
    parser.add_argument("--stem", type=Path, help="the finished weights that the config's `stem` made")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = Config.read(options.config)
    if bool(config.stem) != bool(options.stem):
        parser.error(f"{config.name} begins with {config.stem or 'nothing'}: give --stem accordingly")
    clips = load(options.latents, config.clips)
    torch.manual_seed(config.seed)
    network, generator = puppet(options.device), torch.Generator()
    if options.stem:
        network.load_state_dict({name: tensor.float() for name, tensor in load_file(options.stem).items()})
    run = Run(options.folder, network, config.steps, config.rate, left=config.left)

    def step(index: int) -> Tensor:
        generator.manual_seed(config.seed * 1_000_003 + index)
        return loss_of(network, config, sample(config, clips, index), generator, options.device)

    run.train(step, options.minutes)
    save_file({name: tensor.half().contiguous() for name, tensor in run.averaged.items()},
              options.folder / f"{config.name}.safetensors", metadata={"config": json.dumps(CONFIG)})


if __name__ == "__main__":
    main()
