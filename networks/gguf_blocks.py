"""What the quantised types of GGUF files stand for, in torch on any device: blocks of bytes -> float32 values.

Each type keeps runs of 32 or 256 weights as small integers with one or two scales; the k types have a scale for each
16 or 32 of their 256 as well, itself packed into 4 or 6 bits. Products and sums are made in the order of ggml's own.
"""
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Kind(NamedTuple):
    """`size` bytes hold `length` weights; `decode`: (blocks, size) uint8 -> (blocks, length) float32."""
    name: str
    length: int
    size: int
    decode: Callable[[Tensor], Tensor]


def decode_blocks(raw: Tensor, kind: int, width: int) -> Tensor:
    """Bytes of whole rows -> (rows, width) float32. `kind`: a key of KINDS."""
    found = KINDS[kind]
    return found.decode(raw.reshape(-1, found.size)).reshape(-1, width)


def half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block, as (blocks, 1) float32."""
    return blocks[:, at:at + 2].contiguous().view(torch.float16).float()


def bits(raw: Tensor, count: int, shifts: range) -> Tensor:
    """(blocks, n) bytes -> (blocks, len(shifts), n): `count` bits of each, from each place."""
    places = torch.arange(shifts.start, shifts.stop, shifts.step, dtype=torch.uint8, device=raw.device)[:, None]
    return raw[:, None] >> places & (1 << count) - 1


def nibbles(raw: Tensor) -> Tensor:
    """(blocks, n) bytes -> (blocks, 2n): all low halves, then all high ones."""
    return bits(raw, 4, range(0, 8, 4)).flatten(1)


# ---------------------------------------------------------------- 32 weights

def q4_0(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 2:]).float().sub_(8).mul_(half(blocks, 0))


def q4_1(blocks: Tensor) -> Tensor:
    return nibbles(blocks[:, 4:]).float().mul_(half(blocks, 0)).add_(half(blocks, 2))


def fifth_bits(blocks: Tensor, at: int) -> Tensor:
    """(blocks, 32): bit i of the four bytes at `at`, as 0 or 16."""
    return bits(blocks[:, at:at + 4], 1, range(8)).transpose(1, 2).flatten(1) << 4


def q5_0(blocks: Tensor) -> Tensor:
    return (nibbles(blocks[:, 6:]) | fifth_bits(blocks, 2)).float().sub_(16).mul_(half(blocks, 0))


def q5_1(blocks: Tensor) -> Tensor:
    numbers = nibbles(blocks[:, 8:]) | fifth_bits(blocks, 4)
    return numbers.float().mul_(half(blocks, 0)).add_(half(blocks, 2))


def q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(half(blocks, 0))


# ---------------------------------------------------------------- 256 weights

def pairs(raw: Tensor) -> Tensor:
    """(blocks, 64) bytes of four 2-bit values -> (blocks, 256): 32 bytes at a time, lowest bits first."""
    return torch.stack([bits(part, 2, range(0, 8, 2)) for part in raw.chunk(2, 1)], 1).flatten(1)


def scale_blocks(numbers: Tensor, scale: Tensor) -> Tensor:
    """Each of the (blocks, n) scales times its share of the (blocks, 256) values, in the place of floats."""
    return numbers.float().unflatten(1, (scale.shape[1], -1)).mul_(scale[..., None]).flatten(1)


def subtract_offsets(numbers: Tensor, least: Tensor) -> Tensor:
    """The (blocks, n) offsets taken from the shares of the (blocks, 256) values, in their place."""
    return numbers.unflatten(1, (least.shape[1], -1)).sub_(least[..., None]).flatten(1)


def q2_k(blocks: Tensor) -> Tensor:
    scales = bits(blocks[:, :16], 4, range(0, 8, 4)).float()
    numbers = scale_blocks(pairs(blocks[:, 16:80]), half(blocks, 80) * scales[:, 0])
    return subtract_offsets(numbers, half(blocks, 82) * scales[:, 1])


def q3_k(blocks: Tensor) -> Tensor:
    low, high = nibbles(blocks[:, 96:104]), bits(blocks[:, 104:108], 2, range(0, 8, 2)).flatten(1)
    scales = (low | high << 4).float() - 32
    numbers = pairs(blocks[:, 32:96]) | bits(blocks[:, :32], 1, range(8)).flatten(1) << 2
    return scale_blocks(numbers.float().sub_(4), half(blocks, 108) * scales)


def six_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(blocks, 12) bytes -> eight scales and eight offsets of 6 bits, each (blocks, 8)."""
    first, second, mixed = packed.chunk(3, 1)
    low = bits(mixed, 4, range(0, 8, 4))
    return (torch.cat([first & 63, low[:, 0] | first >> 6 << 4], 1).float(),
            torch.cat([second & 63, low[:, 1] | second >> 6 << 4], 1).float())


def with_offsets(blocks: Tensor, numbers: Tensor) -> Tensor:
    """What the 4- and 5-bit k types share: (blocks, 256) values, scales and offsets in front of them."""
    scales, offsets = six_bits(blocks[:, 4:16])
    return subtract_offsets(scale_blocks(numbers, half(blocks, 0) * scales), half(blocks, 2) * offsets)


def halves(raw: Tensor, parts: int) -> Tensor:
    """(blocks, n) bytes -> (blocks, 2n): in each of `parts` runs the low halves, then the high ones."""
    return torch.cat([nibbles(part) for part in raw.chunk(parts, 1)], 1)


def q4_k(blocks: Tensor) -> Tensor:
    return with_offsets(blocks, halves(blocks[:, 16:], 4))


def q5_k(blocks: Tensor) -> Tensor:
    return with_offsets(blocks, halves(blocks[:, 48:], 4) | bits(blocks[:, 16:48], 1, range(8)).flatten(1) << 4)


def q6_k(blocks: Tensor) -> Tensor:
    numbers = halves(blocks[:, :128], 2) | pairs(blocks[:, 128:192]) << 4
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    return scale_blocks(numbers.float().sub_(32), half(blocks, 208) * scales)


# ---------------------------------------------------------------- plain values

def f32(blocks: Tensor) -> Tensor:
    return blocks.contiguous().view(torch.float32)


def f16(blocks: Tensor) -> Tensor:
    return half(blocks, 0)


def bf16(blocks: Tensor) -> Tensor:
    return blocks.contiguous().view(torch.bfloat16).float()


KINDS = {0: Kind("F32", 1, 4, f32), 1: Kind("F16", 1, 2, f16), 30: Kind("BF16", 1, 2, bf16),
         2: Kind("Q4_0", 32, 18, q4_0), 3: Kind("Q4_1", 32, 20, q4_1), 6: Kind("Q5_0", 32, 22, q5_0),
         7: Kind("Q5_1", 32, 24, q5_1), 8: Kind("Q8_0", 32, 34, q8_0), 10: Kind("Q2_K", 256, 84, q2_k),
         11: Kind("Q3_K", 256, 110, q3_k), 12: Kind("Q4_K", 256, 144, q4_k), 13: Kind("Q5_K", 256, 176, q5_k),
         14: Kind("Q6_K", 256, 210, q6_k)}
PLAIN = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}
