"""Clips of the puppet's world as latents, made once: `python -m training.puppet.latents VAE FOLDER --clips 2400`.

Of every clip: its latents as one stream, so that any but the first is a video-type latent; the context of some chunks
re-encoded, which begins with an image-type latent; pictures of the same person at a grid of times inside the clip,
before and after it; two short videos of the same person at other times, one where the clip is and one elsewhere, with
their phonemes and audio features, and where the lips are. Files that are there already are kept, so the work can be
done in slices, and by several processes at once (`--part 0/2`).
"""
import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from lodestar.techniques.audio.mel import mel_steps
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import max_pool2d

from . import flat_vae
from .drawing import STATE, draw
from .network import CONTEXT
from .precision import fast
from .speech import SAMPLE_RATE, Track, roughen
from .vae import SIZE, load_vae, pictures
from .world import Take, World

LATENTS = 25                                            # of a clip: 97 frames
FRAMES, CONTEXT_FRAMES = 4 * LATENTS - 3, 4 * CONTEXT - 3
RE_ENCODED = (4, 8, 12)                             # latents at which a chunk may begin with an encoded context
PICTURES = (-60, -36, -16, -4, 4, 16, 28, 40, 52, 64, 76, 92, 104, 116, 132, 152, 176)   # frames from the clip's first
MARGIN = 2                                               # rows of speech before the first frame and after the last
SILENT_SHARE = 0.1                                      # of the clips: nobody speaks, the person moves
REFERENCE, REFERENCE_FRAMES = 6, 21                     # latents and frames of a video that is to show who it is
FAR_FRAMES = (400, 4000)                                # from the clip to such a video
CLIPS, PER_FILE = 2400, 50
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
    with fast(str(device)):
        latents = flat_vae.encode(vae, pictures(frames).to(device))
    return comfy.latent_formats.Wan21().process_in(latents.float()).contiguous().cpu()


def clip(vae, world: World, number: int, device) -> dict[str, Tensor]:
    draw = np.random.default_rng([number, 0xC1])
    take = world.take(number)
    silent = draw.random() < SILENT_SHARE
    if silent:
        take = dataclasses.replace(take, track=SILENCE)
    first = int(draw.integers(0, 1 << 16))
    frames = take.frames(first + np.arange(FRAMES), world.size)
    windows = torch.stack([frames[4 * latent:4 * latent + CONTEXT_FRAMES] for latent in RE_ENCODED])
    stills = take.frames(first + np.array(PICTURES), world.size)
    middles = first + np.maximum(4 * np.arange(LATENTS) - 1, 0)

    def encode_audio(first: int, frames: int) -> Tensor:
        wave = take.waveform(first - MARGIN - 1, frames + 2 * MARGIN + 2)
        wave = torch.from_numpy(wave if silent else roughen(wave, draw))
        return mel_steps(wave, 1, 1 + frames + 2 * MARGIN).half()

    rows = encode_audio(first, FRAMES)
    videos = [first + int(draw.integers(*FAR_FRAMES)) for _ in range(2)]
    there = dataclasses.replace(take, identity=take.identity.in_scene(int(draw.integers(1 << 30))))
    shown = torch.stack([who.frames(begin + np.arange(REFERENCE_FRAMES), world.size)
                         for who, begin in zip((take, there), videos, strict=True)])
    return {"latents": encode(vae, frames[None], device)[0].half(),
            "re-encoded": encode(vae, windows, device).half(),
            "pictures": encode(vae, stills[:, None], device)[:, :, 0].half(),
            "videos": encode(vae, shown, device).half(),
            "videos_audio": torch.stack([encode_audio(begin, REFERENCE_FRAMES) for begin in videos]),
            "lips": lips(take, middles, world.size).half(), "audio": rows,
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
    return {**found, "silent": (found["audio"] <= -1).flatten(1).all(1)}


def make(vae, world: World, folder: Path, clips: int, minutes: float, device, part: tuple[int, int] = (0, 1)) -> bool:
    """The files that are missing, for as long as `minutes`; whether there are all of this part. A file is written whole
    or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    started, missing = time.monotonic(), False
    for number in range(part[0] * PER_FILE, clips, part[1] * PER_FILE):
        path = folder / f"clips_{number:06d}.safetensors"
        if path.is_file():
            continue
        if time.monotonic() - started > minutes * 60:
            missing = True
            break
        made = [clip(vae, world, number + index, device) for index in range(PER_FILE)]
        unfinished = path.with_suffix(".unfinished")
        save_file({name: torch.stack([one[name] for one in made]).contiguous() for name in made[0]}, unfinished)
        unfinished.replace(path)
        print(f"{path.name} {(time.monotonic() - started) / 60:.1f} min", flush=True)
    return not missing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vae", type=Path, help="the trained VAE; its decoder may still be in training")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--part", default="0/1", help="this process's share of the files: 0/2 and 1/2 for two")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    make(load_vae(options.vae, options.device).eval(), World(size=SIZE), options.folder, options.clips, options.minutes,
         options.device, (part, parts))


if __name__ == "__main__":
    main()
