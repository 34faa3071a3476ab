"""Predictions from a take, per frame and per measured chunk, and the figures that the claims are about.

A figure is one number per character. Identity errors are in the world's standard deviations (traits.py); mouth, pose
and expression are read by the puppet's probe and held against the parameters that were to be.
"""
from collections.abc import Callable, Mapping

import numpy as np
import torch
from lodestar.pipelines.metrics.colour import ciede2000, lab_of_light, linear_light
from lodestar.pipelines.metrics.sharpness import sharpness
from lodestar.pipelines.metrics.track import cells
from lodestar.training.puppet.drawing import STATE
from lodestar.training.puppet.face_probe import FaceProbe
from lodestar.training.puppet.regions import empty_room
from lodestar.training.puppet.traits import identity_error, true_embedding
from lodestar.training.puppet.world import FPS
from torch import Tensor

from .conditions import NEW, TIMELINE, chunk_at, first_new_frame
from .statistics import best_lag, by_lag, slopes
from .takes import STORY, Cast, Codec

REACH_FRAMES, GRID = 8, 4       # of lags; of colours, cells each way
NEAR = slice(12, 24)            # of a chunk's 36 frames: latents 7 to 9, around the middle, which the skip is about
STORY_FRAMES = 12                # before and after a keyframe's time
NEUTRAL = 0.15                  # the expression about which the world's vary
FIGURES = {
    "identity": "identity error", "identity_slope": "identity drift a minute", "identity_end": "identity error, last",
    "letters": "letters read right", "sync": "lip sync", "lag": "lag, frames", "dynamics": "range of poses",
    "motion": "motion", "motion_pause": "motion in pauses", "mouth_pause": "mouth in pauses",
    "pose_apart": "pose from the reference's", "pose_near": "pose from the reference's, mid-chunk",
    "sharpness": "sharpness / true", "sharpness_slope": "sharpness drift a minute",
    "colour": "colour off, CIEDE2000", "colour_slope": "colour drift a minute", "arrival": "expression at keyframes",
    "background": "background error", "tokens": "tokens of the reference", "attention": "pairs of self-attention"}


def predictions(probe: FaceProbe, codec: Codec, cast: Cast, size: int, chunks: tuple[int, ...],
             frames_of: Callable[[int], Tensor]) -> dict[str, Tensor]:
    """(B, chunks, 36, ...) each: `error`, `opening`, `poses`, `expression`, `letters`, `sharpness` over the true one;
    `colour` and `background` (B, chunks); `reference` (B, poses) is how the picture holds its head. `frames_of` gives a
    chunk's frames."""
    found: dict[str, list[Tensor]] = {}
    for chunk in chunks:
        frames = frames_of(chunk).clamp(0, 1)
        for name, values in read(probe, cast, size, chunk, frames).items():
            found.setdefault(name, []).append(values)
    stacked = {name: torch.stack(values, 1) for name, values in found.items()}
    return {**stacked, "chunks": torch.tensor(chunks), "reference": probe.read(codec.decode(cast.picture)[:, 0]).poses}


def read(probe: FaceProbe, cast: Cast, size: int, chunk: int, frames: Tensor) -> dict[str, Tensor]:
    seen = probe.read(frames.flatten(0, 1))
    many = frames.shape[:2]
    wanted = torch.stack([true_embedding(take.identity, probe.world) for take in cast.takes])
    words = [take.identity.letters for take in cast.takes for _ in range(many[1])]
    true = torch.stack([take.frames(numbers(chunk), size) for take in cast.takes]).float() / 255
    rooms = torch.stack([empty_room(take.identity, size) for take in cast.takes]).float()[:, None] / 255
    sharp, true_sharp = (sharpness(part.flatten(0, 1)).view(many) for part in (frames, true))
    return {"error": identity_error(seen.embeddings, wanted.repeat_interleave(many[1], 0)).view(many),
            "opening": seen.openings.view(many), "poses": seen.poses.unflatten(0, many),
            "expression": seen.state("expression").view(many),
            "letters": torch.tensor([a == b for a, b in zip(seen.letters, words, strict=True)]).view(many),
            "sharpness": sharp / true_sharp.mean(1, keepdim=True),
            "background": away_from_room(frames, rooms, true),
            "colour": ciede2000(*(lab(part) for part in (frames, true))).mean((1, 2)).float()}


def away_from_room(frames: Tensor, rooms: Tensor, true: Tensor) -> Tensor:
    """(B,): RMS of frames (B, T, H, W, 3) against the rooms (B, 1, H, W, 3), where no true frame shows anybody."""
    empty = (true == rooms).all(-1).all(1)
    apart = (frames - rooms).square().mean(-1).mean(1)
    return ((apart * empty).sum((1, 2)) / empty.sum((1, 2)).clamp(min=1)).sqrt()


def numbers(chunk: int, reach: int = 0) -> np.ndarray:
    """Of the frames that a chunk adds to the take, and of `reach` more on both sides."""
    first = first_new_frame(chunk)
    return np.arange(first - reach, first + NEW * TIMELINE.temporal_ratio + reach)


def lab(frames: Tensor) -> Tensor:
    """(B, T, H, W, 3) -> (B, GRID, GRID, 3), of the mean light over the frames: motion counts little."""
    light = cells(linear_light(frames.flatten(0, 1)), GRID, GRID)
    return lab_of_light(light.unflatten(0, frames.shape[:2]).mean(1))


def figures(seen: dict[str, Tensor], cast: Cast, usual: tuple[int, ...], counts: Mapping[str, float] | None = None
            ) -> dict[str, np.ndarray]:
    """FIGURES, (characters,) each, over the `usual` chunks, so that all takes are judged by the same ones; of `counts`
    what is the same for all characters."""
    counted = {name: np.full(len(cast.takes), (counts or {}).get(name, np.nan)) for name in ("tokens", "attention")}
    looked = seen["chunks"].tolist()
    places = [looked.index(chunk) for chunk in usual]
    arrays = {name: values.numpy()[:, places] for name, values in seen.items()
              if name not in ("chunks", "reference")}
    chunks, expression = list(usual), seen["expression"].numpy()
    error, poses, opening = (arrays[name].astype(np.float64) for name in ("error", "poses", "opening"))
    minutes = np.array([numbers(chunk).mean() for chunk in chunks]) / FPS / 60
    apart = np.sqrt(np.square(poses - seen["reference"].numpy()[:, None, None]).mean(-1))
    lags = correlations(opening, chunks, cast)
    per_chunk = {name: arrays[name].astype(np.float64).mean(2) for name in ("error", "sharpness")}
    moved = np.square(np.diff(poses, axis=2)).mean(-1)
    quiet = np.stack([[~take.speaking(numbers(chunk)) for chunk in chunks] for take in cast.takes])
    return {"identity": error.mean((1, 2)), "identity_slope": slopes(minutes, per_chunk["error"]),
            "identity_end": per_chunk["error"][:, -1], "letters": arrays["letters"].astype(float).mean((1, 2)),
            "sync": lags[:, REACH_FRAMES], "lag": np.array([best_lag(row) for row in lags]),
            "dynamics": np.sqrt(poses.reshape(len(poses), -1, poses.shape[-1]).var(1).mean(1)),
            "motion": np.sqrt(moved.mean((1, 2))),
            "motion_pause": np.sqrt(mean_where(moved, quiet[:, :, 1:] & quiet[:, :, :-1])),
            "mouth_pause": mean_where(opening, quiet), "pose_apart": apart.mean((1, 2)),
            "pose_near": apart[:, :, NEAR].mean((1, 2)), "sharpness": per_chunk["sharpness"].mean(1),
            "sharpness_slope": slopes(minutes, per_chunk["sharpness"]), "colour": arrays["colour"].mean(1),
            "colour_slope": slopes(minutes, arrays["colour"]),
            "arrival": measure_story(expression, looked, cast), "background": arrays["background"].mean(1), **counted}


def correlations(opening: np.ndarray, chunks: list[int], cast: Cast) -> np.ndarray:
    """(characters, 2 * REACH_FRAMES + 1): of the mouth as it is seen with the mouth as it was to be, by lag."""
    column = STATE.index("mouth_open")
    return np.stack([by_lag(seen, np.stack([take.states(numbers(chunk, REACH_FRAMES))[:, column] for chunk in chunks]),
                            REACH_FRAMES) for seen, take in zip(opening, cast.takes, strict=True)])


def mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(characters,) over all else; NaN where nothing is left."""
    count, total = mask.sum((1, 2)), (values * mask).sum((1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def measure_story(expression: np.ndarray, chunks: list[int], cast: Cast) -> np.ndarray:
    """(characters,): how far the expression went from neutral to where the story had it, around the keyframes' times,
    1 being all the way. NaN where the chunks of these times were not measured."""
    found = []
    for (seconds, _), (_, wanted) in zip(cast.story, STORY, strict=True):
        chunk = min(chunk_at(seconds), cast.chunks - 1)
        if chunk not in chunks:
            return np.full(len(expression), np.nan)
        near = np.abs(numbers(chunk) - float(seconds * FPS)) <= STORY_FRAMES
        found.append((expression[:, chunks.index(chunk), near].mean(1) - NEUTRAL) / (wanted - NEUTRAL))
    return np.mean(found, 0)
