"""Whole streams over a small network against an oracle without caches: a dictionary of blocks, the visits as they are
defined, one sequence of everything that was ever finished, and a mask that loops in Python fill.
"""
import itertools

import pytest
import torch
from lodestar.techniques.kv_cache import KVCache, standing
from lodestar.techniques.rolling_window import Rolling, noise_seed, roll, spread_levels
from lodestar.techniques.rope import rope_frequencies, rotate
from lodestar.techniques.style_anchor import StyleAnchor
from torch import Tensor

WIDTH, LAYERS, AXES = 10, 2, (6, 2, 2)
GRID = tuple(itertools.product((1, 2, 3, 4), (1, 2, 3, 4), (1, 2), (0, 1, 2, 3)))
WEIGHTS = [[torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(10 * layer + part)) * WIDTH ** -0.5
            for part in range(4)] for layer in range(LAYERS)]
PICTURE = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(99))


def noise(block: int, level: int, size: int) -> Tensor:
    """(size, WIDTH)"""
    return torch.randn(size, WIDTH, generator=torch.Generator().manual_seed(noise_seed(3, block, level)))


def embed(x: Tensor, sigmas) -> Tensor:
    return x + torch.tensor(sigmas)[:, None] * torch.linspace(-1, 1, WIDTH)


def project(hidden: Tensor, layer: int) -> list[Tensor]:
    return [hidden @ weight for weight in WEIGHTS[layer][:3]]


def turn_by_hand(x: Tensor, times) -> Tensor:
    """The first axis alone, since rows and columns are 0."""
    pairs = torch.view_as_complex(x[:, :AXES[0]].double().reshape(len(x), -1, 2).contiguous())
    frequencies = torch.tensor([10000.0 ** (-2 * pair / AXES[0]) for pair in range(AXES[0] // 2)], dtype=torch.float64)
    angles = torch.tensor([float(time) for time in times], dtype=torch.float64)[:, None] * frequencies
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(1).float()
    return torch.cat([turned, x[:, AXES[0]:]], 1)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = query @ key.T * WIDTH ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ value


def run_by_hand(x: Tensor, sigmas, times, mask: Tensor) -> Tensor:
    """The clean prediction of a sequence (n, WIDTH) in which row sees column where the mask says so."""
    hidden = embed(x, sigmas)
    for layer, (*_, out) in enumerate(WEIGHTS):
        query, key, value = project(hidden, layer)
        seen = attend(turn_by_hand(query, times), turn_by_hand(key, times), value, mask)
        hidden = hidden + torch.tanh(seen @ out)
    return x - torch.tensor(sigmas)[:, None] * hidden


def loop_mask(groups) -> Tensor:
    """`groups`: of each token its own name and the names that it sees."""
    mask = torch.zeros(len(groups), len(groups), dtype=torch.bool)
    for row, (_, sees) in enumerate(groups):
        for column, (name, _) in enumerate(groups):
            mask[row, column] = name in sees
    return mask


class Oracle:
    """`memory`: as a backbone's. Latents count from 1, number 0 is the picture."""

    def __init__(self, memory: str, size: int, recents: int, sigmas, anchor: StyleAnchor):
        self.memory, self.size, self.recents, self.sigmas, self.anchor = memory, size, recents, sigmas, anchor
        self.done: list[Tensor] = []        # finished blocks

    def sights(self, first: int) -> list[int]:
        """The finished latents that a call whose own begin with `first` sees."""
        return list(range(max(1, first - self.recents), first)) if self.recents else []

    def call(self, first: int, x: Tensor, levels) -> Tensor:
        """The prediction of a window whose first latent is `first`."""
        finished = torch.cat(self.done) if self.done else x[:0]
        last = len(finished) + 1
        assert first == last
        seen, tokens = self.sights(first), []       # (name, sees, value, sigma, time)
        zero = seen[0] if seen else first
        own = range(first, first + len(x))
        if self.memory == "written":
            for block in range(len(self.done)):
                start = 1 + block * self.size
                before, mine = self.sights(start), range(start, start + self.size)
                base, copy = (before[0] if before else start), f"picture {block}"
                tokens.append((copy, {copy}, PICTURE[0], 0.0, self.anchor.time(base, True) + base))
                tokens += [(one, {copy, *before, *mine}, finished[one - 1], 0.0, one) for one in mine]
        else:
            closed = self.memory == "closed"
            names = {*seen} if closed else {*seen, *own, "picture"}
            tokens += [(one, names, finished[one - 1], 0.0, one) for one in seen]
        sees = {"picture", *seen, *own}
        tokens.append(("picture", sees if self.memory == "joint" else {"picture"}, PICTURE[0], 0.0,
                       self.anchor.time(zero) + zero))
        tokens += [(one, sees, value, sigma, one) for one, value, sigma in zip(own, x, levels, strict=True)]
        names, seeing, values, sigmas, times = zip(*tokens, strict=True)
        made = run_by_hand(torch.stack(values), sigmas, times, loop_mask(list(zip(names, seeing, strict=True))))
        return made[len(tokens) - len(x):]

    def stream(self, blocks: int, length: int, passes: int, renoise: str) -> Tensor:
        state: dict[int, Tensor] = {}
        visits = sorted((block + step, each, block) for block in range(blocks) for step in range(length)
                        for each in range(passes))
        for (window, each), group in itertools.groupby(visits, key=lambda visit: visit[:2]):
            inside = [block for *_, block in group]
            level = {block: (window - block) * passes + each for block in inside}
            state.update({block: noise(block, 0, self.size) for block in inside if level[block] == 0})
            sigmas = [self.sigmas[level[block]] for block in inside for _ in range(self.size)]
            made = self.call(1 + inside[0] * self.size, torch.cat([state[block] for block in inside]), sigmas)
            for block, clean in zip(inside, made.split(self.size), strict=True):
                now, later = self.sigmas[level[block]], self.sigmas[level[block] + 1]
                if renoise == "keep":
                    state[block] = state[block] + (later - now) * (state[block] - clean) / now
                else:
                    state[block] = (1 - later) * clean + later * noise(block, level[block] + 1, self.size)
                if later == 0:
                    self.done.append(clean)
        return torch.cat(self.done)


class Caching:
    """The same network as the product has it: KV caches of keys before RoPE, joined to a call's own."""

    def __init__(self, memory: str, rolling: Rolling, recents: int, anchor: StyleAnchor):
        self.memory, self.rolling, self.recents, self.anchor = memory, rolling, recents, anchor
        self.picture, self.held, self.done = self.cache(PICTURE, ()), None, PICTURE[:0]

    def forward(self, x: Tensor, sigmas, times, caches) -> tuple[Tensor, KVCache]:
        hidden, pairs = embed(x, sigmas), []
        own, rows = rope_frequencies(times, 1, 1, AXES), [cache.frequencies(time, AXES) for cache, time in caches]
        for layer, (*_, out) in enumerate(WEIGHTS):
            query, key, value = (part[None, :, None] for part in project(hidden, layer))
            keys = [cache.keys(layer, row) for (cache, _), row in zip(caches, rows, strict=True)]
            values = [cache.blocks[layer][1] for cache, _ in caches]
            seen = attend(*(torch.cat(parts, 1)[0, :, 0] for parts in (
                [rotate(query, own)], [*keys, rotate(key, own)], [*values, value])))
            pairs.append((key, value))
            hidden = hidden + torch.tanh(seen @ out)
        return x - torch.tensor(sigmas)[:, None] * hidden, KVCache.of_frames(
            tuple(pairs), [time - times[0] for time in times], (1, 1))

    def cache(self, x: Tensor, caches) -> KVCache:
        """Of clean latents that see one another and some caches, the oldest at 0."""
        return self.forward(x, (0.0,) * len(x), range(len(x)), caches)[1]

    def predict(self, call, x: Tensor) -> Tensor:
        own, time = x[0, :, :, 0, 0].T, self.anchor.time(call.local_zero, call.writes)
        levels, first = spread_levels(self.rolling.sigmas, call, self.rolling.block_latents), call.first_time
        times = range(first, first + len(own))
        if self.memory == "joint":      # all in one sequence
            seen = self.done[len(self.done) - len(call.recents):] if call.recents else own[:0]
            made, _ = self.forward(torch.cat([seen, own, PICTURE]), (0.0,) * len(seen) + levels + (0.0,),
                                   (*range(len(seen) + len(own)), time), ())
            made = made[len(seen):-1]
        else:
            held = [self.held] if self.held is not None else []
            made, cache = self.forward(own, levels, times, standing([self.picture, *held], (
                time, *range(first))))
            if call.writes:
                self.held = cache.newest(self.recents) if self.held is None else self.held.append(cache, self.recents)
        return made.T[None, :, :, None, None]

    def write(self, call, clean: Tensor) -> None:
        self.done = torch.cat([self.done, clean[0, :, :, 0, 0].T])
        if self.memory == "written":
            self.predict(call, clean)
        elif self.memory == "closed":
            self.held = self.cache(self.done[-self.recents:], ())


@pytest.mark.once
@pytest.mark.parametrize(("memory", "every"), [("written", 1), ("closed", 2), ("joint", 4)])
def test_a_stream_equals_its_oracle(memory, every):
    """Each length of block and window, passes and recents, for takes of 1 to 9 blocks in turn."""
    for number, (size, length, passes, recents) in [*enumerate(GRID)][::every]:
        blocks, renoise = 1 + number * 5 % 9, ("fresh", "keep")[number % 2]
        anchor = StyleAnchor((-1.0, 3.0, -2.5)[number % 3], number % 4 != 1, False, ("same", "upstream")[number % 2])
        levels = length * passes
        sigmas = (*(1 - 0.9 * level / levels for level in range(levels)), 0.0)
        rolling = Rolling(sigmas, size, passes, renoise)
        caching = Caching(memory, rolling, recents, anchor)
        found = roll(rolling, blocks, recents, caching.predict,
                     lambda block, level, size=size: noise(block, level, size).T[None, :, :, None, None], caching.write)
        found = torch.cat([block[0, :, :, 0, 0].T for block in found])
        wanted = Oracle(memory, size, recents, sigmas, anchor).stream(blocks, length, passes, renoise)
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max(), (size, length, passes, recents, blocks)
