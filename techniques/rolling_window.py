"""AvatarForcing's rolling window B(L, N): blocks of latents, each cleaner than the one behind it, denoised together.

A window holds up to L blocks of B latents, the oldest nearly clean, the newest pure noise. It is refined N times, then
its oldest block leaves and a new one enters, so every block is visited L*N times and a stream costs the same however
long it runs. Latent 0 of a take is the picture: given, never noised. The paper counts B in frames, its authors' code in
latents; here they are latents. The code's provisional writes in the ramp-up are never read, so none is made.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import torch
from torch import Tensor

RENOISE = ("fresh", "keep")
Levels = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """One place of the window. `blocks`: those in it, oldest first; the number of the window is `index`."""
    index: int
    blocks: range

    def levels(self, passes: int, refinement: int) -> Levels:
        """The level of each block in one of its `passes` refinements: 0 is pure noise."""
        return tuple((self.index - block) * passes + refinement for block in self.blocks)


@dataclass(frozen=True)
class Rolling:
    """`sigmas`: L*N falling levels and a 0. `block_latents`: B, `passes`: N. `renoise`: "fresh" puts new noise into the
    clean prediction, as distilled students are trained; "keep" goes along the velocity, for any other flow model."""
    sigmas: tuple[float, ...]
    block_latents: int = 4
    passes: int = 1
    renoise: str = "fresh"

    def __post_init__(self):
        if self.block_latents < 1 or self.passes < 1 or self.renoise not in RENOISE:
            raise ValueError(f"got blocks of {self.block_latents} latents, {self.passes} passes and renoise "
                             f"{self.renoise!r}, wanted at least 1 of each and one of {', '.join(RENOISE)}")
        falling = all(later < earlier for earlier, later in zip(self.sigmas, self.sigmas[1:], strict=False))
        if len(self.sigmas) < 2 or self.sigmas[-1] != 0 or not falling:
            raise ValueError(f"sigmas: got {', '.join(f'{sigma:g}' for sigma in self.sigmas)}, wanted falling levels "
                             "that end in 0, such as Student Schedule makes")
        if self.levels % self.passes:
            raise ValueError(f"sigmas: got {self.levels} levels and a 0, which {self.passes} passes do not divide: a "
                             "window of L blocks needs L x passes levels. Student Schedule makes fitting ones")

    @property
    def levels(self) -> int:
        """How many a block goes through before it is clean."""
        return len(self.sigmas) - 1

    @property
    def length(self) -> int:
        """L, the blocks of a full window."""
        return self.levels // self.passes

    def count_blocks(self, latents: int) -> int:
        """K, the blocks of a take of so many latents with its picture; the last one may be longer than the take."""
        return -(-(latents - 1) // self.block_latents)

    def latents_of(self, blocks: range) -> range:
        """The take's latents in some blocks."""
        return range(1 + blocks.start * self.block_latents, 1 + blocks.stop * self.block_latents)

    def windows(self, blocks: int, some: range | None = None) -> Iterator[Window]:
        """Of a take of so many blocks, in order, all or `some`: it ramps up to L blocks and down again."""
        whole = range(blocks + self.length - 1)
        for index in whole if some is None else range(some.start, min(some.stop, whole.stop)):
            yield Window(index, range(max(0, index - self.length + 1), min(blocks - 1, index) + 1))

    def windows_of(self, blocks: range) -> range:
        """The windows that some blocks leave, with the first of all the ramp-up before it."""
        return range(blocks.start and blocks.start + self.length - 1, blocks.stop - 1 + self.length)

    def emitted_in(self, windows: range) -> range:
        """The blocks that leave some windows."""
        return range(max(0, windows.start - self.length + 1), max(0, windows.stop - self.length + 1))

    def find_emitted(self, window: Window) -> int | None:
        """The block that is clean after the window's last pass, if there is one."""
        return None if window.index < self.length - 1 else window.blocks.start

    def move(self, x: Tensor, clean: Tensor, level: int, noise: Callable[[int], Tensor]) -> Tensor:
        """A block at the next level. `clean`: what was predicted of it. `noise(level)`: the block's own there."""
        sigma, later = self.sigmas[level], self.sigmas[level + 1]
        if later == 0:
            return clean
        if self.renoise == "keep":
            return x + (later - sigma) * (x - clean) / sigma
        return (1 - later) * clean + later * noise(level + 1)


@dataclass(frozen=True)
class Call:
    """One forward of the model. `latents`: its own; `recents`: the clean ones before them that it sees; `levels`: one
    per block. A call that `writes` has the emitted block at level 0 (`levels` is then L*N), to remember its keys and
    values; the product makes no forward for it and remembers the latents, which ride clean in every call for now.
    """
    latents: range
    recents: range
    blocks: range
    levels: Levels
    window: int
    refinement: int | None
    emits: int | None = None

    @property
    def writes(self) -> bool:
        return self.refinement is None

    @property
    def local_zero(self) -> int:
        """The oldest latent in the call, which stands at RoPE time 0."""
        return self.recents.start if self.recents else self.latents.start

    @property
    def first_time(self) -> int:
        """RoPE time of the call's first own latent."""
        return len(self.recents)


def list_calls(rolling: Rolling, blocks: int, recents: int, windows: range | None = None) -> Iterator[Call]:
    """Every forward of a take of so many blocks, `recents` clean latents of which stay in sight (T); or those of some
    `windows` of it."""
    first = 0 if windows is None else windows.start
    stop = rolling.latents_of(range(max(0, first - rolling.length + 1))).stop
    held = range(max(1, stop - recents), stop)
    for window in rolling.windows(blocks, windows):
        own, emits = rolling.latents_of(window.blocks), rolling.find_emitted(window)
        for refinement in range(rolling.passes):
            levels, last = window.levels(rolling.passes, refinement), refinement == rolling.passes - 1
            yield Call(own, held or range(own.start, own.start), window.blocks, levels, window.index, refinement,
                       emits if last else None)
        if emits is not None:
            block = range(emits, emits + 1)
            own = rolling.latents_of(block)
            if recents:
                yield Call(own, held or range(own.start, own.start), block, (rolling.levels,), window.index, None)
            held = range(max(1, own.stop - recents), own.stop)


def roll(rolling: Rolling, blocks: int, recents: int, predict: Callable[[Call, Tensor], Tensor],
         noise: Callable[[int, int], Tensor], write: Callable[[Call, Tensor], None] = lambda call, clean: None,
         windows: range | None = None, held: dict[int, Tensor] | None = None) -> Iterator[Tensor]:
    """The blocks of a stream (1, C, B, h, w), one after the other, each as its clean prediction.

    `predict(call, x)`: the clean prediction of (1, C, F, h, w) at the levels of the call. `noise(block, level)`: of one
    block, the same whenever it is asked for. `write(call, clean)` remembers an emitted block; `recents`: T. Where some
    `windows` of a take are rolled, `held` has the blocks that are in the window before them, and afterwards those
    after.
    """
    held = {} if held is None else held
    for call in list_calls(rolling, blocks, recents, windows):
        if call.writes:
            write(call, held.pop(call.blocks.start))
            continue
        for block, level in zip(call.blocks, call.levels, strict=True):
            if level == 0:
                held[block] = noise(block, 0)
        clean = predict(call, torch.cat([held[block] for block in call.blocks], 2)).split(rolling.block_latents, 2)
        for block, level, its in zip(call.blocks, call.levels, clean, strict=True):
            held[block] = rolling.move(held[block], its, level, partial(noise, block))
        if call.emits is not None:
            yield held[call.emits] if recents else held.pop(call.emits)


def noise_seed(seed: int, block: int, level: int) -> int:
    """Of one block at one level, 0 to 2**63 - 1, whatever the take's length, its windows and where it was taken up
    again: mixed, so that takes of neighbouring seeds share no noise."""
    return int.from_bytes(sha256(f"{seed} {block} {level}".encode()).digest()[:8], "big") >> 1


def spread_levels(sigmas: Sequence[float], call: Call, block_latents: int) -> tuple[float, ...]:
    """The noise level of each latent of a call."""
    return tuple(sigmas[level] for level in call.levels for _ in range(block_latents))
