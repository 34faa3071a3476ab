"""A clip that a take goes on from, read by the take's clock and never held: it may be hours long.

The clip's last frame is the take's frame 0, as a picture is in image-to-video: the video has all of the clip's frames,
then the take's from frame 1 on, and its speech begins with the clip's last frame.
"""
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..frames_at_times import FrameSource
from .video_writer import Segment, SoundTrack

CLIP_RATE = 48000   # Hz, of a video whose sound is the clip's alone
SPARE = Fraction(1, 10)     # of a frame: so much may a file's clock be off


@dataclass(frozen=True, eq=False)
class ClipBefore:
    """`fps`: the take's. `fit`: (1, H, W, C) -> (1, h, w, 3), to the take's size."""
    source: FrameSource
    fps: Fraction
    fit: Callable[[Tensor], Tensor]

    @cached_property
    def frames(self) -> int:
        """How many it has at the take's rate."""
        assert self.source.seconds is not None
        return max(math.ceil(self.source.seconds * self.fps - SPARE), 1)

    @property
    def seconds(self) -> Fraction:
        return self.frames / self.fps

    def last_frames(self, count: int) -> Tensor:
        """(count, h, w, 3), sought from the end."""
        return torch.cat([self.fit(frame[None]) for frame in self.source.at(self._times(self.frames - count))])

    def write(self, segment: Segment, check_cancelled: Callable[[], None]) -> None:
        """All of its frames, one after the other."""
        for frame in self.source.at(self._times(0)):
            check_cancelled()
            segment.write(self.fit(frame[None]))

    def with_sound(self, speech: Mapping[str, Any] | None) -> SoundTrack | None:
        """Its sound, silence where it has none, then the speech, which begins with its last frame."""
        track = SoundTrack(CLIP_RATE, 1, lambda: iter(())) if speech is None else SoundTrack.of(speech)
        silent = self.source.sound_pieces(track.sample_rate) is None
        if silent and speech is None:
            return None
        channels = track.channels if silent else 2

        def pieces() -> Iterator[Tensor]:
            left = round((self.frames - 1) / self.fps * track.sample_rate)
            for piece in self.source.sound_pieces(track.sample_rate) or ():
                yield torch.from_numpy(piece[:, :left].copy()).expand(channels, -1)
                left -= min(piece.shape[1], left)
                if not left:
                    break
            while left:
                missing = min(left, track.sample_rate)
                yield torch.zeros(channels, missing)
                left -= missing
            for piece in track.pieces():
                yield piece.expand(channels, -1)

        return SoundTrack(track.sample_rate, channels, pieces)

    def _times(self, first: int) -> Sequence[Fraction]:
        return [frame / self.fps for frame in map(Fraction, range(first, self.frames))]
