"""A tensor's values as a digest at the speed of reading it, the same on every device and in every kind of storage.

SHA-256 of 28 GB of weights takes half a minute; so bytes are first folded, a mebibyte to 16 bytes: each word of 64
bits, and its upper half once more, is multiplied by a weight of its place, and the products are added. A changed bit,
two swapped words or changed signs show. No copy of the tensor is made.
"""
import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from torch import Tensor

WORDS = 1 << 17         # folded into one: a mebibyte, which stays in a processor's cache
BLOCKS_ON_A_CARD = 64   # folded in one call there, where a call costs more than the work


class Unreadable(TypeError):
    """This tensor's values cannot be read as bytes."""


def digest_tensor(tensor: Tensor) -> str:
    """Hex digest of dtype, shape and values. Quantised tensors count by their parts. Raises Unreadable."""
    total = hashlib.sha256()
    for name, part in parts(tensor):
        if part.layout != torch.strided:
            raise Unreadable(f"a tensor of layout {part.layout}")
        with torch._C.DisableTorchFunctionSubclass():   # bytes as they are, whatever the class makes of them
            plain = part.detach().as_subclass(Tensor)
        total.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}:{getattr(part, 'tensor_type', '')}:".encode())
        if plain.is_meta:
            continue        # no values yet
        fold_bytes(bytes_of(plain), total)
    return total.hexdigest()


def parts(tensor: Tensor, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors that hold the values: itself, or what a wrapper such as ComfyUI's QuantizedTensor is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    names, settings = tensor.__tensor_flatten__()
    yield f"{name}({plain_words(settings)})", torch.empty(0)
    for inner in names:
        yield from parts(getattr(tensor, inner), f"{name}.{inner}")


def bytes_of(tensor: Tensor) -> Tensor:
    """(N,) uint8 of a tensor's values, in their order."""
    flat = tensor.resolve_conj().resolve_neg().contiguous().view(-1)
    if flat.stride(0) != 1:     # a single number of a longer tensor
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def plain_words(settings) -> str:
    """What a wrapper says of itself, without its tensors."""
    if isinstance(settings, dict):
        return ",".join(f"{key}={plain_words(value)}" for key, value in sorted(settings.items(), key=str))
    if isinstance(settings, (list, tuple)):
        return ",".join(plain_words(value) for value in settings)
    return str(settings) if isinstance(settings, (str, int, float, torch.dtype)) else type(settings).__name__


def fold_bytes(data: Tensor, total) -> None:
    """Update `total` with the bytes (N,) of a tensor, folded; what fills no word goes in as it is."""
    whole = len(data) // 8 * 8
    fold = fold_on_cpu if data.device.type == "cpu" else fold_on_card
    for sums in fold(data[:whole]):
        total.update(sums.tobytes())
    total.update(data[whole:].cpu().numpy().tobytes())


def fold_on_cpu(data: Tensor) -> Iterator[np.ndarray]:
    """NumPy on one thread: PyTorch's threads wait for each other where another program has the processor."""
    words, places = data.numpy().view(np.int64), weights_of_places().numpy()
    room: np.ndarray = np.empty(WORDS, np.int64)
    for start in range(0, len(words), WORDS):
        block = words[start:start + WORDS]
        weights, product = places[:len(block)], room[:len(block)]
        whole = np.multiply(block, weights, out=product).sum()
        upper = np.multiply(np.right_shift(block, 32, out=product), weights, out=product).sum()
        yield np.array([whole, upper])


def fold_on_card(data: Tensor) -> Iterator[np.ndarray]:
    words = (data if data.storage_offset() % 8 == 0 else data.clone()).view(torch.int64)
    places = weights_of_places().to(data.device)
    short = len(words) % WORDS
    whole, rest = words[:len(words) - short], words[len(words) - short:]
    for blocks in (*whole.view(-1, WORDS).split(BLOCKS_ON_A_CARD), rest[None]):
        if blocks.numel():
            weights = places[:blocks.shape[1]]
            yield torch.stack([(blocks * weights).sum(1), ((blocks >> 32) * weights).sum(1)], 1).cpu().numpy()


@cache
def weights_of_places() -> Tensor:
    """Odd random numbers, so that no bit of a word is lost."""
    return torch.randint(-2 ** 63, 2 ** 63 - 1, (WORDS,), generator=torch.Generator().manual_seed(0)) | 1
