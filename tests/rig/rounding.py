"""How far two right answers may be apart: from the number format and from how much is computed, not from a machine.

Processors add in other orders and with other instructions, so equal mathematics gives other last digits.
"""
import torch

ROOM = 8             # roundings that one operation (a matrix product, a norm, a softmax) may be off by
BLOCK_OPERATIONS = 20


def room(operations: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> float:
    """The difference allowed to results of about `scale` that stand behind `operations` in a row."""
    return ROOM * operations * torch.finfo(dtype).eps * scale


def sampled(blocks: int, steps: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> float:
    """The same for latents that a sampler made with a DiT of so many blocks. `scale`: of the guidance."""
    return room(blocks * BLOCK_OPERATIONS * steps, dtype, scale)
