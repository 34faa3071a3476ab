"""CPU time of a late block of a stream / an early one, and resident bytes of a long stream / a short one.

Each block is a window and what remembers it, on a small AvatarForcing student: what is timed is whether anything grows.
"""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import torch
from in_process import CPU
from rows import Row, show
from streams import Bench, student_model
from timing import LEAST_ROUNDS, compare_least

WIDTHS, LAYERS, AUDIO, SIZE, TEXT = (256, 512, 2), 6, 64, (12, 12), (16, 4096)
EARLY, LATE = 5, 60
MINUTES, FPS = (1, 10), 25


def small_model(layers: int = LAYERS):
    torch.manual_seed(0)
    return student_model(layers, CPU, torch.float32, WIDTHS, AUDIO)


def bench_at(model, block: int) -> Bench:
    """Rolled until this block is the next to leave."""
    bench = Bench(model, size=SIZE, text=TEXT)
    for _ in bench.to_block(block - 1):
        pass
    return bench


def peak_of_stream(minutes: int) -> int:
    """Peak resident bytes of a process that makes a stream of so many minutes, every block as it leaves."""
    done = subprocess.run([sys.executable, __file__, str(minutes)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def stream_for(minutes: int) -> int:
    """Peak resident bytes of this process."""
    bench, peak = Bench(small_model(2), size=(4, 4), text=TEXT), 0
    for _ in bench.to_block(minutes * 60 * FPS // 16):
        peak = max(peak, psutil.Process().memory_info().rss)
    return peak


def rows() -> Iterator[Row]:
    model = small_model()     # of both: where weights lie in memory is some percent of a time
    early, late = bench_at(model, EARLY), bench_at(model, LATE)
    yield Row.at_most(f"timed: block {LATE} of a stream / block {EARLY}, least of {LEAST_ROUNDS} runs of each in turn",
                      compare_least(late.window, early.window), 1.03, 3)
    short, long = map(peak_of_stream, MINUTES)
    yield Row.at_most(f"peak RSS of a stream of {MINUTES[1]} minutes / of {MINUTES[0]}", long / short, 1.02, 3,
                      f" ({long / 1e6:.0f} / {short / 1e6:.0f} MB)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(f"{stream_for(int(sys.argv[1]))}\n")
    else:
        show(rows)
