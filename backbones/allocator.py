"""RAM beside the card: what was freed and still counts as the process's, and buffers that the card copies from."""
import ctypes
import sys
from collections.abc import Iterable

import torch
from comfy import model_management
from torch import Tensor


def give_back() -> None:
    """Return what is free to the system, where the C library can: glibc keeps it, and a long run keeps more of it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):   # not every libc has it
        trim(0)


def host_buffer(tensor: Tensor) -> Tensor:
    """Room for a tensor in RAM, pinned where ComfyUI pins: copies to and from a card then wait for nobody."""
    buffer = torch.empty(tensor.shape, dtype=tensor.dtype)
    model_management.pin_memory(buffer)
    return buffer


def release(buffers: Iterable[Tensor]) -> None:
    """Unpin them, once the card is through with them."""
    pinned = [buffer for buffer in buffers if buffer.is_pinned()]
    if pinned:
        torch.cuda.synchronize()    # ComfyUI pins for CUDA alone
    for buffer in pinned:
        model_management.unpin_memory(buffer)
