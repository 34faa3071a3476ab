"""Block sparse attention (LongCat-Video, section 3.3), as its authors refine to 720p: see sparse_blocks.py."""
from dataclasses import dataclass

from .sparse_blocks import SparseBlocks
from .technique import Technique

TOKEN_LATENTS = 2           # a token is so many latents high and wide


@dataclass(frozen=True, eq=False)
class BlockSparseAttention(Technique):
    blocks: SparseBlocks = SparseBlocks()

    def sparse_attention(self) -> SparseBlocks:
        return self.blocks

    def check_chunk(self, latents: int, context: int, height: int, width: int) -> None:
        spans = context, latents - context
        self.blocks.check_grid(spans, height // TOKEN_LATENTS, width // TOKEN_LATENTS)
