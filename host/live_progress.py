"""How far a live take is: a line of text in its node, and where its pictures can be watched."""
import logging
import time
from collections.abc import Callable
from fractions import Fraction

import comfy.model_management

from ..pipelines.take.live_take import LiveEvents
from ..pipelines.take.plan import Chunk
from .events import TakeEvents

logger = logging.getLogger("lodestar")


class LiveProgress(LiveEvents):
    """`playlist`: of the HLS folder as /view is asked for it, None where there is none. `delay`: seconds that a picture
    is later than its sound, and of one step."""

    def __init__(self, node_id: str | None, fps: Fraction, delay: tuple[Fraction, Fraction],
                 playlist: dict[str, str] | None, clock: Callable[[], float] = time.monotonic):
        self.fps, self.delay, self.playlist, self.clock = fps, delay, playlist, clock
        self.events = TakeEvents(node_id)
        self.began = clock()
        self.sampling = 0.0     # seconds that the last block took

    def say_delay(self) -> None:
        ahead, step = map(float, self.delay)
        logger.info("live: a picture is %.2f s behind its sound, and one step: a block of %.2f s and what it takes to "
                    "make it", ahead, step)
        self.events.say(f"Waiting for sound; pictures come {ahead:.2f} s behind it, and one step")

    def check_cancelled(self) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def block_written(self, frames: int) -> None:
        self.sampling = self.clock() - self.began
        if self.playlist is not None:
            self.events.live(self.playlist, frames, float(self.delay[0]))
        self.events.say(f"Live: {float(frames / self.fps):.1f} s, the last block in {self.sampling:.2f} s; "
                        f"{float(self.delay[0]):.2f} s and one step behind the sound")

    def say_end(self, text: str) -> None:
        if self.playlist is not None:
            self.events.live(self.playlist, -1, float(self.delay[0]))
        self.events.say(text)

    def begin_chunk(self, chunk: Chunk) -> None:
        """A block is sampled from now on."""
        self.began = self.clock()

    def sampler_callback(self, chunk: Chunk, load_device, latent_format):
        return lambda step, denoised, latents, total_steps: None

    def end_sampling(self) -> None:
        pass
