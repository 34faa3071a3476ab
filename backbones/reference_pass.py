"""What stands beside a call (TAVR) as keys and values: a video of the person or a scene passes the model once, alone
and at level 0, and every call of a sampling run attends to what it left.

They see neither noise nor the call's text nor its speech, so all steps, guidance branches and windows share them, and
no mask is needed. Tokens that were not selected leave nothing.
"""
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..techniques.closed_span import closed_spans
from ..techniques.kv_cache import KVCache, Pair
from ..techniques.layout import Layout, Span
from ..techniques.reference_tokens import Tokens, all_tokens
from ..techniques.rope import Axes, rotate
from ..techniques.technique import ChunkPosition, Technique, visibility_table
from .ram_blocks import RamBlocks
from .sampling_run import RUN

OF_EVERY_CALL = ("optimized_attention_override", "rope_options")    # of other nodes: their attention, scaled RoPE
Visibility = dict[tuple[int, int], float]
Keep = Callable[[Tensor, Tensor], object]   # is given each block's keys before RoPE and values (1, tokens, heads, D)
logger = logging.getLogger("lodestar")


@dataclass(frozen=True, eq=False)
class VideoKeys:
    """`cache`: of a video of the person, or a scene. `frequencies`: RoPE's, of its tokens where they stand in a
    call."""
    cache: KVCache
    frequencies: Tensor

    def join(self, block: int, key: Tensor, value: Tensor) -> Pair:
        """A call's keys, rotated, and values (B, tokens, heads * D), and behind them the video's."""
        its_value = self.cache.blocks[block][1]
        its_key = self.cache.keys(block, self.frequencies, rotate)
        key, value = (torch.cat([own, its.flatten(2).to(own).expand(len(own), -1, -1)], 1)
                      for own, its in ((key, its_key), (value, its_value)))
        return key, value


@dataclass(frozen=True, eq=False)
class SeveralKeys:
    """Keys and values of several spans, one behind the other."""
    parts: tuple[VideoKeys, ...]

    def join(self, block: int, key: Tensor, value: Tensor) -> Pair:
        for part in self.parts:
            key, value = part.join(block, key, value)
        return key, value


@dataclass(frozen=True, eq=False)
class Beside:
    """A closed span that was taken out of a layout. `called`: by its user; `offload`: where its keys are kept."""
    span: Span
    called: str
    offload: str


def take_out_closed(layout: Layout, visibility: Visibility, techniques: tuple[Technique, ...]
                    ) -> tuple[Layout, Visibility, tuple[Beside, ...]]:
    """The layout without its closed spans, what sees what in it, and those spans."""
    beside = tuple(Beside(span, technique.called, technique.offload)
                   for name, technique in closed_spans(techniques).items() if (span := layout.find(name)) is not None)
    for one in beside:
        layout = layout.without(one.span)
    return layout, visibility_table(layout, techniques) if beside else visibility, beside


def join_keys(beside: Iterable[Beside], keys_of: Callable[[Beside], VideoKeys]) -> SeveralKeys | None:
    """What a call attends to of the spans beside it; None where there are none."""
    parts = tuple(keys_of(one) for one in beside)
    return SeveralKeys(parts) if parts else None


def tokens_of(one: Beside, grid: tuple[int, int]) -> Tokens:
    """Which of its tokens there are. Raises ValueError where they were chosen on another grid."""
    tokens = one.span.tokens or Tokens(all_tokens(len(one.span.times), grid))
    if tuple(tokens.keep.shape[1:]) != grid:
        rows, columns = tokens.keep.shape[1:]
        raise ValueError(f"{one.called}: its tokens were chosen on a grid of {columns}x{rows}, this model's is "
                         f"{grid[1]}x{grid[0]}. Connect {one.called.title()} to the model that samples")
    return tokens


def kept_once(options: dict, name: Hashable, one: Beside, device: torch.device, make: Callable[[Keep], None],
              tokens: Tokens) -> KVCache:
    """Its keys and values, made for the sampling run when first asked for. `name`: host values that say of which model
    they are, and in what dtype. Where weights may change between calls, they are made for each."""
    run, span = options.get(RUN), one.span
    if run is None or not run.steady:
        return make_cache(replace(one, offload="VRAM"), device, make, tokens, ExitStack())
    key = one.called, name, id(span.latents), id(span.tokens), id(span.audio), one.offload, device
    return run.once(key, lambda: (span, make_cache(one, device, make, tokens, run.ends)))[1]   # the span has the ids


def make_cache(one: Beside, device: torch.device, make: Callable[[Keep], None], tokens: Tokens, ends: ExitStack
               ) -> KVCache:
    span = one.span
    blocks: list[Pair] | RamBlocks = [] if one.offload == "VRAM" else RamBlocks(device)
    if isinstance(blocks, RamBlocks):
        ends.callback(blocks.close)
        make(blocks.park)
    else:
        make(lambda *pair: blocks.append(pair))
    times = tuple(time - span.times[0] for time in span.times)
    places = tokens.places.float()
    places[:, 0] = torch.tensor(times)[tokens.places[:, 0]]
    cache = KVCache(blocks, places.to(device), times, tokens.frame_tokens)    # type: ignore[arg-type]
    logger.info("KV cache of a %s: %d of %d tokens, %.0f MB in %s", one.called, tokens.count, tokens.total,
                cache.bytes / 1e6, one.offload)
    return cache


def frequencies_of(options: dict, cache: KVCache, time: float, axes_dim: Sequence[int], theta: float,
                   axes: tuple[Axes, Axes]) -> Tensor:
    """RoPE frequencies of its tokens, the first frame at `time`: made when they first stand there."""
    run, (scale, shift) = options.get(RUN), axes

    def make(_=None) -> Tensor:
        return cache.frequencies(time, axes_dim, theta=theta, scale=scale, shift=shift)

    if run is None or not run.steady:
        return make()
    return run.newest(("video reference's place", id(cache)), (time, theta, axes), make)


def positive_row(options: dict, value: Tensor) -> Tensor:
    """Of a batch's values that of one condition: of the positive one where it is in it."""
    kinds = options.get("cond_or_uncond") or (0,)
    return value.chunk(len(kinds))[kinds.index(0) if 0 in kinds else 0][:1]


def text_of_run(options: dict, context: Tensor) -> Tensor:
    """(1, tokens, C) of the positive prompt, whichever condition a call is of."""
    run = options.get(RUN)
    return positive_row(options, context) if run is None or run.text is None else run.text[:1].to(context)


def options_alone(options: dict) -> dict:
    """What of other nodes acts on the video's own pass."""
    return {name: options[name] for name in OF_EVERY_CALL if name in options}


def bytes_beside(techniques: Iterable[Technique], frame_tokens: int, blocks: int, width: int, dtype: torch.dtype
                 ) -> int:
    """VRAM that keys and values of all closed spans take in a model of so many blocks, a whole frame being so many
    tokens: as many in every chunk, or ComfyUI would move weights between two."""
    layout, chunks = Layout.of_chunk(1), (ChunkPosition(), ChunkPosition(chunk=1, opening=torch.zeros(1, 1, 1, 1, 1)))
    spans = [[technique.span(layout, chunk) for chunk in chunks] for technique in closed_spans(techniques).values()
             if technique.offload == "VRAM"]
    tokens = sum(max(span.tokens.count if span.tokens else frame_tokens * len(span.times) for span in either)
                 for either in spans)
    return tokens * 2 * blocks * width * dtype.itemsize


def bytes_beside_wan(model, techniques: Iterable[Technique], noise_shape: Sequence[int]) -> int:
    """The same, of a BaseModel that holds one of Wan's networks."""
    network, (rows, columns) = model.diffusion_model, noise_shape[3:]
    return bytes_beside(techniques, rows * columns // 4, len(network.blocks), network.dim,
                        model.manual_cast_dtype or model.get_dtype())
