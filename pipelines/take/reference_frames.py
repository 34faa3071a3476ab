"""Which frames of a video say best who a person is: a sharp piece of it, frames that differ, or evenly spread ones.

A long video is looked at in a few hundred places, of which nothing but small pictures is held.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ...techniques.reference_tokens import CHOOSE, farthest
from ...techniques.timeline import Timeline
from ..frames_at_times import FrameSource
from ..metrics.sharpness import sharpness
from ..metrics.track import luma

MOST_LOOKED_AT = 240
BLACK = 0.03            # mean brightness below which a frame shows nobody
SMALL = 24              # pixels a side of what is compared
Describe = Callable[[Tensor], Tensor]   # (H, W, 3) -> (D,): what differs from frame to frame


@dataclass(frozen=True, eq=False)
class ReferenceFrames:
    """`frames`: (n, H, W, 3), 0..1. `numbers`: which of the family's clock they are. `stream`: whether they are one
    piece of video, and no single pictures. `notes`: what the user should know."""
    frames: Tensor
    numbers: tuple[int, ...]
    stream: bool
    notes: tuple[str, ...] = ()


def choose_frames(source: FrameSource, count: int, choose: str, clock: Timeline, describe: Describe | None = None
                  ) -> ReferenceFrames:
    """`count` frames of a video, at the rate of `clock`, fewer where it has no more.

    contiguous: the sharpest piece of it, of as many frames as make whole latents, from a latent's frame on. spread:
    frames that `describe` tells apart most, the sharper of near equals. even: as many, equally far apart.
    Raises ValueError where nothing is to be seen in it.
    """
    if choose not in CHOOSE:
        raise ValueError(f"choose: got {choose!r}, wanted one of {', '.join(CHOOSE)}")
    total = 1 if source.seconds is None else max(int(source.seconds * clock.fps), 1)
    looked_at = spread_evenly(total, MOST_LOOKED_AT)
    sharp, bright, features = look_at(source, looked_at, clock, describe if choose == "spread" else None)
    seen = bright >= BLACK
    if not seen.any():
        raise ValueError("video: every frame of it is black, so there is nobody to be seen. Give another video")
    notes = []
    if not seen.all():
        notes.append("black frames are left out")
    if count > total:
        notes.append(f"the video has {total} frames at {float(clock.fps):g} fps, and {count} were asked for")
    if choose == "contiguous":
        length = clock.frames_for_latents((min(count, total) - 1) // clock.temporal_ratio + 1)
        first = sharpest_piece(looked_at, torch.where(seen, sharp, -sharp.max()), length, total, clock.temporal_ratio)
        numbers = list(range(first, first + length))
    else:
        places = [place for place, shown in enumerate(seen.tolist()) if shown]
        if choose == "spread":
            chosen = farthest(features[places], count, sharp[places])
        else:
            chosen = spread_evenly(len(places), count)
        numbers = [looked_at[places[place]] for place in chosen]
    return ReferenceFrames(frames_of(source, numbers, clock), tuple(numbers), choose == "contiguous", tuple(notes))


def spread_evenly(total: int, count: int) -> list[int]:
    """`count` of 0..total-1, or all where there are no more, as far apart as may be, the ends among them."""
    if count >= total:
        return list(range(total))
    return [place * (total - 1) // (count - 1) for place in range(count)] if count > 1 else [total // 2]


def look_at(source: FrameSource, numbers: Sequence[int], clock: Timeline, describe: Describe | None
            ) -> tuple[Tensor, Tensor, Tensor]:
    """Of these frames the sharpness (n,), the mean brightness (n,), and what `describe` says of each (n, D)."""
    sharp, bright, features = [], [], []
    for frame in source.at([number / clock.fps for number in numbers]):
        sharp.append(float(sharpness(frame[None])[0]))
        bright.append(float(luma(frame[None]).mean()))
        if describe is not None:
            features.append(describe(frame))
    return torch.tensor(sharp), torch.tensor(bright), torch.stack(features) if features else torch.zeros(len(sharp), 0)


def small_picture(frame: Tensor) -> Tensor:
    """(H, W, 3) -> (D,): its brightness, small, without what is the same all over."""
    small = torch.nn.functional.adaptive_avg_pool2d(luma(frame[None]), SMALL).flatten()
    return small - small.mean()


def sharpest_piece(looked_at: Sequence[int], sharp: Tensor, length: int, total: int, step: int) -> int:
    """The first frame of the `length` consecutive ones, a multiple of `step`, in which frames are sharpest on the
    average of those that were looked at."""
    numbers, sums = torch.tensor(looked_at), torch.cat([torch.zeros(1), sharp.cumsum(0)]).double()
    firsts = torch.arange(0, max(total - length, 0) + 1, step)
    begins, ends = torch.searchsorted(numbers, firsts), torch.searchsorted(numbers, firsts + length)
    counts = (ends - begins)
    nearest = sharp[begins.clamp(max=len(sharp) - 1)].double()
    means = torch.where(counts > 0, (sums[ends] - sums[begins]) / counts.clamp(min=1), nearest)
    return int(firsts[means.argmax()])


def frames_of(source: FrameSource, numbers: Sequence[int], clock: Timeline) -> Tensor:
    """(n, H, W, 3)."""
    return torch.stack([frame[..., :3] for frame in source.at([Fraction(number) / clock.fps for number in numbers])])
