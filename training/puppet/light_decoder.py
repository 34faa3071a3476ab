"""A light decoder of the puppet's latents: `python -m training.puppet.light_decoder VAE FOLDER --minutes 30`.

ComfyUI's own tiny video autoencoder (TAEHV of Wan 2.1), decoder only: from latents of a finished VAE to the drawn
pixels, by the losses of the VAE's last stage. It is trained narrow, since the world is small; the file has ComfyUI's
own widths, the rest of them zeros, so that Load VAE takes it, from models/vae_approx. `--gate` says what it loses
against its VAE.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import flat_vae
from .face_probe import FaceProbe, load_face_probe
from .precision import fast
from .run import Run
from .vae import SIZE, crop, load_vae, pictures
from .vae_gate import as_frames, measures
from .vae_losses import Critic, Likeness, add_critic_loss, difference
from .world import World

WIDTHS = (80, 64, 32, 32)
FULL_WIDTHS = (256, 128, 64, 64)            # ComfyUI's
STEPS, RATE, CLIPS = 6_000, 2e-2, 2
FRAMES = (5, 9, 5, 17)                      # of a step's clips, in turn
UNJUDGED = 0.7                              # share of the steps before the critic is asked
TESTED, TESTED_FRAMES = 6, 49


def light_network(widths: tuple[int, ...]) -> nn.Module:
    """ComfyUI's TAEHV with a decoder of these widths, its blocks in their places, each of them nothing at first."""
    from comfy.taesd.taehv import TAEHV, Clamp, MemBlock, TGrow, conv
    act, layers = nn.ReLU(inplace=True), [Clamp(), conv(16, widths[0]), nn.ReLU(inplace=True)]
    for before, width, frames in zip(widths, widths[1:], (1, 2, 2), strict=False):
        layers += [*(MemBlock(before, before, act) for _ in range(3)), nn.Upsample(scale_factor=2),
                   TGrow(before, frames), conv(before, width, bias=False)]
    network = TAEHV(16, parallel=True)
    network.encoder, network.decoder = None, nn.Sequential(*layers, nn.ReLU(inplace=True), conv(widths[-1], 3))
    for name, weight in network.named_parameters():
        if name.endswith("conv.4.weight") or weight.ndim == 1:
            nn.init.zeros_(weight)
        else:
            nn.init.kaiming_normal_(weight, nonlinearity="linear")
    nn.init.constant_(network.decoder[-1].bias, 0.5)        # grey, and little else
    network.decoder[-1].weight.data *= 0.1
    return network.to(memory_format=torch.channels_last)


def decode(network: nn.Module, latents: Tensor) -> Tensor:
    """(B, 16, t, h, w) as the VAE makes them -> (B, 3, T, H, W) in -1..1, as the VAE decodes them."""
    return 2 * network.decode(latents).to(latents.device) - 1


def widen(network: nn.Module) -> dict[str, Tensor]:
    """The decoder's weights in ComfyUI's widths. Pictures of zeros stay zeros in every layer, so that the output is the
    same."""
    from comfy.taesd.taehv import TAEHV, MemBlock, TGrow
    wide, found = TAEHV(16).decoder, {}
    for place, (narrow, layer) in enumerate(zip(network.decoder, wide, strict=True)):
        for name, weight in narrow.state_dict().items():
            full = torch.zeros_like(layer.state_dict()[name])
            parts = narrow.stride if isinstance(layer, TGrow) else 1        # a frame's channels beside the next one's
            inputs = 2 if isinstance(layer, MemBlock) and name == "conv.0.weight" else 1    # the picture and the past
            target = full.unflatten(0, (parts, -1))
            source = weight.unflatten(0, (parts, -1))
            if weight.ndim > 1:
                target, source = target.unflatten(2, (inputs, -1)), source.unflatten(2, (inputs, -1))
                target[:, :source.shape[1], :, :source.shape[3]] = source
            else:
                target[:, :source.shape[1]] = source
            found[f"decoder.{place}.{name}"] = full
    return found


def save(network: nn.Module, path: Path) -> None:
    """In bf16, whole or not at all: ComfyUI takes a file of 16 channels in fp16 for HunyuanVideo's."""
    unfinished = path.with_suffix(".unfinished")
    save_file({name: weight.bfloat16().contiguous() for name, weight in widen(network).items()}, unfinished)
    unfinished.replace(path)


def load_light(path: Path) -> nn.Module:
    """Of a file or of a run's checkpoint.pt, its average so far, in float32."""
    if path.suffix == ".pt":
        network = light_network(WIDTHS)
        weights = torch.load(path, map_location="cpu", weights_only=True)["averaged"]
        network.load_state_dict({name.removeprefix("light."): weight for name, weight in weights.items()
                                 if name.startswith("light.")})
        return network
    network = light_network(FULL_WIDTHS)
    network.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
    return network


def train(vae, folder: Path, world: World, minutes: float, device="cpu", steps: int = STEPS) -> Path | None:
    """For `minutes`, or to the end of all steps: then the file's path."""
    torch.manual_seed(0)
    generator, alike = torch.Generator(), Likeness(load_face_probe().to(device))
    model = nn.ModuleDict({"light": light_network(WIDTHS), "critic": Critic()}).to(device)
    run = Run(folder, model, steps, RATE)

    def step(index: int) -> Tensor:
        generator.manual_seed(index)
        frames = world.batch(3, index, CLIPS, FRAMES[index % len(FRAMES)], rough=False).frames
        true = crop(pictures(frames), generator).to(device)
        with fast(str(device)):
            with torch.no_grad():
                latents = flat_vae.encode(vae, true).float()
            made = decode(model["light"], latents).float()
        plain = difference(made, true) + alike(made, true)
        if index < UNJUDGED * steps:
            return plain
        asked = index >= (UNJUDGED + 0.05) * steps      # it is to have learnt something first
        return add_critic_loss(plain, made, true, model["critic"], model["light"].decoder[-1].weight, asked)

    if not run.train(step, minutes):
        return None
    model.load_state_dict(run.averaged)
    path = folder / "light_decoder.safetensors"
    save(model["light"], path)
    return path


@torch.no_grad()
def gate(vae, light: nn.Module, world: World, probe: FaceProbe, clips: int = TESTED) -> dict[str, dict[str, float]]:
    """`full` and `light`: the measures of held-out clips, and `ms`, of a frame."""
    batch = world.batch(6, 0, clips, TESTED_FRAMES, held_out=True)
    latents = [flat_vae.encode(vae, clip[None]) for clip in pictures(batch.frames)]
    found = {}
    for name, decoder in (("full", lambda x: flat_vae.decode(vae, x)), ("light", lambda x: decode(light, x))):
        since = time.perf_counter()
        made = torch.cat([as_frames(decoder(x)) for x in latents])
        seconds = time.perf_counter() - since
        found[name] = {**measures(probe, batch, made), "ms": 1000 * seconds / (clips * TESTED_FRAMES)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path, help="the finished VAE, whose latents these are")
    parser.add_argument("folder", type=Path, help="of the run: checkpoint, log, at its end light_decoder.safetensors")
    parser.add_argument("--minutes", type=float, default=9.0, help="end this slice of the run after so long")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--gate", type=Path, metavar="WEIGHTS", help="measure these instead, or a checkpoint.pt")
    options = parser.parse_args()
    vae, world = load_vae(options.vae, options.device).eval(), World(size=SIZE)
    if options.gate:
        found = gate(vae, load_light(options.gate), world, load_face_probe())
        print(json.dumps({who: {name: round(value, 4) for name, value in row.items()} for who, row in found.items()},
                         indent=1))
    else:
        print(train(vae, options.folder, world, options.minutes, options.device, options.steps) or "it is in training")


if __name__ == "__main__":
    main()
