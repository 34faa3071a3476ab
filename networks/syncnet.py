"""SyncNet (Chung & Zisserman, "Out of time: automated lip sync in the wild", 2016): what a mouth shows and what is
sound become points of one space, near each other where they belong together.

The network has the authors' layers and key names, so that their file `syncnet_v2.model` loads as it is; the user gets
it, nothing is downloaded. Adjacent windows of frames go through it as one strip, which is
the same and keeps no frame twice.
"""
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .weight_files import UNREADABLE, read_weights

FILE = "syncnet_v2.model"
FEATURES, SIZE, WINDOW_FRAMES, WINDOW_STEPS = 512, 1024, 5, 20     # a window: 5 frames at 25 fps, 20 rows of MFCC
SOURCE = f"{FILE} of github.com/joonson/syncnet_python (its download_model.sh gets it)"


class SyncNetMissing(ValueError):
    """SyncNet cannot be run here; the text says what is missing and how to get it."""


class Layer(NamedTuple):
    """A convolution, its norm and ReLU, and what pools after it: kernel, stride, padding."""
    channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] | int = 1
    padding: tuple[int, ...] | int = 0
    pool: tuple[Any, Any, Any] | None = None


SOUND = (Layer(64, (3, 3), padding=1, pool=(1, 1, 0)),
         Layer(192, (3, 3), padding=1, pool=(3, (1, 2), 0)),
         Layer(384, (3, 3), padding=1), Layer(256, (3, 3), padding=1),
         Layer(256, (3, 3), padding=1, pool=(3, 2, 0)),
         Layer(FEATURES, (5, 4)))
LIPS = (Layer(96, (5, 7, 7), (1, 2, 2), pool=((1, 3, 3), (1, 2, 2), 0)),
        Layer(256, (1, 5, 5), (1, 2, 2), (0, 1, 1), pool=((1, 3, 3), (1, 2, 2), (0, 1, 1))),
        Layer(256, (1, 3, 3), padding=(0, 1, 1)), Layer(256, (1, 3, 3), padding=(0, 1, 1)),
        Layer(256, (1, 3, 3), padding=(0, 1, 1), pool=((1, 3, 3), (1, 2, 2), 0)),
        Layer(FEATURES, (1, 6, 6)))


class SyncNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = tower(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, 1, SOUND)
        self.netcnnlip = tower(nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, 3, LIPS)
        self.netfcaud, self.netfclip = head(), head()

    @torch.inference_mode()
    def of_sound(self, mfcc: Tensor) -> Tensor:
        """(N, 13, 20) -> (N, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc[:, None]).flatten(1))

    @torch.inference_mode()
    def of_lips(self, crops: Tensor) -> Tensor:
        """Frames (T + 4, 3, 224, 224), BGR, 0..255, in order -> one row for each five in a row: (T, 1024)."""
        return self.netfclip(self.netcnnlip(crops.movedim(1, 0)[None])[0, :, :, 0, 0].T)


def tower(convolution: Any, norm: Any, pooling: Any, channels: int, layers: Iterable[Layer]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in layers:
        parts += [convolution(channels, layer.channels, layer.kernel, layer.stride, layer.padding),
                  norm(layer.channels), nn.ReLU()]
        parts += [pooling(*layer.pool)] if layer.pool else []
        channels = layer.channels
    return nn.Sequential(*parts)


def head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, SIZE))


def load_syncnet(folders: Sequence[Path]) -> SyncNet:
    """From the first of `folders` that has the file. Raises SyncNetMissing, for another network's file as well."""
    path = next((Path(folder) / FILE for folder in folders if (Path(folder) / FILE).is_file()), None)
    if path is None:
        raise SyncNetMissing(f"SyncNet's scores need {FILE} of github.com/joonson/syncnet_python"
                             + (f" in {folders[0]}" if folders else ""))
    try:
        state = read_weights(path)[0]
    except UNREADABLE as error:
        came = str(error).strip().splitlines()
        raise SyncNetMissing(f"{path} cannot be read ({came[0] if came else type(error).__name__}). Wanted: {SOURCE}. "
                             "Get it again") from error
    with torch.device("meta"):
        network = SyncNet()
    if wrong := difference(state, network.state_dict()):
        raise SyncNetMissing(f"{path} is another network: {wrong}. Wanted: {SOURCE}. Put that file in its place")
    network.load_state_dict(state, assign=True)
    return network.float().eval().requires_grad_(False)


def difference(came: Any, wanted: dict[str, Tensor]) -> str:
    """The first thing in which a state dict differs; "" where it fits. Counters of batches may be there or not."""
    if not isinstance(came, dict) or not all(isinstance(value, Tensor) for value in came.values()):
        return f"it holds {type(came).__name__}, not a dict of tensors"
    for name, value in wanted.items():
        if name not in came and not name.endswith("num_batches_tracked"):
            return f"{name} is missing"
        if name in came and came[name].shape != value.shape:
            return f"{name} has shape {tuple(came[name].shape)}, not {tuple(value.shape)}"
    return next((f"{name} is no part of SyncNet" for name in came if name not in wanted), "")
