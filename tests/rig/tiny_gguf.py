"""Writes small GGUF files for tests, not quantised from anything: blocks whose values are known, in every type.

    from tiny_gguf import KINDS, drawn, write_gguf     (needs torch and numpy; neither ComfyUI, nor the pack, nor gguf)

`tests/golden/gguf/blocks.npz` holds random blocks of every type and the values that the gguf package makes of them.
"""
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCKS = Path(__file__).resolve().parents[1] / "golden" / "gguf" / "blocks.npz"
KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12,
         "Q5_K": 13, "Q6_K": 14, "BF16": 30}
ALIGNMENT, UINT32, INT32, STRING, ARRAY = 32, 4, 5, 8, 9


class Stored(NamedTuple):
    """A weight of a file: its type, its shape, its bytes and the `numbers` that they are."""
    kind: str
    shape: tuple[int, ...]
    data: bytes
    numbers: Tensor


def drawn(kind: str, shape: tuple[int, ...]) -> Stored:
    """A weight of random blocks, whole ones in all."""
    with np.load(BLOCKS) as file:
        raw, numbers = file[f"{kind}.raw"][2:], file[f"{kind}.numbers"][2:]     # the first two are extremes
    length, wanted = numbers.shape[1], int(np.prod(shape))
    order = np.random.default_rng(wanted).integers(0, len(raw), -(-wanted // length))
    data = raw[order].reshape(-1)[:wanted * raw.shape[1] // length].tobytes()
    return Stored(kind, shape, data, torch.from_numpy(numbers[order].reshape(-1)[:wanted].copy()).reshape(shape))


def plain(tensor: Tensor, kind: str = "F32") -> Stored:
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    kept = tensor.to(dtype).contiguous()
    return Stored(kind, tuple(tensor.shape), kept.flatten().view(torch.uint8).numpy().tobytes(), kept.float())


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str, value: str | int | list[int]) -> bytes:
    if isinstance(value, str):
        return text(name) + struct.pack("<I", STRING) + text(value)
    if isinstance(value, int):
        return text(name) + struct.pack("<II", UINT32, value)
    return text(name) + struct.pack(f"<IIQ{len(value)}i", ARRAY, INT32, len(value), *value)


def write_gguf(path: Path, weights: Mapping[str, Stored], metadata: Mapping[str, str | int | list[int]] = {}) -> Path:
    metadata = {"general.architecture": "wan", "general.file_type": 7, **metadata}
    head, body = [entry(name, value) for name, value in metadata.items()], bytearray()
    for name, (kind, shape, data, _) in weights.items():
        shape = (int(np.prod(shape[:-1])), shape[-1]) if f"comfy.gguf.orig_shape.{name}" in metadata else shape
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head.append(text(name) + sizes + struct.pack("<IQ", KINDS[kind], len(body)))
        body += data + bytes(-len(data) % ALIGNMENT)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(weights), len(metadata)) + b"".join(head)
    path.write_bytes(start + bytes(-len(start) % ALIGNMENT) + body)
    return path
