"""The KV cache of conditioning frames, made once per chunk (LongCat-Video-Avatar): reference and context see neither
noise nor text nor speech, so every step and every guidance branch can share their keys and values. Without this
technique the model computes them again in each call, with the same result.
"""
from dataclasses import dataclass

from .technique import Technique

OFFLOADS = ("VRAM", "RAM")


@dataclass(frozen=True, eq=False)
class ConditioningCache(Technique):
    """`offload`: where it is kept. RAM frees the card's memory; each block's part comes over when it is its turn."""
    offload: str = "VRAM"

    def __post_init__(self):
        if self.offload not in OFFLOADS:
            raise ValueError(f"kv_cache: got {self.offload!r}, wanted one of {', '.join(OFFLOADS)}")

    def conditioning_cache(self) -> str:
        return self.offload
