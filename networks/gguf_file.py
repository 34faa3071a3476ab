"""Reads GGUF files of diffusion models (ComfyUI-GGUF's layout): names, shapes and bytes, mapped rather than read.

A file is: magic, version, two counts; metadata by key; a directory of tensors (name, sizes from the fastest to the
slowest, type, offset); the bytes of all tensors, each at a multiple of the alignment. Everything is little-endian.
"""
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from .gguf_blocks import KINDS, PLAIN
from .packed import Blocks
from .weight_files import format_bytes, map_file, view_as

MAGIC, VERSIONS, ALIGNMENT = b"GGUF", (2, 3), 32
NUMBERS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")     # metadata types by number
STRING, ARRAY = 8, 9
# what a header of any bytes raises: sizes and counts beyond all bounds, no text, nested arrays without end, other types
DAMAGED = (struct.error, MemoryError, UnicodeDecodeError, LookupError, ArithmeticError, RecursionError, TypeError,
           RuntimeError)
SHAPE = "comfy.gguf.orig_shape."    # + name: the shape before the rows were made to fit a block


def read_gguf(path: Path) -> tuple[dict[str, Tensor | Blocks], dict[str, str]]:
    """(weights, those of the metadata that are text). A weight that is quantised stays so.

    Raises ValueError that says what is wrong with the file, without its name.
    """
    try:
        with open(path, "rb") as file:
            metadata, directory, end = read_head(file)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        start = -(-end // alignment) * alignment
        raw, weights = map_file(path), {}
        for name, sizes, kind, offset in directory:
            shape = tuple(metadata.get(SHAPE + name, reversed(sizes)))
            weights[name] = weight_at(raw[start + offset:], name, shape, sizes, kind)
    except DAMAGED as error:
        raise ValueError(f"it is cut short or damaged within its header: {format_bytes(path.stat().st_size)} are here; "
                         "download it again") from error
    return weights, {name: value for name, value in metadata.items() if isinstance(value, str)}


def weight_at(raw: Tensor, name: str, shape: tuple[int, ...], sizes: tuple[int, ...], kind: int) -> Tensor | Blocks:
    if kind not in KINDS:
        known = ", ".join(entry.name for entry in KINDS.values())
        raise ValueError(f"{name} is quantised as type {kind} of GGUF, which is not read here (read are {known}); "
                         "download the file in one of these")
    length, size = KINDS[kind].length, KINDS[kind].size
    count = math.prod(sizes)
    if math.prod(shape) != count or sizes and sizes[0] % length:
        raise ValueError(f"{name} has {' x '.join(map(str, reversed(sizes)))} weights as {KINDS[kind].name}, which do "
                         "not fit; the file is damaged")
    if len(raw) < count // length * size:
        raise ValueError(f"it is cut short at {name}; download it again")
    raw = raw[:count // length * size]
    return view_as(raw, PLAIN[kind]).reshape(shape) if kind in PLAIN else Blocks(raw, ((kind, math.prod(shape[:-1])),),
                                                                                shape)


# ---------------------------------------------------------------- the header

def read_head(file: BinaryIO) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]], int]:
    """(metadata, the tensors' directory, at which byte it ends)."""
    magic = file.read(4)
    if magic != MAGIC:
        raise ValueError(f"it is no GGUF file: it begins with {magic!r}; download it again")
    version, = unpack(file, "<I")
    if version not in VERSIONS:
        raise ValueError(f"it is GGUF of version {version}, wanted one of {VERSIONS}")
    tensors, entries = unpack(file, "<QQ")
    metadata = {read_text(file): read_value(file, unpack(file, "<I")[0]) for _ in range(entries)}
    directory = []
    for _ in range(tensors):
        name, (dimensions,) = read_text(file), unpack(file, "<I")
        sizes = unpack(file, f"<{dimensions}Q")
        directory.append((name, sizes, *unpack(file, "<IQ")))
    return metadata, directory, file.tell()


def unpack(file: BinaryIO, layout: str) -> tuple:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def read_text(file: BinaryIO) -> str:
    length, = unpack(file, "<Q")
    return unpack(file, f"<{length}s")[0].decode("utf-8")


def read_value(file: BinaryIO, kind: int) -> Any:
    if kind == STRING:
        return read_text(file)
    if kind == ARRAY:
        inner, length = unpack(file, "<IQ")
        return [read_value(file, inner) for _ in range(length)]
    return unpack(file, NUMBERS[kind])[0]
