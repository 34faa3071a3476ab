"""Files of weights as they lie on disk: how many bytes belong to them, and their tensors, mapped rather than read.

Known kinds: safetensors, and what torch.save writes. Bytes after a file's own end, as a download manager or a disk
leaves them, are no fault; bytes that are missing are.
"""
import io
import json
import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

SAFETENSORS = (".safetensors", ".sft")
LONGEST_HEADER = 100_000_000    # bytes, as the format allows
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
          "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
# what readers raise on a file of any bytes, torch's own unpickler among them
UNREADABLE = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, OSError,
              pickle.UnpicklingError)
ARCHIVE_END, SEARCHED = b"PK\5\6", 1 << 26    # what closes a zip, and within how many last bytes
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file, or of one that torch.save wrote, whatever follows its end.

    Raises ValueError that says what is wrong with it, without its name.
    """
    if path.suffix.lower() in SAFETENSORS:
        header, start = read_header(path)
        raw = map_file(path)
        metadata = header.pop("__metadata__", {})
        return {name: tensor_at(raw, start, entry) for name, entry in header.items()}, metadata
    file = archive(path)
    mapped = isinstance(file, Path) and archive_end(path) is not None      # an older kind of file cannot be
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    return loaded["state_dict"] if isinstance(loaded, dict) and "state_dict" in loaded else loaded, {}


def surplus_bytes(path: Path) -> int:
    """How many bytes lie after the file's own end; 0 for kinds that do not tell.

    Raises ValueError where it is cut short, or not what its name says.
    """
    if path.suffix.lower() in SAFETENSORS:
        header, start = read_header(path)
        end = start + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"),
                          default=0)
    else:
        end = archive_end(path) or path.stat().st_size
    size = path.stat().st_size
    if size < end:
        raise ValueError(f"it is cut short: {format_bytes(size)} of {format_bytes(end)} are here; download it again")
    return size - end


def format_bytes(count: int) -> str:
    """Bytes as a person says them."""
    unit, name = next(((unit, name) for unit, name in UNITS if count >= unit), UNITS[-1])
    return f"{count} bytes" if unit == 1 else f"{count / unit:.4g} {name}"


def map_file(path: Path) -> Tensor:
    """The file's bytes, mapped: read where they are used, and never written back."""
    size = path.stat().st_size
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8) if size else torch.empty(0).byte()


# ---------------------------------------------------------------- safetensors

def read_header(path: Path) -> tuple[dict, int]:
    """(the header, at which byte the data begin)."""
    with open(path, "rb") as file:
        length = int.from_bytes(head, "little") if len(head := file.read(8)) == 8 else LONGEST_HEADER + 1
        text = file.read(length) if length <= LONGEST_HEADER else b""
    if length > LONGEST_HEADER:
        raise ValueError(f"it is no safetensors file: it begins with {head!r}; download it again")
    if len(text) < length:
        raise ValueError(f"it is cut short within its header: {format_bytes(8 + len(text))} are here; download it "
                         "again")
    try:
        header = json.loads(text)
        wrong = next(damaged_entries(header), None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its header is not readable ({error}); download it again") from error
    if wrong is not None:
        raise ValueError(f"its header is damaged at {wrong}; download it again")
    return header, 8 + length


def damaged_entries(header: dict) -> Iterator[str]:
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        known = DTYPES.get(entry["dtype"])     # those of another are for ComfyUI to read or refuse
        if start < 0 or known is not None and math.prod(entry["shape"]) * known.itemsize != end - start:
            yield name


def tensor_at(raw: Tensor, start: int, entry: dict) -> Tensor:
    first, end = entry["data_offsets"]
    return view_as(raw[start + first:start + end], DTYPES[entry["dtype"]]).reshape(entry["shape"])


def view_as(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as values: in place, or copied where they lie at an odd address."""
    return (raw if raw.storage_offset() % dtype.itemsize == 0 else raw.clone()).view(dtype)


# ---------------------------------------------------------------- torch.save

def archive(path: Path) -> Path | io.BytesIO:
    """What torch.load takes: the file, or its own bytes where others follow them."""
    end = archive_end(path)
    if end is None or end >= path.stat().st_size:
        return path
    with open(path, "rb") as file:
        return io.BytesIO(file.read(end))


def archive_end(path: Path) -> int | None:
    """Where a zip archive ends, whatever follows it; None for another kind of file."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            return None
        first = file.seek(max(0, path.stat().st_size - SEARCHED))
        tail = file.read()
    found = tail.rfind(ARCHIVE_END)
    if found < 0:
        raise ValueError(f"it is cut short: {format_bytes(first + len(tail))} are here, without their table of "
                         "contents; download it again")
    comment = int.from_bytes(tail[found + 20:found + 22], "little")
    return first + found + 22 + comment
