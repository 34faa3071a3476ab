"""What a VAE keeps of characters it never saw: `python -m training.puppet.vae_gate WEIGHTS --sheet OUT.png`.

Ends with 1 where that is too little to make latents of (WANTED).
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from lodestar.pipelines.metrics.sharpness import sharpness
from PIL import Image
from torch import Tensor

from . import flat_vae
from .face_probe import FaceProbe, load_face_probe
from .precision import fast
from .traits import identity_error, true_embedding
from .vae import SIZE, load_vae, pictures, save
from .world import Batch, World

STILLS, CLIPS, FRAMES, SHOWN = 48, 6, 49, 12
WANTED = {"stills.psnr": 28.0, "stills.sharpness": 0.8, "stills.letters": 1.0, "clips.lips": 0.85}


def measures(probe: FaceProbe, batch: Batch, made: Tensor) -> dict[str, float]:
    """Of frames (B, T, H, W, 3) in 0..1 against those of `batch`: `psnr` in dB; `sharpness` as a share of the truth's;
    `letters`, the share of frames whose whole word is read right of those whose truth is; `identity`, how much larger
    the error against what was drawn is than the true frames'; `opening`, the mouth's root mean square error; of clips,
    `lips`, how it correlates with the true one over time."""
    true = batch.frames.float() / 255
    frames = made.shape[1]
    seen, wanted = (probe.read(x.flatten(0, 1)) for x in (made, true))
    words = [take.identity.letters for take in batch.takes for _ in range(frames)]
    legible = [word == read for word, read in zip(words, wanted.letters, strict=True)]
    right = [word == read for word, read in zip(words, seen.letters, strict=True)]
    who = torch.stack([true_embedding(take.identity, probe.world) for take in batch.takes]).repeat_interleave(frames, 0)
    found = {"psnr": float(-10 * (made - true).square().flatten(1).mean(1).log10().mean()),
            "sharpness": float(sharpness(made.flatten(0, 1)).mean() / sharpness(true.flatten(0, 1)).mean()),
            "letters": float(np.mean(np.array(right)[legible])),
            "identity": float((identity_error(seen.embeddings, who) - identity_error(wanted.embeddings, who)).mean()),
            "opening": float((seen.openings - wanted.openings).square().mean().sqrt())}
    rows = zip(*(x.openings.view(-1, frames).numpy() for x in (seen, wanted)), strict=True)
    return found | ({"lips": float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in rows]))} if frames > 1 else {})


@torch.no_grad()
def gate(vae, world: World, probe: FaceProbe, clips: int = CLIPS) -> tuple[dict[str, float], Tensor]:
    """The measures of stills and of clips, and true and made stills (2, B, H, W, 3)."""
    batch = world.batch(5, 0, STILLS, 1, held_out=True)
    device = next(vae.parameters()).device
    shown = pictures(batch.frames).to(device)
    made = back(vae, shown)
    found = {f"stills.{name}": value for name, value in measures(probe, batch, made).items()}
    if clips:
        batch = world.batch(6, 0, clips, FRAMES, held_out=True)
        moving = torch.cat([back(vae, clip[None].to(device)) for clip in pictures(batch.frames)])
        found |= {f"clips.{name}": value for name, value in measures(probe, batch, moving).items()}
    return found, torch.stack([as_frames(shown), made])[:, :, 0]


def back(vae, x: Tensor) -> Tensor:
    with fast(x.device.type):
        return as_frames(flat_vae.decode(vae, flat_vae.encode(vae, x)))


def as_frames(x: Tensor) -> Tensor:
    """(B, 3, T, H, W) in -1..1 -> (B, T, H, W, 3) in 0..1."""
    return (x.float().cpu().movedim(1, -1) / 2 + 0.5).clamp(0, 1)


def list_failures(found: dict[str, float]) -> list[str]:
    return [f"{name}: got {found[name]:.3f}, wanted {least} or more" for name, least in WANTED.items()
            if name in found and not found[name] >= least]      # of stills alone, no clips' figure


def sheet(shown: Tensor) -> Image.Image:
    """True and made (2, B, H, W, 3) in 0..1, the first of them, one below the other; twice as large."""
    rows = torch.cat([shown[:, :SHOWN], shown[:, SHOWN:2 * SHOWN]])
    picture = torch.cat([torch.cat(list(row), 1) for row in rows])
    picture = (255 * picture).round().byte().repeat_interleave(2, 0).repeat_interleave(2, 1)
    return Image.fromarray(picture.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="safetensors, or the checkpoint.pt of a run")
    parser.add_argument("--save", type=Path, help="write these weights in fp16, such as to begin another run with")
    parser.add_argument("--sheet", type=Path, help="a picture: truth above, what came back below")
    parser.add_argument("--stills-only", action="store_true")
    options = parser.parse_args()
    vae = load_vae(options.weights)
    if options.save:
        save(vae, options.save)
    found, shown = gate(vae, World(size=SIZE), load_face_probe(), 0 if options.stills_only else CLIPS)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}, indent=1))
    if options.sheet:
        sheet(shown).save(options.sheet)
    sys.exit("\n".join(list_failures(found)) or 0)


if __name__ == "__main__":
    main()
