"""Clips of random latents, as a store has them, for the recipes' tests."""
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from draws import random
from lodestar.pipelines.training.clip_store import ClipFormat, ClipStore, SpeechFormat
from lodestar.pipelines.training.clips import ClipInfo
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MadeClip:
    info: ClipInfo
    arrays: dict[str, Tensor]

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]


class MadeClips(list):
    digest = "made"


def make_clips(channels: int = 16, latents: int = 16, size: tuple[int, int] = (8, 8), count: int = 3,
               speech: tuple[int, int] | None = None, **info) -> MadeClips:
    """All that a store may have of a clip, and a path and a pair of takes; the last clip is silent."""
    clips = MadeClips()
    for number in range(count):
        seed = 100 * number
        arrays = {
            "latents": random(channels, latents, *size, seed=seed).half(),
            "contexts": random(2, channels, 2, *size, seed=seed + 1).half(), "context_starts": torch.tensor([1, 4]),
            "pictures": random(5, channels, *size, seed=seed + 2).half(),
            "picture_frames": torch.tensor([0, 12, 24, 36, 48]),
            "mask": random(1, latents, *size, seed=seed + 3).abs().clamp(max=1).half(),
            "perturbed": random(channels, latents, *size, seed=seed + 4).half(),
            "trajectory": random(5, channels, 8, *size, seed=seed + 5).half(),
            "trajectory_sigmas": torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]),
            "winner": random(channels, 5, *size, seed=seed + 6).half(),
            "loser": random(channels, 5, *size, seed=seed + 7).half()}
        if speech is not None:
            arrays["speech"] = random(speech[0], 400, speech[1], seed=seed + 8)
        base = ClipInfo(f"clip {number}", rate_hz=25.0, silent=number == count - 1)
        clips.append(MadeClip(replace(base, **info), arrays))
    return clips


def write_store(folder: Path, clips: MadeClips, speech: SpeechFormat | None = None, channels: int = 16,
                side: int = 64) -> ClipStore:
    """The clips in a folder, as Make Training Clips leaves them; paths and pairs are left out."""
    latents = clips[0]["latents"].shape[1]
    store = ClipStore.create(folder, ClipFormat("WanVAE", channels, side, side, 8, 4, "15", latents, 3, 2,
                                                speech=speech))
    for number, clip in enumerate(clips):
        arrays = {name: value for name, value in clip.arrays.items()
                  if name not in ("trajectory", "trajectory_sigmas", "winner", "loser")}
        store.write(f"clip_{number}", arrays, {"source": clip.info.name, "silent": clip.info.silent})
    return store.refresh()
