"""A video of the person (TAVR) as keys and values: its frames pass the model once, alone and at level 0, and every call
of a sampling run attends to what they left.

They see neither noise nor the call's text nor its speech, so all steps, guidance branches and windows share them, and
no mask is needed. Tokens that were not selected leave nothing.
"""
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from ..techniques.kv_cache import KVCache, Pair
from ..techniques.layout import REFERENCES, Layout, Span
from ..techniques.reference_tokens import Tokens, all_tokens
from ..techniques.rope import Axes, rotate
from ..techniques.technique import Technique, visibility_table
from ..techniques.video_reference import VideoReference
from .ram_blocks import RamBlocks
from .sampling_run import RUN

OF_EVERY_CALL = ("optimized_attention_override", "rope_options")    # of other nodes: their attention, scaled RoPE
Visibility = dict[tuple[int, int], float]
Keep = Callable[[Tensor, Tensor], object]   # is given each block's keys before RoPE and values (1, tokens, heads, D)
logger = logging.getLogger("lodestar")


@dataclass(frozen=True, eq=False)
class VideoKeys:
    """`cache`: of a video of the person. `frequencies`: RoPE's, of its tokens where they stand in a call."""
    cache: KVCache
    frequencies: Tensor

    def join(self, block: int, key: Tensor, value: Tensor) -> Pair:
        """A call's keys, rotated, and values (B, tokens, heads * D), and behind them the video's."""
        its_value = self.cache.blocks[block][1]
        its_key = self.cache.keys(block, self.frequencies, rotate)
        key, value = (torch.cat([own, its.flatten(2).to(own).expand(len(own), -1, -1)], 1)
                      for own, its in ((key, its_key), (value, its_value)))
        return key, value


def find_video(techniques: Iterable[Technique]) -> VideoReference | None:
    return next((technique for technique in techniques if isinstance(technique, VideoReference)), None)


def take_out_video(layout: Layout, visibility: Visibility, techniques: tuple[Technique, ...]
                   ) -> tuple[Layout, Visibility, Span | None]:
    """The layout without the video of the person, what sees what in it, and the video's span."""
    span = layout.find(REFERENCES)
    if span is None:
        return layout, visibility, None
    layout = layout.without(span)
    return layout, visibility_table(layout, techniques), span


def tokens_of(span: Span, grid: tuple[int, int]) -> Tokens:
    """Which of its tokens there are. Raises ValueError where they were chosen on another grid."""
    tokens = span.tokens or Tokens(all_tokens(len(span.times), grid))
    if tuple(tokens.keep.shape[1:]) != grid:
        rows, columns = tokens.keep.shape[1:]
        raise ValueError(f"video reference: its tokens were chosen on a grid of {columns}x{rows}, this model's is "
                         f"{grid[1]}x{grid[0]}. Connect Video Reference to the model that samples")
    return tokens


def kept_once(options: dict, name: Hashable, span: Span, offload: str, device: torch.device,
              make: Callable[[Keep], None], tokens: Tokens) -> KVCache:
    """The video's keys and values, made for the sampling run when first asked for. `name`: host values that say of
    which model they are, and in what dtype. Where weights may change between calls, they are made for each."""
    run = options.get(RUN)
    if run is None or not run.steady:
        return make_cache(span, "VRAM", device, make, tokens, ExitStack())
    key = "video reference", name, id(span.latents), id(span.tokens), id(span.audio), offload, device
    return run.once(key, lambda: (span, make_cache(span, offload, device, make, tokens, run.ends)))[1]   # span's ids


def make_cache(span: Span, offload: str, device: torch.device, make: Callable[[Keep], None], tokens: Tokens,
               ends: ExitStack) -> KVCache:
    blocks: list[Pair] | RamBlocks = [] if offload == "VRAM" else RamBlocks(device)
    if isinstance(blocks, RamBlocks):
        ends.callback(blocks.close)
        make(blocks.park)
    else:
        make(lambda *pair: blocks.append(pair))
    times = tuple(time - span.times[0] for time in span.times)
    places = tokens.places.float()
    places[:, 0] = torch.tensor(times)[tokens.places[:, 0]]
    cache = KVCache(blocks, places.to(device), times, tokens.frame_tokens)    # type: ignore[arg-type]
    logger.info("KV cache of a video reference: %d of %d tokens, %.0f MB in %s", tokens.count, tokens.total,
                cache.bytes / 1e6, offload)
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


def video_bytes(techniques: Iterable[Technique], blocks: int, width: int, dtype: torch.dtype) -> int:
    """VRAM that its keys and values take in a model of so many blocks."""
    video = find_video(techniques)
    if video is None or video.offload != "VRAM":
        return 0
    return video.tokens.count * 2 * blocks * width * dtype.itemsize


def video_bytes_of(model, techniques: Iterable[Technique]) -> int:
    """The same, of a BaseModel that holds one of Wan's networks."""
    network = model.diffusion_model
    return video_bytes(techniques, len(network.blocks), network.dim, model.manual_cast_dtype or model.get_dtype())
