"""The face probe: who a frame of the puppet shows, how the head is held, what the mouth does; 0.5 M parameters.

It finds head and chest, turns each straight, and predicts the true parameters that the frame was drawn from.
`python -m training.puppet.face_probe FOLDER --minutes 9` trains it; its `detect` is for pipelines/metrics/report.py.
"""
import argparse
import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lodestar.pipelines.metrics.faces import Detection
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, grid_sample, interpolate

from .drawing import BODY_PIVOT, HEAD_CENTRE, STATE
from .identity import LETTERS, Identity
from .run import Run
from .traits import (
    MEASURED,
    OPTIONS,
    PLACES,
    Statistics,
    embedding,
    identity_error,
    measure_traits,
    moles_there,
    option_indices,
    statistics,
    true_embedding,
)
from .wear import wear_pictures
from .world import World

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "puppet" / "face_probe.safetensors"
SIZE, CANVAS = 64, 64.0
PLACED = ("head_x", "head_y", "head_scale", "head_tilt", "sway", "lean", "breath")
POSE = ("head_x", "head_y", "head_scale", "head_tilt", "turn", "nod")
RATE, CHARACTERS, MOMENTS, LOOKS, UNSURE = 0.02, 32, 3, 2, 0.15
HEAD, CHEST, BADGE = (-23, -25, 23, 21), (-26, -32, 26, -6), (-14, -19, 14, -7)  # left, top, right, bottom


class Prediction(NamedTuple):
    """Per frame: `embeddings` (T, D) of traits.py, `states` (T, len(STATE)) in the units of motion.py and speech.py,
    `logits` (T, moles + options)."""
    embeddings: Tensor
    states: Tensor
    logits: Tensor

    def state(self, name: str) -> Tensor:
        return self.states[:, STATE.index(name)]

    @property
    def openings(self) -> Tensor:
        return self.state("mouth_open")

    @property
    def poses(self) -> Tensor:
        """(T, len(POSE)), each about 1 where it moves far."""
        far = torch.tensor([4.0, 2.0, 0.05, 0.16, 1.0, 1.0])
        rest = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        return (self.states[:, [STATE.index(name) for name in POSE]] - rest) / far

    def choices(self, name: str) -> list[str]:
        """The most probable of traits.OPTIONS[name] in each frame."""
        words, found = OPTIONS[name], option_logits(self.logits)[name]
        return [words[index] for index in found.argmax(-1).tolist()]

    @property
    def letters(self) -> list[str]:
        """What the chest says in each frame."""
        slots = [self.choices(f"letter{index}") for index in range(LETTERS)]
        return ["".join(word).strip() for word in zip(*slots, strict=True)]


def option_logits(logits: Tensor) -> dict[str, Tensor]:
    parts = logits[..., len(PLACES):].split([len(options) for options in OPTIONS.values()], -1)
    return dict(zip(OPTIONS, parts, strict=True))


def reader(widths: tuple[tuple[int, int], ...], thin: int, cells: int, features: int) -> nn.Sequential:
    """3x3 convolutions of (channels, stride), then all that is left, thinned out, to one vector."""
    layers: list[nn.Module] = []
    before = 3
    for width, stride in (*widths, (thin, 0)):
        kernel = 3 if stride else 1
        layers += [nn.Conv2d(before, width, kernel, max(stride, 1), kernel // 2, bias=False), nn.BatchNorm2d(width),
                   nn.SiLU()]
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(thin * cells, features), nn.SiLU())


class FaceProbe(nn.Module):
    def __init__(self):
        super().__init__()
        self.whole = reader(((16, 2), (24, 2), (40, 2), (40, 1)), 16, 64, 64)
        self.head = reader(((24, 2), (40, 2), (40, 1), (64, 2), (64, 1)), 24, 36, 128)
        self.chest = reader(((16, 2), (24, 2), (40, 2), (40, 1)), 16, 18, 64)
        self.badge = reader(((16, 2), (32, 2), (32, 1)), 10, 84, 80)
        self.first = nn.Linear(64, len(PLACED))
        outputs = len(MEASURED) + len(PLACES) + sum(map(len, OPTIONS.values())) + len(STATE)
        self.last = nn.Linear(64 + 128 + 64 + 80, outputs)
        for name, count in (("mean", len(MEASURED)), ("spread", len(MEASURED)), ("state_mean", len(STATE)),
                            ("state_spread", len(STATE)), ("share", outputs - len(MEASURED) - len(STATE))):
            self.register_buffer(name, torch.ones(count))
        self.placed = [STATE.index(name) for name in PLACED]

    @property
    def world(self) -> Statistics:
        return Statistics(self.mean, self.spread, self.state_mean, self.state_spread, self.share)

    def forward(self, pictures: Tensor, placed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, 3, 64, 64) in 0..1 to the first guess of PLACED, lengths and states, all standardised, and logits.
        `placed`: where head and chest are, instead of the guess."""
        pictures = pictures - 0.5
        seen = self.whole(pictures)
        guess = self.first(seen)
        held = guess.detach() if placed is None else placed
        place = held * self.state_spread[self.placed] + self.state_mean[self.placed]
        x, y, scale, tilt, sway, lean, breath = place.unbind(1)
        head = straight(pictures, HEAD, (48, 48), HEAD_CENTRE[0] + x, HEAD_CENTRE[1] + y, tilt, scale.clamp(0.5, 2))
        pivot = (BODY_PIVOT[0] + sway, BODY_PIVOT[1] + 0.6 * breath, lean, torch.ones_like(sway))
        chest, badge = (straight(pictures, window, size, *pivot) for window, size in
                        ((CHEST, (24, 48)), (BADGE, (24, 56))))
        read = self.last(torch.cat([seen, self.head(head), self.chest(chest), self.badge(badge)], 1))
        numbers, states, logits = read.split([len(MEASURED), len(STATE), len(self.share)], 1)
        return guess, numbers, states.index_add(1, torch.tensor(self.placed, device=states.device), held), logits

    @torch.inference_mode()
    def read(self, frames: Tensor) -> Prediction:
        """(T, H, W, 3), float 0..1 or uint8, of any size."""
        pictures = (frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()).movedim(-1, 1)
        if pictures.shape[-2:] != (SIZE, SIZE):
            pictures = interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
        found = [self(piece.to(self.mean))[1:] for piece in pictures.split(64)]
        numbers, states, logits = (torch.cat(column).cpu() for column in zip(*found, strict=True))
        probable = torch.cat([logits[:, :len(PLACES)].sigmoid(),
                              *(part.softmax(-1) for part in option_logits(logits).values())], 1)
        world = Statistics(*(tensor.cpu() for tensor in self.world))
        return Prediction(embedding(numbers, probable, world), states * world.state_spread + world.state_mean, logits)

    def detect(self, frames: Tensor) -> Detection:
        """As `evaluate` of pipelines/metrics/report.py wants it."""
        seen = self.read(frames)
        return Detection(seen.embeddings, seen.openings)


def straight(pictures: Tensor, window: tuple[int, ...], size: tuple[int, int], x: Tensor, y: Tensor, angle: Tensor,
             scale: Tensor) -> Tensor:
    """(B, 3, *size): what lies in `window` of a part whose middle is at x, y (B,), turned and scaled back."""
    left, top, right, bottom = window
    v = (top + (bottom - top) * (torch.arange(size[0], device=x.device) + 0.5) / size[0])[:, None]
    u = left + (right - left) * (torch.arange(size[1], device=x.device) + 0.5) / size[1]
    x, y, cos, sin = (value.view(-1, 1, 1) for value in (x, y, scale * angle.cos(), scale * angle.sin()))
    grid = torch.stack([x + cos * u - sin * v, y + sin * u + cos * v], -1) / (CANVAS / 2) - 1
    return grid_sample(pictures, grid, align_corners=False)


@functools.cache
def load_face_probe(weights: Path = WEIGHTS) -> FaceProbe:
    """With the trained weights."""
    probe = FaceProbe()
    probe.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                         for name, tensor in load_file(weights).items()})
    return probe.eval()


class Batch(NamedTuple):
    """Frames (N, 3, 64, 64) of some times of each of `people` in turn, and what is true of them: `numbers` with NaN
    where hidden, `moles`, `choices` (N, options), `states`."""
    people: list[Identity]
    frames: Tensor
    numbers: Tensor
    moles: Tensor
    choices: Tensor
    states: Tensor


def draw_batch(world: World, seed: int, index: int, characters: int, moments: int, held_out: bool = False) -> Batch:
    draws = np.random.default_rng([seed, index, 0x3E, held_out])
    takes = [world.take(int(number), held_out) for number in draws.integers(1 << 62, size=characters)]
    when = draws.integers(0, 1 << 20, (characters, moments))
    frames = torch.cat([take.frames(at, SIZE) for take, at in zip(takes, when, strict=True)])
    people = [take.identity for take in takes for _ in range(moments)]
    states = np.concatenate([take.states(at) for take, at in zip(takes, when, strict=True)])
    numbers, moles = (torch.from_numpy(np.stack(list(map(kind, people)))) for kind in (measure_traits, moles_there))
    return Batch(people, frames.permute(0, 3, 1, 2).float() / 255, numbers, moles,
                  torch.tensor(list(map(option_indices, people))), torch.from_numpy(states))


def error(probe: FaceProbe, given: Batch, generator: torch.Generator) -> Tensor:
    """Squared errors of numbers and states, cross entropies of the rest. Head and chest are held about as well as the
    first guess will find them."""
    states = (given.states - probe.state_mean) / probe.state_spread
    place = states[:, probe.placed]
    held = place + UNSURE * torch.randn(place.shape, generator=generator)
    guess, numbers, moved, logits = probe(wear_pictures(given.frames, generator), held)
    wanted = ((given.numbers - probe.mean) / probe.spread).nan_to_num(0)
    loss = 4 * (numbers - wanted).square().mean() + 2 * (moved - states).square().mean()
    loss = loss + (guess - place).square().mean()
    loss = loss + binary_cross_entropy_with_logits(logits[:, :len(PLACES)], given.moles)
    options = option_logits(logits).values()
    return loss + sum(cross_entropy(part, true) for part, true in zip(options, given.choices.T, strict=True)) / 4


def r_squared(found: Tensor, true: Tensor) -> float:
    """R2 over what is known."""
    known = true.isfinite()
    found, true = found[known].double(), true[known].double()
    return round(1 - float((found - true).square().sum() / (true - true.mean()).square().sum()), 3)


def scores(probe: FaceProbe, given: Batch, moments: int) -> dict:
    """R2 of numbers and states that can be seen; shares of choices, letters, whole words and moles read right; how far
    frames of one character, of two strangers, and frame and truth are from each other."""
    seen = probe.read(given.frames.movedim(1, -1))
    scale = embedding(torch.ones(len(MEASURED)), probe.share, probe.world)[:len(MEASURED)]
    wanted = (given.numbers - probe.mean) / probe.spread
    states = given.states.clone()
    for name in ("gaze_x", "gaze_y"):
        states[given.states[:, STATE.index("blink")] > 0.5, STATE.index(name)] = torch.nan
    right = {name: share(part.argmax(1) == true) for (name, part), true in
             zip(option_logits(seen.logits).items(), given.choices.T, strict=True)}
    truth = torch.stack([true_embedding(who, probe.world) for who in given.people])
    mine, before, other, true = (array.view(-1, moments, truth.shape[1])[:, 1:] for array in (
        seen.embeddings, seen.embeddings.roll(1, 0), seen.embeddings.roll(moments, 0), truth))
    pairs = {"same": before, "strangers": other, "truth": true}
    return {"numbers": {name: r_squared(seen.embeddings[:, column] / scale[column], wanted[:, column])
                        for column, name in enumerate(MEASURED)},
            "states": {name: r_squared(seen.states[:, column], states[:, column]) for column, name in enumerate(STATE)},
            "choices": right, "moles": share((seen.logits[:, :len(PLACES)] > 0) == (given.moles > 0)),
            "words": share(torch.tensor([word == who.letters for word, who in
                                         zip(seen.letters, given.people, strict=True)])),
            "identity_error": {name: round(float(identity_error(mine, far).mean()), 3) for name, far in pairs.items()},
            "cosine": {name: round(float(torch.cosine_similarity(mine, far, -1).mean()), 3)
                       for name, far in pairs.items()}}


def share(right: Tensor) -> float:
    return round(float(right.float().mean()), 3)


def commit() -> str:
    """The last one that changed what is trained here, "+" where there are changes since."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words, "--", "training"], cwd=WEIGHTS.parents[2], capture_output=True, text=True,
                              check=True).stdout.strip()

    return git("log", "-1", "--format=%h") + ("+" if git("status", "--porcelain") else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the run: its checkpoint, log, scores and finished weights")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=9.0, help="end this slice of the run after so long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    record = options.folder / "face_probe.json"
    slices = json.loads(record.read_text(encoding="utf-8"))["slices"] if record.is_file() else []
    slices.append({"commit": commit(),
                   "command": f"python -m training.puppet.face_probe FOLDER {' '.join(sys.argv[2:])}"})
    world, probe, generator = World(), FaceProbe(), torch.Generator()
    for name, values in statistics(draw_batch(world, 9, 0, 256, 8).states.numpy())._asdict().items():
        getattr(probe, name).copy_(values)
    run = Run(options.folder, probe, options.steps, RATE)

    @functools.lru_cache(1)
    def draw_next(index: int) -> Batch:
        return draw_batch(world, options.seed + 1, index, CHARACTERS, MOMENTS)

    def step(index: int) -> Tensor:
        generator.manual_seed(index)
        return error(probe, draw_next(index // LOOKS), generator)     # drawing takes as long as two looks

    run.train(step, options.minutes)
    probe.load_state_dict(run.averaged)
    probe.eval()
    plain = draw_batch(world, 0, 0, 192, 6, held_out=True)
    found = {"held_out": scores(probe, plain, 6),
             "held_out_worn": scores(probe, plain._replace(frames=wear_pictures(plain.frames, generator)), 6)}
    weights = {name: tensor.half() if tensor.is_floating_point() else tensor
               for name, tensor in probe.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()},
              options.folder / "face_probe.safetensors")
    slices[-1]["steps"] = run.done
    provenance = {"slices": slices, "seed": options.seed, "batch": [CHARACTERS, MOMENTS], "loss": run.log[::8]}
    record.write_text(json.dumps(provenance | found, indent=1), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
