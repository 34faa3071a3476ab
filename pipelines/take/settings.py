"""What a user leaves to the model: frame rate, chunk length, overlap and size, and which of them were left."""
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from torch import Tensor

WIDEST = 2.0    # a picture's proportions are followed up to here, 2:1 and 1:2; what is beyond is cropped


class Trained(Protocol):
    """What a model was trained with: a Backbone, or a record of one version."""
    @property
    def name(self) -> str: ...
    @property
    def fps(self) -> int: ...
    def chunk_frames_at(self, width: int, height: int) -> int: ...
    def nearest_bucket(self, proportion: float, pixels: int) -> tuple[int, int] | None: ...
    @property
    def overlap_frames(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def one_size(self) -> bool: ...
    @property
    def grid(self) -> int: ...


@dataclass(frozen=True)
class Settings:
    """Frames are pixel frames. `note`: what was taken from the model, in words; empty where nothing was. `size_note`:
    where the size is none that the model was trained at, which one is."""
    fps: Fraction
    chunk_frames: int
    overlap_frames: int
    width: int
    height: int
    note: str
    size_note: str = ""


def choose_settings(model: Trained, picture: Tensor | None = None, *, width: int = 0, height: int = 0,
                    fps: Fraction | None = None, chunk_frames: int = 0, overlap_frames: int = -1,
                    nearest_bucket: bool = False, stream: bool = False) -> Settings:
    """What a user asked, and the model's own where nothing was: size 0, fps None, chunk 0, overlap -1.

    An own size has the proportions of `picture` (B, H, W, C) where there is one and the model knows others than its
    own. `nearest_bucket`: any size becomes the nearest that the model was trained at, where it has a list of them.
    `stream`: chunks and overlap are not asked for. ValueError for a size of which one side is missing, or an overlap
    where the model keeps its context outside.
    """
    if bool(width) != bool(height):
        raise ValueError(f"width, height: got {width} and {height}; give both, or 0 for both to take the model's own")
    if overlap_frames > 0 and not model.overlap_frames:
        raise ValueError(f"overlap_frames: got {overlap_frames}, but {model.name} keeps its context outside the chunk "
                         "(its motion frames). Set it to -1 or 0")
    own = []
    if fps is None:
        fps = Fraction(model.fps)
        own.append(f"{model.fps} fps")
    sized = bool(width)
    if not sized:
        width, height = own_size(model, picture)
    width, height, size_note = bucket_size(model, None if sized else picture, width, height, nearest_bucket)
    if not chunk_frames:
        chunk_frames = model.chunk_frames_at(width, height)
        own += [] if stream else [f"chunks of {chunk_frames} frames"]
    if overlap_frames < 0:
        overlap_frames = model.overlap_frames
        own += [] if stream else [f"{overlap_frames} frames of overlap" if overlap_frames else
                                  "context outside the chunk"]
    if not sized:
        followed = picture is not None and not model.one_size
        own.append(f"{width}x{height}" + (" in the proportions of the reference" if followed else ""))
    return Settings(fps, chunk_frames, overlap_frames, width, height,
                    f"taken from {model.name}: {', '.join(own)}" if own else "", size_note)


def bucket_size(model: Trained, picture: Tensor | None, width: int, height: int, take: bool) -> tuple[int, int, str]:
    """The size, or where `take` is on the nearest bucket's; and a line where the model has buckets and it was none.
    `picture`: whose proportions are meant, where the size is only on the model's grid."""
    proportion = height / width if picture is None else picture.shape[1] / picture.shape[2]
    bucket = model.nearest_bucket(proportion, width * height)
    if bucket in (None, (width, height)):
        return width, height, ""
    assert bucket is not None
    if take:
        return *bucket, (f"{bucket[0]}x{bucket[1]} in place of {width}x{height}: the nearest size that {model.name} "
                         "was trained at")
    return width, height, (f"{width}x{height} is no size that {model.name} was trained at; the nearest is "
                           f"{bucket[0]}x{bucket[1]}, which nearest_bucket takes")


def own_size(model: Trained, picture: Tensor | None) -> tuple[int, int]:
    """The model's own width and height; with a picture as many pixels in its proportions, on the model's grid."""
    if picture is None or model.one_size:
        return model.size
    proportion = min(max(picture.shape[2] / picture.shape[1], 1 / WIDEST), WIDEST)
    height = math.sqrt(math.prod(model.size) / proportion)
    return on_grid(height * proportion, model.grid), on_grid(height, model.grid)


def on_grid(size: float, grid: int) -> int:
    return max(round(size / grid), 1) * grid
