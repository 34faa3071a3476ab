"""Speech features of any length on disk instead of in RAM: float32 feature frames in an unnamed file of ComfyUI's temp
folder.

Frames are appended segment by segment and read through a mapping, so a chunk costs the pages it touches. The file goes
with the last tensor that shows it, or with the process.
"""
import mmap
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor


class FeatureFile:
    """`append` until all is written, then `layers`. The layers have one width."""

    def __init__(self) -> None:
        import folder_paths  # headless use of what stands beside this file needs no ComfyUI

        self._folder = Path(folder_paths.get_temp_directory())
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as its mapping
        self._mapping: mmap.mmap | None = None

    def append(self, layers: Sequence[Tensor]) -> None:
        """The next feature frames of every layer, each (1, n, C). ValueError where the disk refuses."""
        rows = torch.stack([layer[0].to("cpu", torch.float32) for layer in layers], 1)   # (n, layers, C)
        self._shape = rows.shape[1:]
        try:
            self._file.write(memoryview(rows.numpy()))
            self._file.flush()
        except OSError as error:
            with suppress(OSError):   # what is left in the buffer cannot be written either
                self._file.close()
            raise ValueError(f"audio: the disk refused {rows.nbytes / 1e6:.0f} MB of speech features ({error}). Make "
                             f"room in {self._folder}, or start ComfyUI with another "
                             "--temp-directory") from error

    def layers(self) -> tuple[Tensor, ...]:
        """Each layer (1, S, C), float32, backed by the file."""
        self._mapping = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        rows = torch.frombuffer(self._mapping, dtype=torch.float32).view(-1, *self._shape)
        return tuple(layer[None] for layer in rows.unbind(1))

    def release(self) -> None:
        """Give the pages that were read back to the system; it does so by itself where it has no such call."""
        if self._mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)
