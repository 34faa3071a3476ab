"""In which number format a machine multiplies matrices fastest: bf16 is twice as fast as fp32 on one, 40 times slower
on another."""
import functools
import time

import torch

SHAPE = (4096, 192, 512)    # rows, inputs, outputs of one of the network's layers
SECONDS = 0.05


def speed(dtype: torch.dtype, device: str) -> float:
    """Matmuls a second, the first one (of whatever is set up then) left out."""
    rows, inputs, outputs = SHAPE
    left, right = torch.ones(rows, inputs, dtype=dtype, device=device), torch.ones(inputs, outputs, dtype=dtype,
                                                                                   device=device)
    (left @ right).sum().item()
    started, done = time.monotonic(), 0
    while time.monotonic() - started < SECONDS:
        (left @ right).sum().item()
        done += 1
    return done / (time.monotonic() - started)


@functools.cache
def fastest(device: str = "cpu") -> torch.dtype:
    """torch.bfloat16, or torch.float32 where that is no slower."""
    return max((torch.float32, torch.bfloat16), key=lambda dtype: speed(dtype, device))


def fast(device: str = "cpu") -> torch.autocast:
    """The context in which this device computes fastest."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=fastest(device) == torch.bfloat16)
