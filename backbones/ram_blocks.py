"""What is kept for each block in RAM, on the card only while its block works: the next one's comes over meanwhile.

Two sets of buffers on the card take turns. A copy waits for the block that used its buffers last and is waited for by
the block it is meant for, both on the card: the processor waits for nothing. Host memory is pinned where there is CUDA.
"""
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from comfy import model_management
from torch import Tensor

from .allocator import host_buffer, release

Kept = tuple[Tensor, ...]


class RamBlocks(Sequence[Kept]):
    """Filled block by block with `park`, asked in turn by `[index]` for tensors on `device`, valid until the next is
    asked. Iterating gives them as they lie in RAM. `close` it before its memory goes."""

    def __init__(self, device: torch.device):
        self.device, self.stream = device, model_management.get_offload_stream(device)
        self.host: list[Kept] = []
        self.buffers: tuple[Kept, ...] = ()
        self.held: list[int | None] = [None, None]      # the block that each set of buffers has, or that is under way
        self.turn = 0                                   # whose buffers were given last

    def park(self, *tensors: Tensor) -> None:
        """Keep one more block's tensors."""
        host = tuple(host_buffer(tensor) for tensor in tensors)
        for there, here in zip(host, tensors, strict=True):
            there.copy_(here, non_blocking=True)
        self.host.append(host)
        if not self.buffers:
            self.buffers = tuple(tuple(torch.empty_like(tensor, device=self.device) for tensor in host)
                                 for _ in self.held)

    def overwrite(self, index: int, part: int, first: int, value: Tensor) -> None:
        """Put `value` (B, n, ...) over one block's tensor number `part`, from entry `first` of its second axis on,
        behind all work queued on the card so far."""
        self.host[index][part][:, first:first + value.shape[1]].copy_(value, non_blocking=True)
        self.held = [None if held == index else held for held in self.held]

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[Kept]:
        return iter(self.host)

    @torch.compiler.disable
    def __getitem__(self, index: int) -> Kept:  # type: ignore[override]
        if self.held[self.turn] == index:           # asked again
            return self.buffers[self.turn]
        if self.held[1 - self.turn] != index:       # the first of all, or a call was broken off
            self.send(index)
        self.turn = 1 - self.turn
        model_management.sync_stream(self.device, self.stream)
        self.send((index + 1) % len(self))
        return self.buffers[self.turn]

    def pairs(self, index: int) -> "Pairs":
        """Of each block the tensors 2 * index and 2 * index + 1."""
        return Pairs(self, 2 * index)

    def send(self, index: int) -> None:
        """Start the copy of one block into the buffers whose turn is next, behind all work queued on the card so
        far."""
        self.held[1 - self.turn] = index
        with self.beside():
            for here, there in zip(self.buffers[1 - self.turn], self.host[index], strict=True):
                here.copy_(there, non_blocking=True)

    def beside(self) -> AbstractContextManager:
        if self.stream is None:
            return nullcontext()
        self.stream.wait_stream(model_management.current_stream(self.device))
        return self.stream.as_context(self.stream)

    def settle(self) -> None:
        """Wait until what was put here is."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Give the memory back, once the last copy is through."""
        release(tensor for host in self.host for tensor in host)
        self.host, self.buffers, self.held = [], (), [None, None]


class Pairs(Sequence[Kept]):
    """Two tensors of each block, as of several caches whose keys and values are parked together."""

    def __init__(self, blocks: RamBlocks, first: int):
        self.blocks, self.first = blocks, first

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Kept]:
        return (kept[self.first:self.first + 2] for kept in self.blocks)

    def __getitem__(self, index: int) -> Kept:  # type: ignore[override]
        return self.blocks[index][self.first:self.first + 2]
