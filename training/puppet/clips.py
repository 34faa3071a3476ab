"""The world's latents as training clips of the product: `python -m training.puppet.clips LATENTS CLIPS`.

What `training.puppet.latents` made becomes a folder of clips as Make Training Clips leaves it, so that the puppet's
students are trained by `scripts/train.py`. With `--perturbed` each has its spoilt latents, too, for restorative flow:
those that `training.puppet.persistent` trains on, made where they are missing.
"""
import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch
from lodestar.pipelines.training.clip_store import ClipFormat, ClipStore, SpeechFormat
from torch import Tensor

from .latents import FRAMES, LATENTS, MARGIN, PICTURES, RE_ENCODED, load
from .network import CHUNK, CONTEXT
from .persistent import load_spoilt, make_spoilt
from .vae import SIZE, load_vae
from .world import World

FORMAT = ClipFormat("WanVAE", 16, SIZE, SIZE, 8, 4, "25", LATENTS, CHUNK, CONTEXT, speech=SpeechFormat(
    "the puppet", 5, 16, 25.0))


def arrays_of(clips: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One clip's arrays; latents go from the network's space to the VAE's."""
    import comfy.latent_formats
    out = comfy.latent_formats.Wan21().process_out

    def of_vae(latents: Tensor) -> Tensor:
        """(..., 16, t, h, w)"""
        flat = latents.float().reshape(-1, *latents.shape[-4:])
        return out(flat).reshape(latents.shape).half()

    spoilt = {"perturbed": of_vae(clips["spoilt"][number])} if "spoilt" in clips else {}
    return {**spoilt, "latents": of_vae(clips["latents"][number]), "contexts": of_vae(clips["re-encoded"][number]),
            "context_starts": torch.tensor(RE_ENCODED),
            "pictures": of_vae(clips["pictures"][number][:, :, None])[:, :, 0],
            "picture_frames": torch.tensor(PICTURES), "mask": clips["lips"][number][None].half(),
            "speech": clips["audio"][number][MARGIN:MARGIN + FRAMES].movedim(1, 0).half()}


def make(clips: dict[str, Tensor], folder: Path) -> ClipStore:
    """Those that are missing. `clips`: of `latents.load`, with `spoilt` ones beside them where they are wanted."""
    store = ClipStore.create(folder, replace(FORMAT, perturbed="spoilt" in clips))
    with store.writer():
        for number, silent in enumerate(clips["silent"].tolist()):
            name = f"world_{number:06d}"
            if not store.path(name).is_file():
                store.write(name, arrays_of(clips, number), {"source": name, "silent": silent, "person": name})
    return store.refresh()


def main() -> None:
    from .export import weights_file
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("latents", type=Path, help="the folder that training.puppet.latents fills")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=800)
    parser.add_argument("--perturbed", action="store_true", help="with spoilt latents, 3 s a clip")
    parser.add_argument("--vae", type=Path, default=weights_file("vae"), help="with which the latents were made")
    options = parser.parse_args()
    clips = load(options.latents, options.clips)
    if options.perturbed:
        make_spoilt(load_vae(options.vae).eval(), World(size=SIZE), options.latents, options.clips, math.inf, "cpu")
        clips["spoilt"] = load_spoilt(options.latents, options.clips)
    print(f"{len(make(clips, options.folder))} clips in {options.folder}")


if __name__ == "__main__":
    main()
