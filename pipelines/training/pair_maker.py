"""What teachers make of clips, one file each on a shelf of the folder: paths from noise, and pairs of takes.

Where in a clip a pair begins and what its noise is, follows from seed, clip and number, so whatever ends the run costs
one pair, the next goes on, and more pairs later leave those that are there.
"""
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import safe_files
from ..safe_files import writing
from .clip_maker import SPARE_BYTES, Report, Watcher
from .clip_store import CLIPS, ClipStore
from .clips import Clip, check_arrays
from .flow_recipes import part, reference_of
from .recipe import Example

MADE_WITH = "made_with.json"
OPENS = 0.2     # the share of pairs that open a take


class PairLeftOut(ValueError):
    """Why a pair is of no use."""


@dataclass(frozen=True)
class Pair:
    """One of a clip's, which begins at its latent `first` behind `context` clean ones."""
    name: str
    clip: str
    first: int
    context: int
    seed: int


@dataclass(frozen=True)
class Request:
    """`kind`: how the shelf's name begins. `pairs`: in all, spread over the clips. `each_bytes`: of a file, about."""
    kind: str
    pairs: int
    seed: int
    each_bytes: int


class PairMaker:
    """Fills the shelf `<kind>_<digest>` of `store`. `made_with`: what a teacher made pairs with, in words; its digest
    names the shelf. `make`: a pair and its example -> arrays and values of its file; PairLeftOut where it is of no
    use."""

    def __init__(self, store: ClipStore, request: Request, made_with: Mapping[str, str],
                 make: Callable[[Pair, Example], tuple[dict[str, Tensor], dict[str, Any]]], watcher: Watcher):
        self.clips, self.request, self.make_pair, self.watcher = store.on(CLIPS), request, make, watcher
        check_arrays(self.clips, ("latents",), request.kind)
        self.made_with = {**made_with, "seed": str(request.seed)}
        digest = zlib.crc32(json.dumps(self.made_with, sort_keys=True).encode())
        self.shelf = store.on(f"{request.kind}_{digest:08x}")

    def make(self) -> tuple[ClipStore, Report]:
        """The shelf and what was done. Raises ValueError where the disk has too little room, with the figure, or no
        pair is of use."""
        made, found, left_out = 0, 0, dict[str, str]()
        with self.clips.writer():
            pairs = [self.pair(number) for number in range(self.request.pairs)]
            self._check_disk(pairs)
            self._write(MADE_WITH, self.made_with)
            for number, pair in enumerate(pairs, 1):
                self.watcher.check_cancelled()
                was_there = self._is_done(pair)
                if not was_there:
                    self._make(pair)
                if reason := self._left_out(pair):
                    left_out[pair.name] = reason
                else:
                    made, found = made + (not was_there), found + was_there
                self.watcher.clip_done(number, len(pairs), pair.name, not was_there)
        report = Report(made, found, left_out, "pairs")
        if not self.shelf.refresh().names:
            raise ValueError(f"clips: none of {len(pairs)} pairs is of use. {report}")
        return self.shelf.refresh(), report

    def pair(self, number: int) -> Pair:
        own, name = self.clips.format, self.clips.names[number % len(self.clips)]
        number //= len(self.clips)
        mixed = zlib.crc32(f"{name} {number}".encode()) + (self.request.seed << 32)
        draw = torch.Generator().manual_seed(mixed & 0x7FFF_FFFF_FFFF_FFFF)
        opens = not own.context_latents or float(torch.rand((), generator=draw)) < OPENS
        least, last = own.context_latents + 1, own.latents - own.chunk_latents
        first = 0 if opens or last < least else int(torch.randint(least, last + 1, (), generator=draw))
        return Pair(f"{name}_{number:04d}", name, first, own.context_latents if first else 0,
                    int(torch.randint(1 << 31, (), generator=draw)))

    def example(self, pair: Pair) -> Example:
        """As a chunk of a take at the pair's place; its latents are the clip's own."""
        clip: Clip = self.clips.clip(pair.clip)
        latents = part(clip["latents"], pair.first, self.clips.format.chunk_latents)
        context = part(clip["latents"], pair.first - pair.context, pair.context) if pair.context else None
        return Example(clip, latents, torch.zeros_like(latents), torch.ones(latents.shape[2]), pair.first, context,
                       reference=reference_of(clip), sound="speech" if "speech" in clip else "null")

    def _make(self, pair: Pair) -> None:
        try:
            arrays, values = self.make_pair(pair, self.example(pair))
        except PairLeftOut as error:
            self._write(f"{pair.name}.json", {"left_out": str(error)})
            return
        self.shelf.write(pair.name, arrays, {**values, "clip": pair.clip})

    def _is_done(self, pair: Pair) -> bool:
        return self.shelf.path(pair.name).is_file() or self._record(pair).is_file()

    def _record(self, pair: Pair) -> Path:
        return self.shelf.path(pair.name).with_suffix(".json")

    def _left_out(self, pair: Pair) -> str:
        if not self._record(pair).is_file():
            return ""
        return json.loads(self._record(pair).read_text("utf-8"))["left_out"]

    def _write(self, name: str, values: Mapping[str, str]) -> None:
        path = self.shelf.path("x").with_name(name)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            safe_files.replace(path, json.dumps(dict(values), indent=1).encode())

    def _check_disk(self, pairs: list[Pair]) -> None:
        missing = sum(not self._is_done(pair) for pair in pairs)
        needed, free = missing * self.request.each_bytes + SPARE_BYTES, shutil.disk_usage(self.clips.folder).free
        if missing and needed > free:
            raise ValueError(f"clips: {missing} pairs need {needed / 1e9:.1f} GB, and {self.clips.folder} has "
                             f"{free / 1e9:.1f} GB free. Make room, or ask for fewer pairs")
