"""Weights from disk the way ComfyUI reads them, and what to tell a user whose file is not as it should be."""
import logging
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import comfy.utils
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..networks import weight_files
from ..networks.weight_files import format_bytes, read_weights, surplus_bytes

UNREADABLE = (*weight_files.UNREADABLE, SafetensorError)
WEIGHT_DTYPES = {"default": None, "fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e4m3fn_fast": torch.float8_e4m3fn,
                 "fp8_e5m2": torch.float8_e5m2}
PREFIXES = ("model.diffusion_model.", "diffusion_model.")   # of a network in files that ComfyUI saves
T = TypeVar("T")
logger = logging.getLogger("lodestar")


def load_weights(path: Path, input_id: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a file that the input `input_id` names; ComfyUI maps it. Bytes after its end are left out.

    Raises ValueError that begins with `input_id` and says what is wrong with the file and what to do.
    """
    try:
        surplus = surplus_bytes(path)
        if not surplus:
            weights, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
            return weights, metadata or {}
        logger.warning("%s: %s after the end of its weights are left out", path.name, format_bytes(surplus))
        return read_weights(path)
    except UNREADABLE as error:
        raise ValueError(f"{input_id}: {why_unreadable(path, error)}") from error


def strip_prefix(weights: Mapping[str, T]) -> dict[str, T]:
    """The network's weights by its own names, where others stand beside them; all of them where none has a prefix."""
    for prefix in PREFIXES:
        if own := {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}:
            return own
    return dict(weights)


def why_unreadable(path: Path, error: Exception) -> str:
    """A line for the user: the file and the first line of what went wrong; never how to run what is in it."""
    if isinstance(error, pickle.UnpicklingError):
        return (f"{path.name} cannot be read: {what_it_runs(str(error))}, and Lodestar runs no code of a file. Use the "
                "same weights as safetensors, or saved as tensors alone")
    came = str(error).strip().splitlines()
    return f"{path.name} cannot be read: {came[0] if came else type(error).__name__}"


def what_it_runs(refusal: str) -> str:
    """What torch.load would not call, by the name that it gives."""
    found = re.search(r"GLOBAL ([\w.]+)", refusal)
    return f"it holds {found[1]}, which is code" if found else "it holds more than weights"
