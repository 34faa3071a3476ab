"""The puppet's VAE, ComfyUI's Wan 2.1 VAE made narrow: `python -m training.puppet.vae FOLDER --minutes 9`.

Trained on crops of the puppet's world, of single frames first and then of clips too; at the end its latents are brought
to the mean and spread that ComfyUI's Wan21 latent format expects, by changing the two 1x1x1 convolutions that make and
take them.
"""
import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import l1_loss

from .hosts import wan_vae
from .run import Run
from .world import World

WIDTH, RATE = 12, 5e-3
SIZE, CROP = 96, 48                         # of the world; convolutions learn as much from a quarter of the picture
STILLS_ONLY = 0.64                          # of the run: what space looks like first, at a fifth of a clip's price
STILLS, CLIPS = 12, 2
CLIP_FRAMES = (9, 5, 9, 17, 9, 5, 9, 33)    # in turn; a causal VAE trained on short ones alone drifts beyond them
WHOLE = 0.15                                # of the steps: the attention has to know whole pictures as well
NOISE = 0.05        # on the latents, of their own spread: a decoder that forgives


def pictures(frames: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, 3, T, H, W) in -1..1."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def cropped(true: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, T, CROP, CROP), at a place of the latents' grid; now and then fewer pictures, whole."""
    if torch.rand((), generator=generator) < WHOLE:
        return true[:max(1, len(true) // 4)]
    top, left = (8 * torch.randint((SIZE - CROP) // 8 + 1, (2,), generator=generator)).tolist()
    return true[..., top:top + CROP, left:left + CROP]


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.diff(dim=-1), x.diff(dim=-2)


def difference(made: Tensor, true: Tensor) -> Tensor:
    """Of colours, of edges and of movement."""
    loss = l1_loss(made, true) + 0.5 * sum(l1_loss(*pair) for pair in zip(edges(made), edges(true), strict=True))
    return loss + (0.5 * l1_loss(made.diff(dim=2), true.diff(dim=2)) if true.shape[2] > 1 else 0)


def through(vae, true: Tensor, generator: torch.Generator) -> Tensor:
    with torch.autocast(true.device.type, torch.bfloat16):
        latents = vae.encode(true).float()
        spread = latents.detach().std((0, 2, 3, 4), keepdim=True)
        noise = torch.randn(latents.shape, generator=generator).to(latents) * spread * NOISE
        made = vae.decode(latents + noise).float()
    return difference(made, true) + 1e-4 * latents.square().mean()


@torch.no_grad()
def to_wan_statistics(vae, world: World, device) -> None:
    """Change `conv1` and `conv2` so that latents of the world have Wan21's mean and spread per channel."""
    import comfy.latent_formats
    wanted = comfy.latent_formats.Wan21()
    latents = torch.cat([vae.encode(pictures(world.batch(7, index, 8, 9).frames).to(device)) for index in range(8)])
    mean, spread = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    scale = wanted.latents_std.flatten().to(device) / spread
    shift = wanted.latents_mean.flatten().to(device) - mean * scale
    channels = len(scale)
    vae.conv1.weight[:channels] *= scale.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:channels] = vae.conv1.bias[:channels] * scale + shift
    vae.conv2.bias -= (vae.conv2.weight[:, :, 0, 0, 0] / scale) @ shift
    vae.conv2.weight /= scale.view(1, -1, 1, 1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run: its checkpoint, log and finished weights")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--minutes", type=float, default=9.0, help="end this slice of the run after so long")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    world, vae = World(size=SIZE), wan_vae(WIDTH, options.device)
    run, generator = Run(options.folder, vae, options.steps, RATE), torch.Generator()

    def step(index: int) -> Tensor:
        generator.manual_seed(index)
        batches = [world.batch(1, index, STILLS, 1, rough=False)]
        if index >= STILLS_ONLY * options.steps:
            batches.append(world.batch(2, index, CLIPS, CLIP_FRAMES[index % len(CLIP_FRAMES)], rough=False))
        return sum(through(vae, cropped(pictures(batch.frames), generator).to(options.device), generator)
                   for batch in batches)

    run.train(step, options.minutes)
    vae.load_state_dict(run.averaged)
    to_wan_statistics(vae, world, options.device)
    save_file({name: tensor.half().contiguous() for name, tensor in vae.state_dict().items()},
              options.folder / "vae.safetensors")


if __name__ == "__main__":
    main()
