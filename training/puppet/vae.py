"""The puppet's VAE, ComfyUI's Wan 2.1 VAE made narrow: `python -m training.puppet.vae FOLDER --minutes 9`.

Three runs, each beginning with the one before: single frames, then clips as well, then the decoder alone, whose latents
stay where they are. At the end the latents are brought to the mean and spread that ComfyUI's Wan21 latent format
expects, by changing the two 1x1x1 convolutions that make and take them.
"""
import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import flat_vae
from .face_probe import load_face_probe
from .hosts import wan_vae, without_past
from .precision import fast
from .run import Run
from .vae_losses import Critic, Likeness, add_critic_loss, difference
from .world import World

WIDTH = 12
SIZE, CROP = 96, 48                         # of the world; convolutions learn as much from a quarter of the picture
STILLS, LOOKS, CLIPS = 12, 2, 2             # of a step; drawing stills takes half as long as learning from them once
CLIP_FRAMES = (9, 5, 9, 17, 9, 5, 9, 33)    # in turn; a causal VAE trained on short ones alone drifts beyond them
WHOLE = 0.15                                # of the steps: the attention has to know whole pictures as well
NOISE = 0.05                                # on the latents, of their own spread: a decoder that forgives
COUNTED = 8                                 # batches of clips that tell the latents' mean and spread
UNJUDGED = 500                              # steps of the decoder before the critic is asked


class Stage(NamedTuple):
    steps: int
    rate: float
    clips: bool
    decoder_only: bool


STAGES = {"stills": Stage(16_000, 5e-3, False, False), "clips": Stage(4_500, 3e-3, True, False),
          "decoder": Stage(1_000, 2e-3, True, True)}


def pictures(frames: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, 3, T, H, W) in -1..1."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def crop(true: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, T, CROP, CROP), at a place of the latents' grid; now and then fewer pictures, whole."""
    if torch.rand((), generator=generator) < WHOLE:
        return true[:max(1, len(true) // 4)]
    top, left = (8 * torch.randint((SIZE - CROP) // 8 + 1, (2,), generator=generator)).tolist()
    return true[..., top:top + CROP, left:left + CROP]


def through(vae, true: Tensor, generator: torch.Generator, frozen: bool) -> tuple[Tensor, Tensor]:
    """(made, latents), both float32; `frozen`: no gradient for what makes latents."""
    with fast(true.device.type):
        with torch.set_grad_enabled(not frozen):
            latents = flat_vae.encode(vae, true).float()
        spread = latents.detach().std((0, 2, 3, 4), keepdim=True)
        noise = torch.randn(latents.shape, generator=generator).to(latents) * spread * NOISE
        return flat_vae.decode(vae, latents + noise).float(), latents


@torch.no_grad()
def to_statistics(vae, world: World, mean: Tensor, spread: Tensor) -> None:
    """Change `conv1` and `conv2` so that latents of the world have this mean and spread (16,) per channel."""
    latents = torch.cat([flat_vae.encode(vae, pictures(world.batch(7, index, 8, 9).frames).to(mean))
                         for index in range(COUNTED)])
    scale = spread / latents.std((0, 2, 3, 4))
    shift = mean - latents.mean((0, 2, 3, 4)) * scale
    channels = len(scale)
    vae.conv1.weight[:channels] *= scale.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:channels] = vae.conv1.bias[:channels] * scale + shift
    vae.conv2.bias -= (vae.conv2.weight[:, :, 0, 0, 0] / scale) @ shift
    vae.conv2.weight /= scale.view(1, -1, 1, 1, 1)


def to_wan_statistics(vae, world: World) -> None:
    import comfy.latent_formats
    wanted, device = comfy.latent_formats.Wan21(), next(vae.parameters()).device
    to_statistics(vae, world, wanted.latents_mean.flatten().to(device), wanted.latents_std.flatten().to(device))


def save(vae, path: Path) -> None:
    """In fp16, whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    save_file({name: tensor.half().contiguous() for name, tensor in vae.state_dict().items()}, unfinished)
    unfinished.replace(path)


def batches(world: World, stage: Stage, generator: torch.Generator, device) -> Callable[[int], list[Tensor]]:
    """What step `index` learns from: crops of stills, and of clips where the stage has them."""
    @functools.lru_cache(1)
    def stills(index: int) -> Tensor:
        return pictures(world.batch(1, index, STILLS, 1, rough=False).frames)

    def of_step(index: int) -> list[Tensor]:
        generator.manual_seed(index)
        found = [crop(stills(index // LOOKS), generator)]
        if stage.clips:
            length = CLIP_FRAMES[index % len(CLIP_FRAMES)]
            found.append(crop(pictures(world.batch(2, index, CLIPS, length, rough=False).frames), generator))
        return [batch.to(device) for batch in found]

    return of_step


def train(name: str, folder: Path, world: World, begin: Callable[[], nn.Module], minutes: float, device,
          steps: int = 0) -> tuple[nn.Module, bool]:
    """The stage's run in `folder`, up to its end or for `minutes`; its averaged VAE, and whether all is done."""
    stage, generator = STAGES[name], torch.Generator()
    vae = wan_vae(WIDTH, device) if (folder / "checkpoint.pt").is_file() else begin()    # whose weights will be read
    model = nn.ModuleDict({"vae": vae})
    if stage.decoder_only:
        model["critic"] = Critic().to(device)
        vae.encoder.requires_grad_(False)
        vae.conv1.requires_grad_(False)
        alike = Likeness(load_face_probe().to(device))
    run = Run(folder, model, steps or stage.steps, stage.rate)
    of_step = batches(world, stage, generator, device)

    def step(index: int) -> Tensor:
        loss = torch.zeros((), device=device)
        for true in of_step(index):
            made, latents = through(vae, true, generator, stage.decoder_only)
            if stage.decoder_only:
                plain = difference(made, true) + alike(made, true)
                loss = loss + add_critic_loss(plain, made, true, model["critic"], vae.decoder.head[-1].weight,
                                     asked=index >= UNJUDGED)
            else:
                loss = loss + difference(made, true) + 1e-4 * latents.square().mean()
        return loss

    whole = run.train(step, minutes)
    model.load_state_dict(run.averaged)
    return vae, whole


def load_vae(path: Path, device="cpu"):
    """The VAE of a file of weights, in float32; of a run's checkpoint.pt, its average so far."""
    vae = wan_vae(WIDTH, device)
    if path.suffix == ".pt":
        weights = torch.load(path, map_location=device, weights_only=True)["averaged"]
        weights = {name.removeprefix("vae."): tensor for name, tensor in weights.items() if name.startswith("vae.")}
    else:
        weights = load_file(path, str(device))
    vae.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return vae


def in_turn(folder: Path, world: World, minutes: Callable[[], float], start: Path | None, device="cpu") -> list[Path]:
    """All three runs as far as `minutes()` allow; which of stills, clips and decoder are finished. From the second on
    the latents are what they will be."""
    def stills() -> nn.Module:
        if not start:
            return wan_vae(WIDTH, device)
        vae = load_vae(start, device)
        to_statistics(vae, world, torch.zeros(16, device=device), torch.ones(16, device=device))
        return vae

    def clips() -> nn.Module:
        vae = load_vae(folder / "stills.safetensors", device)
        without_past(vae)
        return vae

    finished = []
    for name, begin in (("stills", stills), ("clips", clips),
                        ("decoder", lambda: load_vae(folder / "clips.safetensors", device))):
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            torch.manual_seed(0)
            vae, whole = train(name, folder / name, world, begin, minutes(), device)
            if not whole:
                break
            if name == "clips":
                to_wan_statistics(vae, world)
            save(vae, path)
        finished.append(path)
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the runs: their checkpoints, logs and finished weights")
    parser.add_argument("--minutes", type=float, default=9.0, help="end this slice of the run after so long")
    parser.add_argument("--start", type=Path, help="weights to begin with, such as the pack's own")
    parser.add_argument("--decoder-steps", type=int, help="train the decoder of --start alone; its latents stay")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    world = World(size=SIZE)
    if not options.decoder_steps:
        in_turn(options.folder, world, lambda: options.minutes, options.start, options.device)
        return
    torch.manual_seed(0)
    vae, whole = train("decoder", options.folder, world, lambda: load_vae(options.start, options.device),
                       options.minutes, options.device, options.decoder_steps)
    if whole:
        save(vae, options.folder / "vae.safetensors")


if __name__ == "__main__":
    main()
