"""Three LoRAs of the finished puppet for EverAnimate's claims: `python -m training.puppet.persistent RUNS --hours 2`.

RUNS is the folder that `training.puppet.all` fills. `restored` has the memory and, in its last fifth of steps,
restorative flow; `no_restore` the memory alone; `no_memory` neither. It may be ended at any moment and begun again.
"""
import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lodestar.techniques import restorative_flow as flow
from lodestar.techniques.spoilt_pictures import draw_spoiling, spoil
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import flat_vae, lora
from .latents import FRAMES, LATENTS, PER_FILE, PICTURES, load
from .layouts import Clips, Config, Sample, Window, audio_features, picture
from .network import CHUNK, CONFIG, CONTEXT, load_trained
from .precision import fast
from .run import Run
from .vae import SIZE, load_vae
from .world import World

COUNT = 4                       # pictures of the person, as EverAnimate has them
FIRST_TIME, APART = 10, 3       # of the first, where LongCat has its reference; the others ahead, so far apart
SPOILT, SEED = "spoilt_{number:06d}.safetensors", 0xE7
CLIPS = 600


@dataclass(frozen=True)
class Variant:
    """`restores`: whether the last `restoring` of its steps are restorative flow."""
    name: str
    memory: bool = True
    restores: bool = True
    steps: int = 600
    restoring: int = 120
    rank: int = 16
    batch: int = 8
    rate: float = 1e-2
    seed: int = 0

    def is_restoring(self, step: int) -> bool:
        return self.restores and step >= self.steps - self.restoring


VARIANTS = (Variant("restored"), Variant("no_restore", restores=False), Variant("no_memory", False, False))


def times_of(pictures: int) -> tuple[float, ...]:
    """As the product has them: the reference, and further ones ahead of the chunk."""
    ahead = (CHUNK - 1 + APART * (place + 1) for place in range(pictures - 1))
    return (float(FIRST_TIME), *map(float, ahead)) if pictures else ()


def sample(variant: Variant, clips: Clips, step: int) -> tuple[Sample, Tensor]:
    """A batch, and the spoilt latents of what is to be made."""
    draw = np.random.default_rng([variant.seed, step])
    index = torch.from_numpy(draw.choice(len(clips["silent"]), size=variant.batch))
    first = int(draw.integers(1, LATENTS - CHUNK + 1))
    known, made = (slice(first, first + CONTEXT), slice(first + CONTEXT, first + CHUNK))
    places = draw.choice(len(PICTURES), COUNT if variant.memory else 0, replace=False)
    latents = clips["latents"][index]
    window = Window(first, CHUNK, latents[:, :, known])
    front = torch.cat([*(picture(clips, index, int(place)) for place in places), window.known], 2).float()
    noisy, config = latents[:, :, made].float(), Config(variant.name)
    given = Sample(front, (*[1] * len(places), CONTEXT), noisy, (*times_of(len(places)), *range(CHUNK)),
                   audio_features(config, clips, index, window, draw), torch.ones_like(noisy[:, :1]))
    return given, clips["spoilt"][index][:, :, made].float()


def loss_of(network, variant: Variant, clips: Clips, step: int, device) -> Tensor:
    """The network's prediction is x0 - noise, the other way round than the paper's velocity here."""
    given, spoilt = sample(variant, clips, step)
    generator, chance = torch.Generator().manual_seed(variant.seed * 1_000_003 + step), random.Random(step)
    every = flow.levels()
    sigmas = every[torch.randint(len(every), (variant.batch,), generator=generator)]
    noise = torch.randn(given.noisy.shape, generator=generator)
    on = torch.tensor([variant.is_restoring(step) and flow.is_spoilt(float(sigma), chance) for sigma in sigmas])
    perturbed = torch.where(on.view(-1, 1, 1, 1, 1), spoilt, given.noisy)
    pair = flow.make_pair(given.noisy, noise, sigmas, perturbed, flow.bell(sigmas, every))
    timestep = torch.cat([torch.zeros(variant.batch, given.front.shape[2]),
                          1000 * sigmas[:, None].expand(-1, noise.shape[2])], 1).to(device)
    with fast(str(device)):
        made = network(torch.cat([given.front, pair.x], 2).to(device), timestep, clean=given.clean, times=given.times,
                       audio=given.audio.to(device))
    velocity = -made[:, :, given.front.shape[2]:].float().cpu()
    return flow.restorative_loss(velocity, pair, flow.loss_weight(sigmas, every))


def spoil_clip(world: World, number: int) -> Tensor:
    """(T, 3, H, W), -1 to 1: the clip of that number, where its clean latents are from, with its pictures spoilt."""
    draw = np.random.default_rng([number, 0xC1])
    draw.random()                                       # whether it is silent, which is not seen
    frames = world.take(number).frames(int(draw.integers(0, 1 << 16)) + np.arange(FRAMES), world.size)
    return spoil(frames.numpy(), draw_spoiling(random.Random(SEED + number)))


def encode(vae, pictures: Tensor, device) -> Tensor:
    """(T, 3, H, W) -> (16, t, h, w) as the network sees them."""
    import comfy.latent_formats
    with torch.no_grad(), fast(str(device)):
        latents = flat_vae.encode(vae, pictures.movedim(0, 1)[None].to(device))
    return comfy.latent_formats.Wan21().process_in(latents.float())[0].half().cpu()


def make_spoilt(vae, world: World, folder: Path, clips: int, minutes: float, device) -> bool:
    """The files that are missing, for as long as `minutes`; whether there are all."""
    end = time.monotonic() + 60 * minutes
    for number in range(0, clips, PER_FILE):
        path = folder / SPOILT.format(number=number)
        if path.is_file():
            continue
        if time.monotonic() > end:
            return False
        made = torch.stack([encode(vae, spoil_clip(world, number + index), device) for index in range(PER_FILE)])
        unfinished = path.with_suffix(".unfinished")
        save_file({"spoilt": made.contiguous()}, unfinished)
        unfinished.replace(path)
    return True


def load_spoilt(folder: Path, clips: int) -> Tensor:
    """(N, 16, t, h, w), which `make_spoilt` made."""
    return torch.cat([load_file(folder / SPOILT.format(number=number))["spoilt"]
                      for number in range(0, clips, PER_FILE)])[:clips]


def train(variant: Variant, clips: Clips, folder: Path, base: Path, minutes: float, device="cpu") -> Path | None:
    """The finished weights, None while there are none; the run goes on from its checkpoint."""
    torch.manual_seed(variant.seed)
    network = load_trained(base).train().to(device)
    run = Run(folder, lora.attach(network, variant.rank), variant.steps, variant.rate)
    whole = run.train(lambda step: loss_of(network, variant, clips, step, device), minutes)
    path = folder / f"{variant.name}{'' if whole else '_so_far'}.safetensors"
    save_file(lora.layout(run.averaged), path, metadata={"config": json.dumps(CONFIG)})
    return path if whole else None


def go(runs: Path, hours: float, vae: Path, device: str) -> str:
    """Everything that is missing, as far as the hours reach; what there is to be done now."""
    base, end = runs / "puppet" / "puppet.safetensors", time.monotonic() + 3600 * hours
    if not base.is_file():
        return f"{base} is not there: the puppet is still in training (training.puppet.all)"

    def minutes() -> float:
        return max(end - time.monotonic(), 0) / 60

    folder = runs / "latents"
    if not make_spoilt(load_vae(vae, device).eval(), World(size=SIZE), folder, CLIPS, minutes(), device):
        return "spoilt latents are being made"
    clips = load(folder, CLIPS)
    clips["spoilt"] = load_spoilt(folder, CLIPS)
    for variant in VARIANTS:
        run = runs / variant.name
        if not (run / f"{variant.name}.safetensors").is_file() and not train(variant, clips, run, base, minutes(),
                                                                            device):
            return f"{variant.name} is in training"
    return f"all is made: {', '.join(str(runs / each.name) for each in VARIANTS)}"


def main() -> None:
    from .export import weights_file
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of all runs, with the finished puppet and its latents")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--vae", type=Path, default=weights_file("vae"), help="with which its latents were made")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(go(options.runs.expanduser().resolve(), options.hours, options.vae, options.device), flush=True)


if __name__ == "__main__":
    main()
