"""Bytes that a block of LongCat-Video-Avatar 1.5 moves outside matrix products and attention, counted on meta.

Each kernel counts what it reads and what it writes, at 480x832: 20 noisy latents of 1,560 tokens with the KV cache of 5
clean ones, bfloat16. What a GPU does in one kernel and meta in several counts as one: attention, norms of queries and
keys, ComfyUI's rotation.
"""
from in_process import LATENT_SIZE, META  # isort: skip - first, because it brings ComfyUI and the pack

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import patch

import longcat
import torch
from lodestar.networks.longcat.network import LongCat
from lodestar.networks.longcat.versions import REFERENCE_INDEX
from lodestar.techniques.kv_cache import KVCache
from rows import Row, show
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TOKENS = LATENT_SIZE[0] * LATENT_SIZE[1] // 4
MATMULS = ("mm", "addmm", "bmm", "baddbmm", "linear", "convolution", "_scaled_dot_product")
VIEWS = ("view", "_unsafe_view", "expand", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze", "split",
         "unbind", "narrow", "t", "alias", "detach", "as_strided", "unflatten", "unfold", "_reshape_alias", "empty",
         "empty_like", "new_empty", "empty_strided")


class Moved(TorchDispatchMode):
    """`bytes` by kernel, and `calls` of all of them, matrix products too."""

    def __init__(self):
        super().__init__()
        self.bytes, self.calls = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.__name__.split(".")[0]
        result = function(*args, **kwargs)
        if name not in VIEWS:
            self.calls[name] += 1
            if not name.startswith(MATMULS):
                read = {**kwargs, "out": None}
                self.bytes[name] += sum(map(size, tree_leaves((args, read, result))))
        return result

    def rms_norm(self, x: torch.Tensor, *_, **__) -> torch.Tensor:
        """In place of torch's: a GPU makes its input contiguous, reads it and writes."""
        self.calls["rms_norm"] += 1
        self.bytes["rms_norm"] += size(x) * (2 if x.is_contiguous() else 4)
        return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def size(value) -> int:
    """Bytes of a tensor as a kernel reads or writes them: what is expanded lies there once."""
    if not isinstance(value, torch.Tensor):
        return 0
    return min(value.nbytes, value.untyped_storage().nbytes())


def attention(_, query: torch.Tensor, *args, **kwargs) -> torch.Tensor:
    """In place of a fused kernel, which keeps no map in memory."""
    return torch.empty_like(query)


def cache_of(frames: int, blocks: int) -> KVCache:
    """A KV cache of the official size."""
    kept = torch.empty(1, frames * TOKENS, longcat.OFFICIAL.heads, longcat.OFFICIAL.head_dim, dtype=torch.bfloat16,
                       device=META)
    return KVCache.of_frames(((kept, kept),) * blocks, range(frames), (LATENT_SIZE[0] // 2, LATENT_SIZE[1] // 2), META)


def forward(blocks: int, speakers: int = 1) -> Moved:
    """A forward pass of so many blocks with the KV cache."""
    config = replace(longcat.OFFICIAL, depth=blocks)
    network = longcat.longcat_model(config, META).model.diffusion_model
    given = {"text": (1, 512, config.caption), "x": (1, 16, longcat.NOISE, *LATENT_SIZE),
             "timestep": (1, longcat.NOISE), "audio": (1, speakers, 4 * (longcat.CONTEXT + longcat.NOISE) - 3, 5, 1,
                                                                     config.audio.width)}
    given = {name: torch.empty(shape, dtype=torch.bfloat16, device=META) for name, shape in given.items()}
    masks = torch.empty(1, 3, 8 * LATENT_SIZE[0], 8 * LATENT_SIZE[1], device=META) if speakers > 1 else None
    moved = Moved()
    with torch.no_grad(), moved, patch("torch.nn.functional.rms_norm", moved.rms_norm), \
            patch("torch.rms_norm", moved.rms_norm), \
            patch("lodestar.techniques.speaker_masks.scaled_dot_product_attention",
                  lambda query, *_: torch.empty_like(query)):
        LongCat.forward(network, **given, speaker_masks=masks,
                        times=range(longcat.CONTEXT, longcat.CONTEXT + longcat.NOISE),
                        cache=[(cache_of(frames, blocks), time) for frames, time in
                               ((1, REFERENCE_INDEX), (longcat.CONTEXT, 0))],
                        transformer_options={"optimized_attention_override": attention})
    return moved


def block(speakers: int = 1) -> tuple[Counter, int]:
    """(bytes moved by each kernel, calls of all kernels) of one block: what a second one adds to a forward pass."""
    one, two = forward(1, speakers), forward(2, speakers)
    return two.bytes - one.bytes, (two.calls - one.calls).total()


def rows() -> Iterator[Row]:
    alone, kernels = block()
    pair, more = block(2)
    yield Row.at_most("LongCat 1.5: GB moved outside matrix products and attention, a block's step with the KV cache",
                      alone.total() / 1e9, 20, 1)
    yield Row.at_most("LongCat 1.5: the same with two speakers", pair.total() / 1e9, 20, 1)
    yield Row.at_most("LongCat 1.5: kernels that a second speaker adds to a block", more - kernels, 40, 0)


if __name__ == "__main__":
    show(rows)
