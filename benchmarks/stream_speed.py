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
from timing import compare_times

WIDTHS, LAYERS, AUDIO, SIZE, TEXT = (256, 512, 2), 6, 64, (12, 12), (16, 4096)
EARLY, LATE = 5, 60
MINUTES, FPS = (1, 10), 25


def small_bench(size: tuple[int, int] = SIZE, layers: int = LAYERS) -> Bench:
    return Bench(student_model(layers, CPU, torch.float32, WIDTHS, AUDIO), size=size, text=TEXT)


def bench_at(block: int) -> Bench:
    """Rolled until this block is the next to leave."""
    torch.manual_seed(0)
    bench = small_bench()
    for _ in bench.to_block(block - 1):
        pass
    return bench


def peak_of_stream(minutes: int) -> int:
    """Peak resident bytes of a process that makes a stream of so many minutes, every block as it leaves."""
    done = subprocess.run([sys.executable, __file__, str(minutes)], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def stream_for(minutes: int) -> int:
    """Peak resident bytes of this process."""
    bench, peak = small_bench((4, 4), 2), 0
    for _ in bench.to_block(minutes * 60 * FPS // 16):
        peak = max(peak, psutil.Process().memory_info().rss)
    return peak


def rows() -> Iterator[Row]:
    early, late = bench_at(EARLY), bench_at(LATE)
    ratio = compare_times(late.window, early.window)
    yield Row(f"timed: block {LATE} of a stream / block {EARLY}", ratio, "<= 1.03")
    short, long = map(peak_of_stream, MINUTES)
    yield Row.at_most(f"peak RSS of a stream of {MINUTES[1]} minutes / of {MINUTES[0]}", long / short, 1.02, 3,
                      f" ({long / 1e6:.0f} / {short / 1e6:.0f} MB)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.stdout.write(f"{stream_for(int(sys.argv[1]))}\n")
    else:
        show(rows)
