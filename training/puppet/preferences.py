"""TAVR's LoRAs of the finished puppet: `python -m training.puppet.preferences RUNS --hours 2`.

RUNS is the folder that `training.puppet.all` fills. `same_scene`, `cross_only` and `both_scenes` are flow matching on
videos of the same scene, of another, of the one and then the other (configs/). `preferred` goes on from `both_scenes`
with masked DPO on pairs of its own takes, of which the face probe finds one more the person. It may be ended at any
moment and begun again.
"""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lodestar.pipelines.headless.longcat_sampling import Request, sample
from lodestar.techniques.flow_schedules import schedule
from lodestar.techniques.preference import face_weight, masked_error, preference_loss
from lodestar.techniques.reference_tokens import Tokens
from lodestar.techniques.video_reference import VideoReference
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import flat_vae, lora, train
from .export import CONFIGS
from .face_probe import FaceProbe, load_face_probe
from .latents import LATENTS, REFERENCE, load
from .layouts import Clips, Config, Window, audio_features
from .network import CHUNK, CONFIG, CONTEXT, load_trained
from .precision import fast
from .regions import head_cells
from .run import Run
from .traits import identity_error, true_embedding
from .vae import SIZE, load_vae
from .world import Take, World

FLOWS, PREFERRED, FROM = ("same_scene", "both_scenes", "cross_only"), "preferred", "both_scenes"
TAKES, STEPS, SHIFT = 4, 8, 3.0         # takes of each clip, of which the best and the worst are a pair
MARGIN = 0.05                           # least difference of identity errors; the paper's 0.20 is of a cosine
AHEAD = 3                               # latents from the chunk's end to the video
PAIRS, BATCH = "pairs.safetensors", 8


def take_of(world: World, number: int) -> tuple[Take, int]:
    """The take of a clip of training.puppet.latents, and its first frame."""
    draw = np.random.default_rng([number, 0xC1])
    draw.random()                                       # whether it is silent, which is not seen
    return world.take(number), int(draw.integers(0, 1 << 16))


def places(number: int) -> int:
    """The latent at which a clip's pair begins."""
    return int(np.random.default_rng([number, 0xD0]).integers(1, LATENTS - CHUNK + 1))


def with_video(video: Tensor) -> tuple[VideoReference, ...]:
    """(B, 16, R, h, w), all tokens of it, as it is trained."""
    rows, columns = (side // 2 for side in video.shape[3:])
    return (VideoReference(video, Tokens(torch.ones(video.shape[2], rows, columns, dtype=torch.bool)), distance=AHEAD),)


@torch.inference_mode()
def make_takes(network, clips: Clips, numbers: list[int], take: int) -> Tensor:
    """(B, 16, n, h, w): the new latents of a chunk of each clip, beside a video of another scene. Chunks that begin at
    one place only, since a batch has one."""
    index, first = torch.tensor(numbers), places(numbers[0])
    window = Window(first, CHUNK, clips["latents"][index][:, :, first:first + CONTEXT])
    config = Config(PREFERRED, null_audio=0.0)
    audio = audio_features(config, clips, index, window, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(1_000_000 * take + numbers[0])
    noise = torch.randn((len(numbers), 16, CHUNK, *window.known.shape[3:]), generator=generator)
    asked = Request(window.known.float(), None, audio, with_video(clips["videos"][index, 1].float()))
    with fast():
        return sample(network, noise, schedule("normal", STEPS, SHIFT), asked)[:, :, CONTEXT:]


@torch.inference_mode()
def errors_of(probe: FaceProbe, vae, world: World, numbers: list[int], known: Tensor, made: Tensor) -> Tensor:
    """(B,): identity errors of takes behind the latents that they go on from."""
    import comfy.latent_formats
    latents = comfy.latent_formats.Wan21().process_out(torch.cat([known, made], 2))
    with fast():
        frames: Tensor = flat_vae.decode(vae, latents).float().movedim(1, -1)[:, -4 * made.shape[2]:] / 2 + 0.5
    seen = probe.read(frames.clamp(0, 1).flatten(0, 1))
    wanted = torch.stack([true_embedding(world.take(number).identity, probe.world) for number in numbers])
    return identity_error(seen.embeddings, wanted.repeat_interleave(frames.shape[1], 0)).view(frames.shape[:2]).mean(1)


def choose_pair(takes: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of takes (N, ...) the one that is most the person and the one that is least, and how far apart they are."""
    return takes[errors.argmin()], takes[errors.argmax()], errors.max() - errors.min()


def make_pairs(network, probe: FaceProbe, vae, world: World, clips: Clips, folder: Path, pairs: int, minutes: float
               ) -> dict[str, Tensor] | None:
    """`pairs` of the clips whose takes are MARGIN apart, or as many as there are; None while they are being made. A
    file for each clip, so that it goes on where it was."""
    if (folder / PAIRS).is_file():
        return load_file(folder / PAIRS)
    folder.mkdir(parents=True, exist_ok=True)
    end, found = time.monotonic() + 60 * minutes, []
    for number in range(len(clips["silent"])):
        path = folder / f"pair_{number:06d}.safetensors"
        if not path.is_file():
            if time.monotonic() > end:
                return None
            first = places(number)
            known = clips["latents"][number][None, :, first:first + CONTEXT].float()
            made = torch.cat([make_takes(network, clips, [number], take) for take in range(TAKES)])
            errors = torch.cat([errors_of(probe, vae, world, [number], known, one[None]) for one in made])
            save_file(dict(zip(("winner", "loser", "margin"), map(Tensor.contiguous, choose_pair(made, errors)),
                               strict=True)), path)
        pair = load_file(path)
        found += [{**pair, "clip": torch.tensor(number)}] if pair["margin"] >= MARGIN else []
        if len(found) == pairs:
            break
    print(f"{len(found)} pairs of {number + 1} clips are {MARGIN} apart, {pairs} wanted", flush=True)
    if not found:
        raise ValueError(f"none of {number + 1} clips has two takes whose identity errors are {MARGIN} apart")
    together = {name: torch.stack([pair[name] for pair in found]) for name in found[0]}
    save_file(together, folder / PAIRS)
    return together


def face_masks(world: World, numbers: list[int]) -> Tensor:
    """(B, 1, n, h, w): 1 where the head shows in any of a latent's frames."""
    found = []
    for number in numbers:
        take, begin = take_of(world, number)
        first = places(number) + CONTEXT
        frames: np.ndarray = begin + np.arange(4 * first - 3, 4 * (first + CHUNK - CONTEXT) - 3)
        found.append(head_cells(take, frames, world.size).unflatten(0, (-1, 4)).any(1)[None].float())
    return torch.stack(found)


def loss_of(network, parts: torch.nn.ModuleDict, config: Config, clips: Clips, pairs: dict[str, Tensor], world: World,
            step: int) -> Tensor:
    """Equation 7: both takes at one level, with one noise; the network before this is the same without its LoRA."""
    draw = np.random.default_rng([config.seed, step, 0xD0])
    losses = []
    for pair in draw.choice(len(pairs["clip"]), config.batch):
        number = int(pairs["clip"][pair])
        first, index = places(number), torch.tensor([number])
        window = Window(first, CHUNK, clips["latents"][index][:, :, first:first + CONTEXT])
        audio = audio_features(config, clips, index, window, draw)
        video = clips["videos"][index, 1].float()
        takes = [pairs[name][pair][None].float() for name in ("winner", "loser")]
        noise = torch.randn(takes[0].shape, generator=torch.Generator().manual_seed(1_000_003 * step + int(pair)))
        sigma = float(draw.random())
        sigma = config.shift * sigma / (1 + (config.shift - 1) * sigma)
        weight, front = face_weight(face_masks(world, [number])), torch.cat([video, window.known.float()], 2)
        times = (*(CHUNK - 1 + AHEAD + latent for latent in range(REFERENCE)), *range(CHUNK))
        timestep = torch.cat([torch.zeros(1, front.shape[2]), torch.full((1, noise.shape[2]), 1000 * sigma)], 1)

        def error(clean: Tensor, front=front, noise=noise, sigma=sigma, timestep=timestep, times=times, audio=audio,
                  weight=weight) -> Tensor:
            x = torch.cat([front, (1 - sigma) * clean + sigma * noise], 2)
            with fast():
                made = network(x, timestep, clean=(REFERENCE, CONTEXT), times=times, audio=audio)
            return masked_error(-made[:, :, front.shape[2]:].float(), clean, noise, weight)

        with torch.no_grad(), without(parts):
            before = [error(clean) for clean in takes]
        losses.append(preference_loss(*map(error, takes), *before))
    return torch.stack(losses).mean()


class without:
    """Inside, a network is as it was before its LoRA."""

    def __init__(self, parts: torch.nn.ModuleDict):
        self.parts = parts

    def __enter__(self) -> None:
        self.held = [part.up.data for part in self.parts.values()]
        for part in self.parts.values():
            part.up.data = torch.zeros_like(part.up)

    def __exit__(self, *_) -> None:
        for part, up in zip(self.parts.values(), self.held, strict=True):
            part.up.data = up


def prefer(config: Config, clips: Clips, pairs: dict[str, Tensor], world: World, folder: Path, base: Path, before: Path,
           minutes: float) -> Path | None:
    """The finished LoRA of the base, None while there is none: that of `before` and what was learnt on it."""
    torch.manual_seed(config.seed)
    network = load_trained(before, base).train()
    parts = lora.attach(network, config.rank)
    run = Run(folder, parts, config.steps, config.rate, config.average, config.steps // 2)
    whole = run.train(lambda step: loss_of(network, parts, config, clips, pairs, world, step), minutes)
    path = folder / f"{config.name}{'' if whole else '_so_far'}.safetensors"
    save_file(lora.join(load_file(before), lora.layout(run.averaged)), path, metadata={"config": json.dumps(CONFIG)})
    return path if whole else None


def go(runs: Path, hours: float, vae: Path) -> str:
    """Everything that is missing, as far as the hours reach; what there is to be done now."""
    base, end = runs / "puppet" / "puppet.safetensors", time.monotonic() + 3600 * hours
    if not base.is_file():
        return f"{base} is not there: the puppet is still in training (training.puppet.all)"

    def minutes() -> float:
        return max(end - time.monotonic(), 0) / 60

    configs = {name: Config.read(CONFIGS / f"{name}.json") for name in (*FLOWS, PREFERRED)}
    count = Config.read(CONFIGS / "puppet.json").clips
    clips, done = load(runs / "latents", count), {name: runs / name / f"{name}.safetensors" for name in configs}
    for name in FLOWS:
        config = replace(configs[name], clips=count)
        if not done[name].is_file() and not train.train(config, clips, runs / name, base, minutes()):
            return f"{name} is in training"
    if done[PREFERRED].is_file():
        return f"all is made: {', '.join(map(str, done.values()))}"
    world, config = World(size=SIZE), configs[PREFERRED]
    pairs = make_pairs(load_trained(done[FROM], base), load_face_probe(), load_vae(vae, "cpu").eval(), world, clips,
                       runs / PREFERRED, config.pairs, minutes())
    if pairs is None:
        return "pairs of takes are being made"
    if not prefer(config, clips, pairs, world, runs / PREFERRED, base, done[FROM], minutes()):
        return f"{PREFERRED} is in training"
    return f"all is made: {', '.join(map(str, done.values()))}"


def main() -> None:
    from .export import weights_file
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of all runs, with the finished puppet and its latents")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--vae", type=Path, default=weights_file("vae"), help="with which its latents were made")
    options = parser.parse_args()
    print(go(options.runs.expanduser().resolve(), options.hours, options.vae), flush=True)


if __name__ == "__main__":
    main()
