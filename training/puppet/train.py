"""Trains the puppet on latents of its world: `python -m training.puppet.train CONFIG LATENTS FOLDER --minutes 9`.

Rectified flow on chunks of clips, laid out as layouts.py says; the base in full, its variants as LoRAs.
"""
import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import lora
from .latents import load
from .layouts import Config, Sample, levels, sample
from .network import CONFIG, load_trained, puppet
from .precision import fast
from .run import Run


def loss_of(network, config: Config, given: Sample, generator: torch.Generator, device) -> Tensor:
    """Mean squared error of x0 - noise, over the frames to be made, lips more than the rest."""
    noisy, front = given.noisy.to(device), given.front.to(device)
    level = levels(given, config.shift, generator).to(device)
    noise = torch.randn(noisy.shape, generator=generator).to(device)
    share = level[:, None, :, None, None]
    timestep = torch.cat([noisy.new_zeros(len(noisy), front.shape[2]), 1000 * level], 1)
    with fast(str(device)):
        made = network(torch.cat([front, (1 - share) * noisy + share * noise], 2), timestep, clean=given.clean,
                       times=given.times, audio=given.audio.to(device))
    return ((made[:, :, front.shape[2]:].float() - (noisy - noise)).square() * given.weight.to(device)).mean()


def train(config: Config, clips: dict[str, Tensor], folder: Path, base: Path | None, minutes: float, device="cpu",
          look: Callable[[Path], None] = lambda weights: None) -> Path | None:
    """The run in `folder`, for `minutes`; the finished weights, None while there are none. What is there so far is in
    the folder, too, whenever a slice ends or a checkpoint stays; `look` is then called with it."""
    torch.manual_seed(config.seed)
    network = load_trained(base).train().to(device) if base else puppet(device)
    model = lora.attach(network, config.rank) if base else network
    run = Run(folder, model, config.steps, config.rate, config.average, min(config.settled, config.steps // 2))
    generator = torch.Generator()

    def step(index: int) -> Tensor:
        generator.manual_seed(config.seed * 1_000_003 + index)
        given = sample(config, clips, index, 2 * config.batch if run.decaying else config.batch)
        return loss_of(network, config, given, generator, device)

    def write_stage(stage: str) -> Path:
        weights = lora.layout(run.averaged) if base else {name: tensor.half().contiguous()
                                                          for name, tensor in run.averaged.items()}
        path = folder / f"{config.name}{stage}.safetensors"
        save_file(weights, path, metadata={"config": json.dumps(CONFIG)})
        return path

    whole = run.train(step, minutes, lambda done: look(write_stage(f"_{done:06d}")))
    path = write_stage("" if whole else "_so_far")
    return path if whole else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("latents", type=Path, help="the folder that training.puppet.latents fills")
    parser.add_argument("folder", type=Path, help="of the run: its checkpoints, log and finished weights")
    parser.add_argument("--base", type=Path, help="the finished weights that the config's `base` made")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = Config.read(options.config)
    if config.pairs:
        parser.error(f"{config.name} is trained by preferences: python -m training.puppet.preferences")
    if bool(config.base) != bool(options.base):
        parser.error(f"{config.name} is {'a LoRA of ' + config.base if config.base else 'no LoRA'}: give --base "
                     "accordingly")
    train(config, load(options.latents, config.clips), options.folder, options.base, options.minutes, options.device)


if __name__ == "__main__":
    main()
