"""The rolling window's golden cases: index tables, the KV cache alone, and whole takes of a tiny causal student.

Windows, levels, positions, renoising and cache are the pack's; the network is written plainly (rolling_network.py),
and with a ComfyUI each take is also made in it, by its own network and sampler (rolling_streams.py).
"""
import importlib
import json
from dataclasses import dataclass
from functools import cached_property, partial

import golden
import torch
from lodestar.techniques.kv_cache import KVCache
from lodestar.techniques.rolling_window import Call, Rolling, list_calls, roll, spread_levels
from lodestar.techniques.rope import rope_frequencies
from lodestar.techniques.style_anchor import StyleAnchor
from rolling_network import Network, attend_seen
from torch import Tensor

TOLERANCE = 1e-5
Pairs = dict[str, tuple[Tensor, Tensor]]


def cases_of(fixtures: golden.Fixtures, host: golden.Host) -> dict[str, golden.Case] | None:
    if not (fixtures.folder / "windows.json").is_file() or not (fixtures.folder / "kv_cache.json").is_file():
        return None
    cases: dict[str, golden.Case] = {name: partial(table, read(fixtures, name)) for name, table in
                                     (("windows", check_windows), ("latents", check_latents), ("memory", check_memory))}
    cache = Cache(fixtures)
    cases |= {f"cache_{name}": getattr(cache, name) for name in ("rotate", "evict", "select", "attend")}
    for record in fixtures.cases["cases"]:
        take = Take(fixtures, record)
        cases |= {f"{record['name']}_{part}": getattr(take, part) for part in ("calls", "fed", "free")}
        if host.latent_format is not None:
            cases[f"{record['name']}_comfyui"] = partial(play_in_comfyui, fixtures, record)
    return cases


def play_in_comfyui(fixtures: golden.Fixtures, record: dict) -> Pairs:
    return importlib.import_module("rolling_streams").play(fixtures, record)


def read(fixtures: golden.Fixtures, name: str):
    return json.loads((fixtures.folder / f"{name}.json").read_text(encoding="utf-8"))


def as_pairs(found: list, wanted: list) -> Pairs:
    """Lists of whole numbers, flattened; another form is a difference, too."""
    if found == wanted:
        return {"numbers": (torch.zeros(1, dtype=torch.int64),) * 2}
    return {"numbers": (torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64))}


def even(levels: int) -> tuple[float, ...]:
    return (*(1 - level / levels for level in range(levels)), 0.0)


def ends(numbers: range) -> list[int]:
    return [numbers.start, numbers.stop]


def check_windows(rows: list[dict]) -> Pairs:
    found = []
    for row in rows:
        rolling, passes = Rolling(even(row["L"] * row["N"]), 1, row["N"]), row["N"]
        windows = list(rolling.windows(row["K"]))
        levels = [[list(window.levels(passes, each)) for each in range(passes)] for window in windows]
        visits = [[[window.index, each, window.levels(passes, each)[block - window.blocks.start]] for window in windows
                   for each in range(passes) if block in window.blocks] for block in range(row["K"])]
        emitted = [[window.index, block] for window in windows if (block := rolling.find_emitted(window)) is not None]
        found.append({**{name: row[name] for name in "KLN"}, "windows": [ends(window.blocks) for window in windows],
                      "levels": levels, "visits": visits, "emitted": emitted})
    return as_pairs(found, rows)


def check_latents(rows: list[dict]) -> Pairs:
    found = []
    for row in rows:
        rolling = Rolling((1.0, 0.0), row["B"])
        blocks = rolling.count_blocks(row["latents"])
        padded = rolling.latents_of(range(blocks)).stop
        found.append({"B": row["B"], "latents": row["latents"], "K": blocks,
                      "blocks": [ends(rolling.latents_of(range(block, block + 1))) for block in range(blocks)],
                      "kept_of_last": row["B"] - (padded - row["latents"]), "padded_latents": padded,
                      "audio_rows": 1 + 4 * (padded - 1)})
    return as_pairs(found, rows)


def check_memory(rows: list[dict]) -> Pairs:
    found, anchors = [], (StyleAnchor(), StyleAnchor(reindex=False))
    for row in rows:
        calls = list_calls(Rolling(even(row["L"]), row["B"]), row["K"], row["T"])
        found.append({**{name: row[name] for name in "BLTK"}, "calls": [
            ["W" if call.writes else "w", call.latents.start, len(call.latents), call.local_zero, len(call.recents),
             call.first_time, *(int(anchor.time(call.local_zero)) for anchor in anchors)] for call in calls]})
    return as_pairs(found, rows)


@dataclass
class Cache:
    """Unit cases of the KV cache."""
    fixtures: golden.Fixtures

    @cached_property
    def info(self) -> dict:
        return read(self.fixtures, "kv_cache")

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.fixtures.load("kv_cache.safetensors")

    def of_frames(self, name: str, times, frames: slice = slice(None)) -> KVCache:
        """`frames` of the tensors NAME.key and NAME.value, standing at `times`."""
        tokens = self.info["grid"][0] * self.info["grid"][1]
        key, value = (self.tensors[f"{name}.{part}"].unflatten(1, (-1, tokens))[:, frames].flatten(1, 2)
                      for part in ("key", "value"))
        return KVCache.of_frames(((key, value),), times, tuple(self.info["grid"]))

    def turned(self, cache: KVCache, time: float) -> Tensor:
        return cache.keys(0, cache.frequencies(time, self.info["axes"]))

    def rotate(self) -> Pairs:
        key = self.tensors["rotate.key"]
        cache = KVCache(((key, key),), self.tensors["rotate.places"], (0, 1, 2), (6, 6, 6))
        return {entry["tensor"]: (self.turned(cache, entry["time"]), self.tensors[entry["tensor"]])
                for entry in self.info["rotate"]}

    def evict(self) -> Pairs:
        pairs: Pairs = {}
        for entry in filter(lambda entry: entry["most"], self.info["evict"]):     # without a budget there is no cache
            name, first, held = entry["tensors"], 0, None
            for count in entry["appended"]:
                more = self.of_frames(name, range(count), slice(first, first + count))
                held = more.newest(entry["most"]) if held is None else held.append(more, entry["most"])
                first += count
            pairs[name] = self.turned(held, entry["time"]), self.tensors[f"{name}.rotated"]
            kept = self.of_frames(name, range(held.frames), slice(entry["held"][-1][0], entry["held"][-1][-1] + 1))
            pairs[f"{name}.value"] = held.blocks[0][1], kept.blocks[0][1]
        return pairs

    def select(self) -> Pairs:
        rows, columns = self.info["grid"]
        own = self.of_frames("select.own", (0, 1))
        query, pairs = self.tensors["select.own.query"], {}
        for entry in self.info["select"]:
            name = f"select.{entry['name']}"
            cache = self.of_frames("select", (0, 1, 2)).select(torch.tensor(entry["mask"]).flatten().bool())
            tokens = torch.tensor(entry["mask"]).flatten().nonzero().flatten()
            pairs[f"{name}.tokens"] = tokens, torch.tensor(entry["tokens"], dtype=torch.int64)
            pairs[f"{name}.places"] = cache.places, self.tensors[f"{name}.places"].float()
            pairs[f"{name}.rotated"] = self.turned(cache, entry["time"]), self.tensors[f"{name}.rotated"]
            frequencies = rope_frequencies((0, 1), rows, columns, self.info["axes"])
            pairs[name] = attend_seen(query, frequencies, (cache, own), (entry["time"],) * 3 + (0, 1), self.info["axes"]
                                      ), self.tensors[f"{name}.attended"]
        return pairs

    def attend(self) -> Pairs:
        pairs, (rows, columns) = {}, self.info["grid"]
        for entry in self.info["attend"]:
            first, shift = entry["recents"], entry["shift"]
            window = self.of_frames("attend.window", range(4))
            recents = self.of_frames("attend.recents", range(2)).newest(first)
            anchor = self.of_frames("attend.anchor", (0,)).newest(0 if entry["anchor_time"] is None else 1)
            times = [entry["anchor_time"]] * anchor.frames + list(range(first + 4))
            own = [first + shift + frame for frame in range(4)]
            found = attend_seen(self.tensors["attend.window.query"],
                                rope_frequencies(own, rows, columns, self.info["axes"]), (anchor, recents, window),
                                [time + shift for time in times], self.info["axes"])
            pairs[entry["tensor"]] = found, self.tensors[entry["tensor"]]
        return pairs


@dataclass
class Take:
    """One take of the tiny student."""
    fixtures: golden.Fixtures
    record: dict

    @cached_property
    def network(self) -> Network:
        return Network(self.fixtures.load("weights.safetensors"), self.fixtures.cases["network"])

    @cached_property
    def rolling(self) -> Rolling:
        return Rolling(tuple(self.record["sigmas"]), self.record["B"], self.record["N"], self.record["renoise"])

    @cached_property
    def anchor(self) -> StyleAnchor | None:
        record = self.record
        return StyleAnchor(-1.0 if record["d"] is None else record["d"], record["reindex"],
                           record["anchor_audio"] == "first_row", record["in_write"]) if record["anchor"] else None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.fixtures.load(self.record["file"])

    @property
    def blocks(self) -> int:
        return self.rolling.count_blocks(self.record["latents"])

    def calls(self) -> Pairs:
        """Every number of every call."""
        found = [self.numbers(index, call) for index, call in
                 enumerate(list_calls(self.rolling, self.blocks, self.record["T"]))]
        wanted = [{name: call[name] for name in found[0]} for call in self.record["calls"]]
        for own, recorded in zip(found, wanted, strict=True):
            if recorded["recents"][0] == recorded["recents"][1]:        # none, wherever they would begin
                own["recents"] = [recorded["recents"][0], recorded["recents"][1] + len(range(*own["recents"]))]
        return as_pairs(found, wanted)

    def numbers(self, index: int, call: Call) -> dict:
        return {"call": index, "kind": "write" if call.writes else "window", "window": call.window,
                "pass": call.refinement, "blocks": ends(call.blocks), "levels": list(call.levels),
                "latents": ends(call.latents), "recents": ends(call.recents), "local_zero": call.local_zero,
                "anchor_time": self.anchor and self.anchor.time(call.local_zero, call.writes),
                "first_time": call.first_time, "audio_rows": [4 * call.latents.start - 3, 4 * call.latents.stop - 3],
                "emits": call.emits}

    def fed(self) -> Pairs:
        """Each call with what it was recorded with."""
        stream, pairs = Stream(self), {}
        for index, call in enumerate(list_calls(self.rolling, self.blocks, self.record["T"])):
            name = f"call{index:02d}"
            x = self.tensors[f"{name}.x"]
            flow, timestep = stream.run(call, x)
            pairs[f"{name}.timestep"] = timestep, self.tensors[f"{name}.timestep"]
            pairs[f"{name}.flow"] = flow, self.tensors[f"{name}.flow"]
            if not call.writes:
                pairs[f"{name}.x0"] = x - timestep[:, None, :, None, None] / 1000 * flow, self.tensors[f"{name}.x0"]
        return pairs | stream.ends(pairs)

    def free(self) -> Pairs:
        """The stream on its own, from the noise alone."""
        stream, noise = Stream(self), self.tensors["noise"]
        blocks = roll(self.rolling, self.blocks, self.record["T"], stream.predict,
                      lambda block, level: noise[block, level][None], lambda call, clean: stream.run(call, clean))
        picture = self.fixtures.load("inputs.safetensors")["picture"]
        latents = torch.cat([picture, *blocks], 2)[:, :, :self.record["latents"]]
        return {"latents": (latents, self.tensors["latents"])}


class Stream:
    """The network as it goes along a take, with what it remembers."""

    def __init__(self, take: Take):
        self.take, self.network = take, take.network
        self.inputs = take.fixtures.load("inputs.safetensors")
        self.rows = torch.cat([self.inputs["audio"], self.inputs["audio"][:, -1:].expand(-1, 64, -1)], 1)
        self.recents: KVCache | None = None
        self.anchor = self.write_anchor(self.rows[:, :1]) if take.anchor and not take.anchor.window_audio else None
        self.wanted: Pairs = {}

    @property
    def grid(self) -> tuple[int, int]:
        return self.network.config["height"] // 2, self.network.config["width"] // 2

    def concat(self, frames: int, mask: float) -> Tensor:
        picture = self.inputs["picture"]
        return torch.cat([picture.expand(-1, -1, frames, -1, -1), torch.full_like(picture[:, :1], mask).expand(
            -1, -1, frames, -1, -1)], 1)

    def write_anchor(self, row: Tensor) -> KVCache:
        picture = self.inputs["picture"]
        flow, pairs = self.network(picture, self.concat(1, 0.0), torch.zeros(1, 1), self.inputs["context"],
                                   row.expand(-1, 4, -1), (0,))
        self.anchor_flow = flow
        return KVCache.of_frames(tuple(pairs), (0,), self.grid)

    def run(self, call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
        """(flow, timestep); a write is remembered."""
        take, first = self.take, 4 * call.latents.start - 3
        anchor = self.anchor
        if take.anchor and take.anchor.window_audio:
            row = first if not call.writes else self.window_row
            anchor, self.window_row = self.write_anchor(self.rows[:, row:row + 1]), row
        sigmas = spread_levels(take.rolling.sigmas, call, take.rolling.block_latents)
        timestep = (1000 * torch.tensor(sigmas, dtype=torch.float32))[None]
        seen = [(anchor, take.anchor.time(call.local_zero, call.writes))] if anchor is not None else []
        seen += [(self.recents, 0)] if self.recents is not None else []
        times = range(call.first_time, call.first_time + len(call.latents))
        flow, pairs = self.network(x, self.concat(x.shape[2], 1.0), timestep, self.inputs["context"],
                                   self.rows[:, first:first + 4 * x.shape[2]], times, seen)
        if call.writes:
            own, most = KVCache.of_frames(tuple(pairs), range(x.shape[2]), self.grid), take.record["T"]
            self.recents = own.newest(most) if self.recents is None else self.recents.append(own, most)
        return flow, timestep

    def predict(self, call: Call, x: Tensor) -> Tensor:
        flow, timestep = self.run(call, x)
        return x - timestep[:, None, :, None, None] / 1000 * flow

    def ends(self, pairs: Pairs) -> Pairs:
        """What the fixtures have of the memory at the end: all blocks of the last cache, or its outer ones."""
        found, tensors = {}, self.take.tensors
        writes = [name.removesuffix(".held.key") for name in tensors if name.endswith(".held.key")]
        for name, blocks in ((max(writes), (0, -1)), ("", range(self.network.config["layers"]))) if writes else ():
            prefix = f"{name}.held" if name else "held"
            if f"{prefix}.key" in tensors:
                for part, which in enumerate(("key", "value")):
                    held = torch.stack([self.recents.blocks[block][part] for block in blocks])
                    found[f"{prefix}.{which}"] = held, tensors[f"{prefix}.{which}"]
        if "anchor.key" in tensors:
            found["anchor.flow"] = self.anchor_flow, tensors["anchor.flow"]
            for part, which in enumerate(("key", "value")):
                held = torch.stack([pair[part] for pair in self.anchor.blocks])
                found[f"anchor.{which}"] = held, tensors[f"anchor.{which}"]
        return found
