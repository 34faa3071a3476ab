"""Clips of the puppet's world as latents, made once: `python -m training.puppet.latents VAE FOLDER --clips 1200`.

Of every clip: its latents as one stream, so that any but the first is a video-type latent; the context of some windows
encoded afresh, which begins with an image-type latent; pictures of the same person at a grid of times inside the clip,
before and after it; what is heard, and where the lips are. Files that are there already are kept, so the work can be
done in slices, and by several processes at once (`--part 0/2`).
"""
import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from lodestar.techniques.speech_mel import mel_steps
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import max_pool2d

from .drawing import STATE, draw
from .hosts import wan_vae
from .network import CONTEXT
from .speech import SAMPLE_RATE, Track, roughened
from .vae import SIZE, WIDTH, pictures
from .world import Take, World

LATENTS = 25                                            # of a clip: 97 frames
FRAMES, CONTEXT_FRAMES = 4 * LATENTS - 3, 4 * CONTEXT - 3
ENCODED_AFRESH = (4, 8, 12)                             # latents at which a window may begin with an encoded context
PICTURES = (-60, -36, -16, -4, 4, 16, 28, 40, 52, 64, 76, 92, 104, 116, 132, 152, 176)   # frames from the clip's first
HEARD = 2                                               # rows of speech before the first frame and after the last
SILENT_SHARE = 0.1                                      # of the clips: nobody speaks, the person moves
PER_FILE = 50
SILENCE = Track("silence", np.zeros(SAMPLE_RATE * 10, np.int16), np.zeros(1, int), ("",),
                np.array([[0, SAMPLE_RATE * 10]]))


def lips(take: Take, frames: np.ndarray, size: int) -> Tensor:
    """(T, h, w) in 0..1: how much each latent cell changes, at most, when the mouth opens."""
    shut, wide = take.states(frames), take.states(frames)
    shut[:, STATE.index("mouth_open")], wide[:, STATE.index("mouth_open")] = 0, 1
    change = (draw(take.identity, shut, size).float() - draw(take.identity, wide, size).float()).abs().mean(-1)
    return (max_pool2d(change, 8) / 64).clamp(max=1)


@torch.no_grad()
def encode(vae, frames: Tensor, device) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, 16, t, h, w) as the network sees them: zero mean, unit spread."""
    import comfy.latent_formats
    with torch.autocast(str(device).split(":")[0], torch.bfloat16):
        latents = vae.encode(pictures(frames).to(device))
    return comfy.latent_formats.Wan21().process_in(latents.float()).cpu()


def clip(vae, world: World, number: int, device) -> dict[str, Tensor]:
    draw = np.random.default_rng([number, 0xC1])
    take = world.take(number)
    silent = draw.random() < SILENT_SHARE
    if silent:
        take = dataclasses.replace(take, track=SILENCE)
    first = int(draw.integers(0, 1 << 16))
    frames = take.frames(first + np.arange(FRAMES), world.size)
    windows = torch.stack([frames[4 * latent:4 * latent + CONTEXT_FRAMES] for latent in ENCODED_AFRESH])
    stills = take.frames(first + np.array(PICTURES), world.size)
    middles = first + np.maximum(4 * np.arange(LATENTS) - 1, 0)
    wave = take.waveform(first - HEARD - 1, FRAMES + 2 * HEARD + 2)
    heard = torch.from_numpy(wave if silent else roughened(wave, draw))
    return {"latents": encode(vae, frames[None], device)[0].half(),
            "afresh": encode(vae, windows, device).half(),
            "pictures": encode(vae, stills[:, None], device)[:, :, 0].half(),
            "lips": lips(take, middles, world.size).half(),
            "heard": mel_steps(heard, 1, 1 + FRAMES + 2 * HEARD).half(),
            "identity": torch.from_numpy(take.identity.vector), "seed": torch.tensor(number)}


def load(folder: Path, clips: int) -> dict[str, Tensor]:
    """The first `clips`, each tensor with a leading clip dimension; `silent` (clips,): nobody speaks."""
    paths = [folder / f"clips_{number:06d}.safetensors" for number in range(0, clips, PER_FILE)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: got no {missing[0]}, wanted {clips} clips; run python -m "
                                "training.puppet.latents first")
    files = [load_file(path) for path in paths]
    found = {name: torch.cat([file[name] for file in files])[:clips] for name in files[0]}
    return {**found, "silent": (found["heard"] <= -1).flatten(1).all(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path, help="the trained vae.safetensors")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=1200)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--part", default="0/1", help="this process's share of the files: 0/2 and 1/2 for two")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    world, vae, started = World(size=SIZE), wan_vae(WIDTH, options.device).eval(), time.monotonic()
    vae.load_state_dict({name: tensor.float() for name, tensor in load_file(options.vae).items()})
    for number in range(part * PER_FILE, options.clips, parts * PER_FILE):
        path = options.folder / f"clips_{number:06d}.safetensors"
        if path.is_file() or time.monotonic() - started > options.minutes * 60:
            continue
        made = [clip(vae, world, number + index, options.device) for index in range(PER_FILE)]
        save_file({name: torch.stack([one[name] for one in made]) for name in made[0]}, path)
        print(f"{path.name} {(time.monotonic() - started) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
