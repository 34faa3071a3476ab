"""The sound of a live take: what a source has given so far, and what the take goes on with where nothing comes.

A source is asked, it never pushes: what is not asked for yet stays where it is, so that memory holds a few seconds of
sound however long the take is and however much of it comes at once.
"""
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

logger = logging.getLogger("lodestar")

QUEUE_SECONDS = 10          # of sound that is taken from a source ahead of the window
POLL_SECONDS = 0.01
FIRST_RATE = 48000          # Hz, of the silence before the first sound
SAY_SECONDS = 10            # between two lines of the log while nothing comes
AUDIBLE = 10 ** (-50 / 20)  # of full scale: what is softer counts as silence


class Arrival(NamedTuple):
    """Sound that came (channels, samples), -1..1. `replaces`: what was queued before it is dropped."""
    sound: Tensor
    replaces: bool = False


class SoundSource(Protocol):
    """Where live speech comes from."""
    name: str            # what the user calls it
    sample_rate: int     # Hz; 0 until the first sound came

    @property
    def is_closed(self) -> bool:
        """Nothing comes any more, and all that came was given."""

    def arrivals(self, most: int) -> list[Arrival]:
        """About `most` samples of what came since the last call, or nothing; does not wait. Where there is sound that
        replaces the queue, it comes at once, whatever was before it. Raises ValueError for what is no sound."""


class WholeSound:
    """A source: speech that is complete already, {"waveform": (1, channels, samples), "sample_rate": Hz}."""
    name = "the plan's speech"

    def __init__(self, audio: Mapping[str, Any]):
        waveform = audio["waveform"][0]
        self._waveform = waveform if len(waveform) <= 2 else waveform.mean(0, keepdim=True)
        self.sample_rate, self.channels, self._given = audio["sample_rate"], len(self._waveform), 0

    @property
    def is_closed(self) -> bool:
        return self._given >= self._waveform.shape[1]

    def arrivals(self, most: int) -> list[Arrival]:
        piece = self._waveform[:, self._given:self._given + most].float().cpu()
        self._given += piece.shape[1]
        return [Arrival(piece)] if piece.shape[1] else []


@dataclass(frozen=True)
class LiveEnding:
    """When a live take ends and what it does meanwhile. `longest`: seconds of the take. `after_silence`: seconds
    without speech that end it, once there was some; 0: none do. `idle`: where no sound comes in time, silence does."""
    longest: Fraction
    after_silence: float = 0.0
    idle: bool = True


class LiveSound:
    """What came, on the take's clock, from some seconds ago on.

    Samples are counted from the begin of the take. Up to `used` the take has gone on with them: they stay as they are.
    """

    def __init__(self, source: SoundSource, ending: LiveEnding, check_cancelled: Callable[[], None],
                 clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self.source, self.ending = source, ending
        self.check_cancelled, self.clock, self.sleep = check_cancelled, clock, sleep
        self.used, self.over = 0, False
        self.sample_rate = source.sample_rate or FIRST_RATE
        self._held, self._first = torch.zeros(1, 0), 0
        self._began: float | None = None
        self._last_arrival = self._said = 0.0
        self._loud: int | None = None      # the sample behind the last audible one

    @property
    def end(self) -> int:
        """The sample behind the last one that came."""
        return self._first + self._held.shape[1]

    @property
    def seconds(self) -> Fraction:
        """How long the sound is, once it is over."""
        return min(Fraction(self.end, self.sample_rate), self.ending.longest)

    def wait_until(self, seconds: Fraction) -> bool:
        """Wait until there is sound up to so many seconds of the take: speech, or silence where none comes in time.

        False where the sound is over before. Raises ValueError where a source closes without a sound, and what the
        source and `check_cancelled` raise.
        """
        if self._began is None:
            self._began = self._last_arrival = self._said = self.clock()
        wanted = min(seconds, self.ending.longest)
        while not self._take_in(wanted):
            self._wait()
        self.used = max(self.used, min(self.samples_at(seconds), self.end))
        quiet = self.used - (self.used if self._loud is None else min(self._loud, self.used))
        if self.ending.after_silence and quiet >= self.ending.after_silence * self.sample_rate and not self.over:
            self._end(self.used, "so long nobody spoke")
        if wanted < seconds and not self.over:
            self._end(self.samples_at(self.ending.longest), "the plan is not longer")
        return not self.over or self.end >= self.samples_at(seconds)

    def samples_at(self, seconds: Fraction) -> int:
        return math.ceil(seconds * self.sample_rate)

    def read(self, first: int, end: int) -> Tensor:
        """Samples (channels, end - first); beyond what came they are silence."""
        low, high = (min(max(place - self._first, 0), self._held.shape[1]) for place in (first, end))
        there = self._held[:, low:high]
        before = min(max(self._first - first, 0), end - first)
        return pad(there, (before, end - first - before - there.shape[1]))

    def forget(self, before: int) -> None:
        """What came before sample `before` is not read any more."""
        drop = min(max(before - self._first, 0), self._held.shape[1])
        if drop:
            self._held, self._first = self._held[:, drop:].clone(), self._first + drop

    def _take_in(self, wanted: Fraction) -> bool:
        """Take in what came; whether there is sound up to `wanted` seconds, or there will be none."""
        self.check_cancelled()
        room = max(QUEUE_SECONDS * self.sample_rate - (self.end - self.used), 0)
        arrived = [] if self.over else self.source.arrivals(room)
        self._take_rate()
        for arrival in arrived:
            self._append(arrival)
        if not self.over and self.source.is_closed:
            if not self.end:
                raise ValueError(f"{self.source.name} closed before any sound came. Send the speech, then close it")
            self._end(self.end, "it was closed")
        if self.over or self.end >= self.samples_at(wanted):
            return True
        return not arrived and self._go_on_in_silence(wanted)

    def _take_rate(self) -> None:
        """The first sound says how many samples a second has; until then there was silence."""
        rate = self.source.sample_rate or self.sample_rate
        if rate != self.sample_rate:
            end, first, used = (math.ceil(Fraction(count * rate, self.sample_rate)) for count in
                                (self.end, self._first, self.used))
            self.sample_rate, self._first, self.used = rate, first, min(used, end)
            self._held = torch.zeros(len(self._held), end - first)

    def _append(self, arrival: Arrival) -> None:
        if self._held.shape[0] != len(arrival.sound):
            self._held = self._held[:1].expand(len(arrival.sound), -1).clone()
        held = self._held[:, :self.used - self._first] if arrival.replaces else self._held
        if arrival.replaces:
            self._loud = None if self._loud is None else min(self._loud, self.used)
        audible = (arrival.sound.abs().amax(0) > AUDIBLE).nonzero()
        if len(audible):
            self._loud = self._first + held.shape[1] + int(audible[-1]) + 1
        self._held = torch.cat([held, arrival.sound], 1)
        self._last_arrival = self.clock()

    def _go_on_in_silence(self, wanted: Fraction) -> bool:
        """Whether the time has come to go on without sound; `_began` is when sound of second 0 was due."""
        assert self._began is not None
        now, after = self.clock(), self.ending.after_silence
        if self.ending.idle:
            if now - self._began < wanted:
                return False
            self._held = pad(self._held, (0, self.samples_at(wanted) - self.end))
            return True
        if after and self._loud is not None and now - self._last_arrival >= after:
            self._end(self.end, "so long nobody spoke")
        return self.over

    def _end(self, sample: int, why: str) -> None:
        self._held, self.over = self._held[:, :max(sample - self._first, 0)], True
        logger.info("%s is over at %.2f s: %s", self.source.name, float(self.seconds), why)

    def _wait(self) -> None:
        if self.clock() - max(self._said, self._last_arrival) >= SAY_SECONDS:
            self._said = self.clock()
            logger.info("waiting for sound from %s", self.source.name)
        self.sleep(POLL_SECONDS)
