"""Ratios of time, taken so that a machine that other work slows down slows both sides alike."""
import time
from collections.abc import Callable
from statistics import median

import torch

ROUNDS, LEAST_ROUNDS = 9, 40


def compare_times(candidate: Callable[[], object], baseline: Callable[[], object],
                clock: Callable[[], float] = time.process_time) -> str:
    """Time of `candidate` / `baseline` as "min / median / max" over rounds that run each once, in alternating order."""
    ratios = []
    for turn in range(ROUNDS + 1):
        spent = {work: seconds(work, clock) for work in ((candidate, baseline) if turn % 2 else (baseline, candidate))}
        ratios.append(spent[candidate] / spent[baseline])
    ratios = sorted(ratios[1:])   # the first round warms up
    return f"{ratios[0]:.3f} / **{median(ratios):.3f}** / {ratios[-1]:.3f}"


def compare_least(candidate: Callable[[], object], baseline: Callable[[], object], rounds: int = LEAST_ROUNDS,
                  clock: Callable[[], float] = time.process_time) -> float:
    """Least time of `candidate` / least of `baseline`, each run once a round in alternating order: other work on the
    machine only adds to a time, and of so many rounds one of each is undisturbed."""
    spent: dict[Callable[[], object], list[float]] = {candidate: [], baseline: []}
    for turn in range(rounds + 1):
        for work in ((candidate, baseline) if turn % 2 else (baseline, candidate)):
            spent[work].append(seconds(work, clock))
    return min(spent[candidate][1:]) / min(spent[baseline][1:])    # the first round warms up


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    with torch.inference_mode():
        started = clock()
        work()
        return clock() - started


def gpu_clock() -> float:
    """Seconds on the wall, once the GPU, where there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
