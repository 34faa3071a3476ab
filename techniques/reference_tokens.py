"""Which tokens of a video reference are kept (TAVR, section 3.1), and which of a video's frames it is made of.

A token keeps the place in its own grid that it had before the selection. The paper keeps those inside the face's box;
that a box is grown, and that a token belongs to it which it meets at all, is ours, as is the choice of frames.
"""
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Box = tuple[float, float, float, float]     # left, top, right, bottom, each from 0 to 1 of the picture
CHOOSE = ("contiguous", "spread", "even")   # of a video's frames
WHEN_EMPTY = ("all", "none")
NEARLY_AS_SHARP = 0.9                       # of frames that differ so little in sharpness either will do


@dataclass(frozen=True, eq=False)
class Tokens:
    """`keep`: (R, rows, columns) bool, of R latent frames. `whole`: none is left out."""
    keep: Tensor
    whole: bool = field(init=False)     # known before the first step, in which nothing may be waited for

    def __post_init__(self):
        if self.keep.dtype is not torch.bool or self.keep.ndim != 3:
            raise ValueError(f"tokens: got {self.keep.dtype} of shape {tuple(self.keep.shape)}, wanted booleans "
                             "(frames, rows, columns)")
        if not self.keep.any():
            raise ValueError("regions: no token of the video lies in them, so nothing of the person is left. Draw them "
                             "over the person, raise grow, or set when_empty to all")
        object.__setattr__(self, "whole", bool(self.keep.all()))

    @property
    def frames(self) -> int:
        return len(self.keep)

    @property
    def total(self) -> int:
        return self.keep.numel()

    @property
    def count(self) -> int:
        return int(self.keep.sum())

    @property
    def frame_tokens(self) -> tuple[int, ...]:
        """How many tokens each latent frame has."""
        return tuple(self.keep.flatten(1).sum(1).tolist())

    @property
    def places(self) -> Tensor:
        """(count, 3) int64: latent frame, row, column of each, in the sequence's order."""
        return self.keep.nonzero()


def all_tokens(frames: int, grid: tuple[int, int]) -> Tensor:
    """(frames, rows, columns) bool: every token is kept."""
    return torch.ones(frames, *grid, dtype=torch.bool)


def tokens_in_boxes(boxes: Sequence[Box | None], grid: tuple[int, int], grow: float = 0.0, when_empty: str = "all"
                    ) -> Tensor:
    """(R, rows, columns) bool: tokens that meet the box of their frame, grown by `grow` of its size on each side.

    Of a frame without a box (None) all tokens, or none, as `when_empty` says.
    """
    if when_empty not in WHEN_EMPTY:
        raise ValueError(f"when_empty: got {when_empty!r}, wanted one of {', '.join(WHEN_EMPTY)}")
    keep = torch.zeros(len(boxes), *grid, dtype=torch.bool)
    for frame, box in zip(keep, boxes, strict=True):
        if box is None:
            frame[:] = when_empty == WHEN_EMPTY[0]
            continue
        left, top, right, bottom = grow_box(box, grow)
        frame[meets(top, bottom, grid[0])[:, None] & meets(left, right, grid[1])] = True
    return keep


def meets(begin: float, end: float, cells: int) -> Tensor:
    """(cells,) bool: which of so many equal parts of 0..1 [begin, end] lies in, if only by a corner."""
    edges = torch.arange(cells + 1, dtype=torch.float64) / cells
    return (edges[:-1] < end) & (edges[1:] > begin)


def grow_box(box: Box, grow: float) -> Box:
    """Larger by `grow` of its width and height on each side."""
    left, top, right, bottom = box
    across, down = grow * (right - left), grow * (bottom - top)
    return left - across, top - down, right + across, bottom + down


def tokens_in_masks(masks: Tensor, grid: tuple[int, int], grow: float = 0.0, when_empty: str = "all") -> Tensor:
    """(R, rows, columns) bool: tokens that a mask (R, H, W), 0..1, covers anywhere by more than half.

    It is grown by `grow` of the size of the box around it. An empty mask is as a frame without a box.
    """
    grown = torch.stack([grow_mask(mask > 0.5, grow) for mask in masks])
    cells = torch.nn.functional.adaptive_max_pool2d(grown[:, None].float(), grid)[:, 0] > 0
    empty = ~cells.flatten(1).any(1)
    if when_empty not in WHEN_EMPTY:
        raise ValueError(f"when_empty: got {when_empty!r}, wanted one of {', '.join(WHEN_EMPTY)}")
    cells[empty] = when_empty == WHEN_EMPTY[0]
    return cells


def grow_mask(mask: Tensor, grow: float) -> Tensor:
    """(H, W) bool, spread to every pixel that is no farther than `grow` of its box's size, across and down."""
    if not grow or not mask.any():
        return mask
    rows, columns = (mask.any(dim).nonzero() for dim in (1, 0))
    down, across = (round(grow * float(line.max() - line.min() + 1)) for line in (rows, columns))
    spread = torch.nn.functional.max_pool2d(mask[None, None].float(), (2 * down + 1, 2 * across + 1), 1, (down, across))
    return spread[0, 0] > 0


def latent_frames(keep: Tensor, frames_of: Sequence[Sequence[int]]) -> Tensor:
    """(R, ...) of pixel frames' (T, ...): a token of a latent is kept where it is in any of the frames it shows."""
    return torch.stack([keep[list(frames)].any(0) for frames in frames_of])


def farthest(features: Tensor, count: int, sharpness: Tensor) -> list[int]:
    """Which `count` of the frames differ most, in order: the sharpest, then ever the one that is farthest from all
    chosen. Of those nearly as far the sharper. `features` (T, D), `sharpness` (T,)."""
    chosen = [int(sharpness.argmax())]
    distances = (features - features[chosen[0]]).norm(dim=1)
    while len(chosen) < min(count, len(features)):
        distances[chosen] = -1
        near = (distances >= NEARLY_AS_SHARP * distances.max()).nonzero().flatten()
        chosen.append(int(near[sharpness[near].argmax()]))
        distances = torch.minimum(distances, (features - features[chosen[-1]]).norm(dim=1))
    return sorted(chosen)
