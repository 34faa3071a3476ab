"""Peak bytes of tensors alive at once, counted at PyTorch's dispatcher: streamed and whole decoding by length."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

import weakref
from collections.abc import Callable, Iterator

import torch
from lodestar.backbones.vae import open_stream
from rows import Row, show
from torch.utils._python_dispatch import TorchDispatchMode

SHORT, LONG = 21, 95   # latents
SIZE = (4, 4)          # of the latent
PUSHED = 7             # latents at a time


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside the block held at once; weights and inputs do not count.

    `on_meta`: of tensors on meta, which stand for a card's; else of all others.
    """

    def __init__(self, on_meta: bool = False):
        super().__init__()
        self.live, self.peak, self.on_meta = 0, 0, on_meta

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        known = {storage._cdata for storage in storages([args, *(kwargs or {}).values()])}
        result = function(*args, **(kwargs or {}))
        for storage in storages([result]):
            counts = (storage.device.type == "meta") == self.on_meta
            if counts and storage._cdata not in known:   # views and in-place results hold nothing new
                known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.subtract, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def subtract(self, size: int) -> None:
        self.live -= size


def storages(values) -> Iterator[torch.UntypedStorage]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value.untyped_storage()
        elif isinstance(value, (list, tuple)):
            yield from storages(value)


def peak_bytes(work: Callable[[], object], on_meta: bool = False) -> int:
    with torch.inference_mode(), LiveBytes(on_meta) as counted:
        work()
    return counted.peak


def decode_as_stream(vae, latents: torch.Tensor) -> None:
    """Pushed chunk by chunk, each group of frames forgotten as a writer forgets it."""
    stream = open_stream(vae)
    for chunk in latents.split(PUSHED, dim=2):
        for _ in stream.push(chunk):
            pass
    for _ in stream.flush():
        pass


def whole(vae, latents: torch.Tensor) -> None:
    vae.decode(latents)


def growth(decode: Callable) -> float:
    """Peak bytes of decoding 95 latents / of 21."""
    vae = in_process.tiny_vae()
    short, long = (in_process.latents(count, in_process.CPU, SIZE) for count in (SHORT, LONG))
    return peak_bytes(lambda: decode(vae, long)) / peak_bytes(lambda: decode(vae, short))


def rows() -> Iterator[Row]:
    yield Row.at_most(f"peak bytes of decoding {LONG} latents / {SHORT}, streamed", growth(decode_as_stream), 1.01,
                      note=f" (whole {growth(whole):.2f})")


if __name__ == "__main__":
    show(rows)
