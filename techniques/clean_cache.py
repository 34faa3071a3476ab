"""Keys and values of clean frames, computed once per chunk (LongCat-Video-Avatar, paper 001): reference and context see
neither noise nor text nor speech, so every step and every guidance branch can share them. Without this technique the
model works them out anew in each call, with the same result.
"""
from dataclasses import dataclass
from typing import ClassVar

from .technique import Technique

PLACES = ("VRAM", "RAM")


@dataclass(frozen=True, eq=False)
class CleanCaching(Technique):
    """`place`: where they are kept. RAM frees the card's memory and sends each block's share over when it is asked."""
    rank: ClassVar[int] = 9
    place: str = "VRAM"

    def __post_init__(self):
        if self.place not in PLACES:
            raise ValueError(f"place: got {self.place!r}, wanted one of {', '.join(PLACES)}")
