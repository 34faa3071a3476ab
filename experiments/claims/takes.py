"""Makes the takes of the claims: the puppet's network headless, a batch of held-out characters at once.

Paired: whatever the condition, characters, pictures, speech and the noise of every chunk are the same.
"""
import dataclasses
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from lodestar.pipelines.headless.longcat_sampling import Request, sample
from lodestar.techniques.audio.features import slot_steps
from lodestar.techniques.audio.mel import mel_steps
from lodestar.techniques.flow_schedules import schedule
from lodestar.techniques.technique import ChunkPosition
from lodestar.training.puppet.drawing import STATE, draw
from lodestar.training.puppet.latents import MARGIN, SILENCE
from lodestar.training.puppet.network import CHUNK
from lodestar.training.puppet.precision import fast
from lodestar.training.puppet.world import FPS, Take, World
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .conditions import CONTEXT, NEW, TIMELINE, Condition, first_new_frame, techniques_of

if TYPE_CHECKING:
    from .reels import Reel

STEPS, SHIFT = 8, 3.0
FIRST_SEED = 90_000         # of the characters, who are held out whatever it is
WARM = 2                    # latents that are decoded and thrown away before those that are measured
SLIDE = 3                   # latents by which Sonic's windows move from step to step
STORY = ((Fraction(1, 4), 0.95), (Fraction(2, 4), -0.65), (Fraction(3, 4), 0.95))   # share of the take, expression


class Codec(Protocol):
    """The VAE, latents as the network sees them."""

    def encode(self, frames: Tensor) -> Tensor:
        """(B, T, H, W, 3) in 0..255 -> (B, 16, t, h, w)."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 16, t, h, w) -> (B, T, H, W, 3) in 0..1."""


@dataclass(frozen=True, eq=False)
class Cast:
    """Who plays: `audio` (B, rows, 5, 16) from MARGIN frames before the take on, `picture` (B, 16, 1, h, w) of each
    take's frame 0, `story` (seconds, pictures with an expression) in order of time."""
    takes: tuple[Take, ...]
    chunks: int
    audio: Tensor
    picture: Tensor
    story: tuple[tuple[Fraction, Tensor], ...]

    @property
    def frames(self) -> int:
        return TIMELINE.frames_for_latents(self.latents)

    @property
    def latents(self) -> int:
        return NEW * self.chunks + CONTEXT

    def speech(self, condition: Condition, latent: int, latents: int) -> Tensor:
        """(B, 1, frames, 5, 5, 16) of a chunk."""
        first, frames = TIMELINE.last_frame(latent) + MARGIN, TIMELINE.frames_for_latents(latents)
        rows = slot_steps(first, frames, 1, self.audio.shape[1])
        features = self.audio[:, rows][:, None]
        return torch.zeros_like(features) if condition.speech == "null" else features


def cast(world: World, codec: Codec, characters: int, chunks: int, silent: bool) -> Cast:
    takes = [world.take(FIRST_SEED + number, held_out=True) for number in range(characters)]
    takes = [dataclasses.replace(take, track=SILENCE) for take in takes] if silent else takes
    rows = TIMELINE.frames_for_latents(NEW * chunks + CONTEXT) + 2 * MARGIN
    waves = [torch.from_numpy(take.waveform(-MARGIN - 1, rows + 2)) for take in takes]
    length = Fraction(TIMELINE.frames_for_latents(NEW * chunks + CONTEXT), FPS)

    def pictures(expression: float | None) -> Tensor:
        drawn = []
        for take in takes:
            state = take.states(np.zeros(1, int))
            if expression is not None:
                state[:, STATE.index("expression")] = expression
            drawn.append(draw(take.identity, state, world.size))
        return codec.encode(torch.stack(drawn))

    return Cast(tuple(takes), chunks, torch.stack([mel_steps(wave, 1, 1 + rows) for wave in waves]), pictures(None),
                tuple((share * length, pictures(expression)) for share, expression in STORY))


def noise(cast: Cast, chunk: int, latents: int = CHUNK) -> Tensor:
    shape = (len(cast.takes), 16, latents, *cast.picture.shape[-2:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 + chunk))


def request(condition: Condition, cast: Cast, chunk: int, conditioning: Tensor | None, latent: int, latents: int,
            reel: "Reel | None" = None) -> Request:
    """The network's arguments for a chunk of `latents` from `latent` on."""
    start = Fraction(0) if chunk == 0 else Fraction(first_new_frame(chunk), FPS)
    position = ChunkPosition(start_seconds=start, reference=cast.picture, chunk=chunk)
    return Request(conditioning, cast.picture if condition.reference else None, cast.speech(condition, latent, latents),
                   (*techniques_of(condition, cast.story), *([reel.technique(condition)] if reel else [])), position,
                   condition.audio_scale)


@torch.inference_mode()
def make_take(network, codec: Codec, condition: Condition, cast: Cast, reel: "Reel | None" = None) -> Tensor:
    """The whole take (B, 16, latents, h, w), with matrices in what is fastest here, as the network was trained."""
    sigmas = schedule("normal", STEPS, SHIFT)
    with fast():
        if condition.context == "sliding":
            return slid(network, condition, cast, sigmas)
        return continue_chunks(network, codec, condition, cast, sigmas, reel)


def continue_chunks(network, codec: Codec, condition: Condition, cast: Cast, sigmas: Tensor, reel: "Reel | None"
                    ) -> Tensor:
    """Chunk by chunk, each behind the end of the one before; the first behind the picture."""
    conditioning = latents = cast.picture
    for chunk in range(cast.chunks):
        asked = request(condition, cast, chunk, conditioning, NEW * chunk, CHUNK, reel)
        window = sample(network, noise(cast, chunk), sigmas, asked)
        latents = torch.cat([latents, window[:, :, conditioning.shape[2]:]], 2)
        conditioning = latents[:, :, -CONTEXT:] if condition.context == "stitch" else re_encode(codec, latents)
    return latents


def re_encode(codec: Codec, latents: Tensor) -> Tensor:
    """The end of the take so far, decoded and encoded again: its first latent is a picture's."""
    frames = codec.decode(latents[:, :, -CONTEXT - WARM:])
    return codec.encode(255 * frames[:, -TIMELINE.frames_for_latents(CONTEXT):])


def slid(network, condition: Condition, cast: Cast, sigmas: Tensor) -> Tensor:
    """All latents at once, in rolling windows without context whose borders move on with every step (Sonic, Ji et
    al.)."""
    x = noise(cast, 0, cast.latents)
    for step in range(len(sigmas) - 1):
        borders = sorted({0, cast.latents, *range(step * SLIDE % CHUNK, cast.latents, CHUNK)})
        moved = []
        for first, end in zip(borders, borders[1:], strict=False):
            asked = request(condition, cast, first // NEW, None, first, end - first)
            moved.append(sample(network, x[:, :, first:end], sigmas[step:step + 2], asked))
        x = torch.cat(moved, 2)
    return x


def frames_of_chunk(codec: Codec, latents: Tensor, chunk: int) -> Tensor:
    """(B, 36, H, W, 3): what a chunk adds to the take."""
    first = NEW * chunk + CONTEXT
    decoded = codec.decode(latents[:, :, max(first - WARM, 0):first + NEW])
    return decoded[:, -NEW * TIMELINE.temporal_ratio:]


def true_frames_of_chunk(codec: Codec, cast: Cast, chunk: int, size: int) -> Tensor:
    """The same of what was to be: the true frames, encoded and decoded."""
    first, end = (TIMELINE.last_frame(NEW * chunk + CONTEXT + latent) for latent in (-WARM, NEW - 1))
    true = torch.stack([take.frames(np.arange(first, end + 1), size) for take in cast.takes])
    return codec.decode(codec.encode(true))[:, -NEW * TIMELINE.temporal_ratio:]


def load_or_make(folder: Path, key: tuple, make: Callable[[], dict[str, Tensor]]) -> tuple[dict[str, Tensor], float]:
    """What `make` gives, made once: a file for each key, whole or not there; and the seconds of processor time that it
    took then."""
    path = folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial, started = path.with_suffix(".part"), time.process_time()
        made = {name: tensor.contiguous() for name, tensor in make().items()}
        save_file(made, partial, {"seconds": f"{time.process_time() - started:.1f}"})
        partial.replace(path)
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, float(file.metadata()["seconds"])


def digest_files(*paths: Path) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
