"""What a plan of 2,000 chunks with 2,500 script lines costs, counted: how often a line's time meets a chunk's."""
import in_process  # isort: skip - first, because it brings ComfyUI and the pack

from collections.abc import Iterator
from fractions import Fraction

from lodestar.pipelines.take.plan import ChunkPlan, plan_take
from lodestar.pipelines.take.story import clock
from lodestar.techniques.timeline import Timeline
from rows import Row, show

CHUNKS, LINES = 2000, 2500
CHUNK_FRAMES, OVERLAP_FRAMES = 93, 13
GOAL = 15    # a search halves what is left, log2(2000) = 11 times, and then reads both neighbours
assert in_process


class Counted(Fraction):
    """A frame rate whose seconds count how often they are compared with, or taken from, another time."""
    met = 0

    def __rtruediv__(self, frame):
        return Start(Fraction(frame) / Fraction(self))


class Start(Fraction):
    def __gt__(self, seconds):
        Counted.met += 1
        return super().__gt__(seconds)

    def __sub__(self, seconds):
        Counted.met += 1
        return super().__sub__(seconds)

    def __rsub__(self, seconds):
        Counted.met += 1
        return super().__rsub__(seconds)


def count_plan() -> tuple[ChunkPlan, float]:
    """The plan, and comparisons and differences per line of its script."""
    Counted.met = 0
    timeline = Timeline(Counted(25))
    frames = CHUNK_FRAMES + (CHUNKS - 1) * (CHUNK_FRAMES - OVERLAP_FRAMES)
    script = "\n".join(f"{clock(Fraction(line * frames, 25 * LINES))} line {line}" for line in range(LINES))
    return plan_take(timeline, frames, CHUNK_FRAMES, OVERLAP_FRAMES, 832, 480, script), Counted.met / LINES


def rows() -> Iterator[Row]:
    what = f"plan of {CHUNKS:,} chunks with {LINES:,} lines: times compared, per line"
    yield Row.at_most(what, count_plan()[1], GOAL, 1)


if __name__ == "__main__":
    show(rows)
