"""Keys before RoPE and values of a few latents, in slots that are written again and again: what a stream remembers.

A slot has one latent's tokens in every block of the model. Which latent that is, and when it stands, the reader knows:
attention does not depend on the order of its keys, so nothing is moved when an old latent makes room for a new one.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..techniques.audio.segments import runs
from ..techniques.kv_cache import Pair
from ..techniques.temporal_anchor import OFFLOADS, PRECISIONS
from .ram_blocks import RamBlocks
from .sampling_run import outside_of_steps

FP8, LARGEST = torch.float8_e4m3fn, 448.0


@dataclass(eq=False)
class KVSlots:
    """`count`: slots. `offload`: "VRAM" or "RAM"; `precision`: "model", or "fp8" with a scale for each slot and head.

    `blocks`: per block the stored tensors, (B, count * tokens, heads, D) key and value, and in fp8 the scales of both,
    (B, count, heads).
    """
    count: int
    offload: str = OFFLOADS[0]
    precision: str = PRECISIONS[0]
    blocks: "list[tuple[Tensor, ...]] | RamBlocks" = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for block in self.blocks for tensor in block)

    def write(self, block: int, key: Tensor, value: Tensor, slots: Sequence[int]) -> None:
        """Put `key` and `value` (B, n * tokens, heads, D) into n `slots`. A block that has none yet is the next one."""
        tokens, numbers = key.shape[1] // len(slots), list(slots)
        if block == len(self.blocks):
            with outside_of_steps():
                self._add(key, tokens)
        given = self._pack(key, len(slots)), self._pack(value, len(slots))
        for first, end in runs(numbers):
            begin = numbers.index(first)
            for part, (numeric, scale) in enumerate(given):
                self._put(block, part, first * tokens, numeric[:, begin * tokens:(begin + end - first) * tokens])
                if scale is not None:
                    self._put(block, part + 2, first, scale[:, begin:begin + end - first])

    def read(self, block: int, held: int, dtype: torch.dtype) -> Pair:
        """Key and value (B, held * tokens, heads, D) of the first `held` slots."""
        key, value, *scales = self.blocks[block]
        tokens = key.shape[1] // self.count
        key, value = key[:, :held * tokens], value[:, :held * tokens]
        if not scales:
            return key, value
        return tuple((part.to(dtype).unflatten(1, (held, tokens)) * scale[:, :held, None, :, None].to(dtype)
                      ).flatten(1, 2) for part, scale in zip((key, value), scales, strict=True))  # type: ignore

    def state(self) -> dict[str, Tensor]:
        """Everything in it, on the host."""
        if isinstance(self.blocks, RamBlocks):
            self.blocks.settle()
        return {f"{block}.{part}": tensor.cpu() for block, tensors in enumerate(self.blocks)
                for part, tensor in enumerate(tensors)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Begin again from `state`, still on the host: `bring` it to the model."""
        count = 1 + max(int(name.split(".")[0]) for name in state)
        self.blocks = [tuple(state[f"{block}.{part}"] for part in range(len(state) // count))
                       for block in range(count)]

    def bring(self, device: torch.device) -> None:
        """Have it where a model on `device` reads it."""
        if isinstance(self.blocks, RamBlocks) or not self.blocks:
            return
        blocks = self.blocks
        self.blocks = RamBlocks(device) if self.offload == "RAM" else []
        for tensors in blocks:
            self._keep(tuple(tensor.to(device) for tensor in tensors))

    def close(self) -> None:
        if isinstance(self.blocks, RamBlocks):
            self.blocks.close()
        self.blocks = []

    def _add(self, like: Tensor, tokens: int) -> None:
        if self.offload == "RAM" and not isinstance(self.blocks, RamBlocks):
            self.blocks = RamBlocks(like.device)
        batch, _, heads, width = like.shape
        dtype = FP8 if self.precision == "fp8" else like.dtype
        parts = [torch.zeros(batch, self.count * tokens, heads, width, dtype=dtype, device=like.device)
                 for _ in range(2)]
        if self.precision == "fp8":
            parts += [torch.ones(batch, self.count, heads, dtype=torch.float32, device=like.device) for _ in range(2)]
        self._keep(tuple(parts))

    def _keep(self, tensors: tuple[Tensor, ...]) -> None:
        if isinstance(self.blocks, RamBlocks):
            self.blocks.park(*tensors)
        else:
            self.blocks.append(tensors)

    def _put(self, block: int, part: int, first: int, value: Tensor) -> None:
        if isinstance(self.blocks, RamBlocks):
            self.blocks.overwrite(block, part, first, value)
        else:
            self.blocks[block][part][:, first:first + value.shape[1]].copy_(value)

    def _pack(self, x: Tensor, latents: int) -> tuple[Tensor, Tensor | None]:
        """`x` as it is kept, and its scales."""
        if self.precision != "fp8":
            return x, None
        parts = x.float().unflatten(1, (latents, -1))
        scale = parts.abs().amax((2, 4)).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
        return (parts / scale[:, :, None, :, None]).to(FP8).flatten(1, 2), scale
