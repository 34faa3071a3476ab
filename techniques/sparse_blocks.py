"""Which blocks of keys each block of queries attends to: those that answer it best (LongCat-Video, section 3.3).

A block is a box of frames, rows and columns. Per head, the mean query of a block scores the mean keys of all blocks;
its queries attend to the best of these as usual, and to nothing else. What is not attended to is never multiplied, and
there is no mask: the chosen keys are gathered, some query blocks at a time.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

GATHERED = 1 << 27          # numbers in the keys that are gathered at a time

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]     # (N, tokens, D) each


@dataclass(frozen=True)
class SparseBlocks:
    """`sparsity`: the share of the key blocks that a query block leaves out; 0 is full attention. `block`: frames, rows
    and columns of tokens. The defaults are the authors' own."""
    sparsity: float = 0.9375
    block: tuple[int, int, int] = (4, 4, 4)

    def __post_init__(self):
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity: got {self.sparsity:g}, wanted 0 (attend to all) or more, below 1")

    def check_grid(self, spans: tuple[int, ...], rows: int, columns: int) -> None:
        """Raises ValueError where spans of latent frames, with rows x columns tokens each, do not fall into blocks."""
        tall, high, wide = self.block
        if any(span % tall for span in spans) or rows % high or columns % wide:
            raise ValueError(
                f"block sparse attention: got {' + '.join(str(span) for span in spans if span)} latents of "
                f"{columns * 16}x{rows * 16} pixels, wanted conditioning frames and noise in multiples of {tall} "
                f"latents (chunks of 93 frames that overlap by 13), without a reference or anchor, and a size in "
                f"multiples of {16 * wide}x{16 * high}. Change the size, or remove Block Sparse Attention")

    def blocks_to_see(self, blocks: int) -> int:
        """How many of so many key blocks each query block attends to."""
        return max(int((1 - self.sparsity) * blocks), 1)

    def attend(self, attend: Attend, query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, heads, D) queries and keys of whole frames, `grid` tokens high and wide -> (B, N, heads * D)."""
        queries, keys, values = (self.into_blocks(part, grid) for part in (query, key, value))
        batch, heads, count, size, _ = queries.shape
        scores = queries.mean(3) @ keys.mean(3).transpose(-1, -2)
        chosen = scores.topk(self.blocks_to_see(keys.shape[2]), sorted=False).indices
        rows = torch.arange(batch * heads, device=query.device)[:, None, None]
        queries, keys, values, chosen = (part.flatten(0, 1) for part in (queries, keys, values, chosen))
        piece = max(GATHERED // (keys[:, :1].numel() * chosen.shape[-1]), 1)
        mixed = []
        for first in range(0, count, piece):
            seen = chosen[:, first:first + piece]
            near = (part[rows, seen].flatten(2, 3).flatten(0, 1) for part in (keys, values))
            mixed.append(attend(queries[:, first:first + piece].flatten(0, 1), *near).unflatten(0, (-1, seen.shape[1])))
        return self.out_of_blocks(torch.cat(mixed, 1).unflatten(0, (batch, heads)), grid)

    def into_blocks(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        tall, high, wide = self.block
        return rearrange(x, "b (t tall h high w wide) heads d -> b heads (t h w) (tall high wide) d", tall=tall,
                         high=high, wide=wide, h=grid[0] // high, w=grid[1] // wide)

    def out_of_blocks(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        tall, high, wide = self.block
        return rearrange(x, "b heads (t h w) (tall high wide) d -> b (t tall h high w wide) (heads d)", tall=tall,
                         high=high, wide=wide, h=grid[0] // high, w=grid[1] // wide)
