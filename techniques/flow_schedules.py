"""Noise schedules: LongCat-Video's (normal, distilled in 16 and in 8 steps, the sharper tail, refinement), HuMo's, and
the levels that students of a rolling window know.

Rectified flow: x = (1 - sigma) * x0 + sigma * noise, timestep = 1000 * sigma. The core schedulers of ComfyUI lack the
end point 0.001 and the tails, so the sigmas are made here; in float32 throughout, as the authors make them, since the
network tells timesteps apart by less than one in 1e4.
"""
import torch
from torch import Tensor

KINDS = ("normal", "distilled", "distilled 8", "enhance-hf", "refine")
STUDENTS: dict[str, tuple[float, ...]] = {      # levels before the shift; of "even" as many as asked for
    "AvatarForcing": (1.0, 0.8, 0.4, 0.2), "Self-Forcing": (1.0, 0.75, 0.5, 0.25),
    "Causal-Forcing 4": (1.0, 0.75, 0.5, 0.25), "Causal-Forcing 2": (1.0, 0.5), "Causal-Forcing 1": (1.0,), "even": ()}
HUMO_FIRST = 0.999
LAST_SIGMA = 0.001
TAIL = tuple(step / 20 for step in range(10, 0, -1))    # 0.5, 0.45, ... 0.05


def schedule(kind: str, steps: int, shift: float, threshold: float = 0.5) -> Tensor:
    """Sigmas from the first to the terminal 0, float32. ValueError for a step count that the kind cannot have.

    `enhance-hf` continues a normal schedule below 0.5 in even steps, so it has more steps than asked for; `refine`
    starts a normal one at `threshold`, so it has fewer.
    """
    if steps < 1:
        raise ValueError(f"steps: got {steps}, wanted at least 1")
    sigmas = shift_sigmas(base_grid(kind, steps), shift)
    if kind == "enhance-hf":
        sigmas = torch.cat([sigmas[sigmas > 0.5], sigmas.new_tensor(TAIL)])
    elif kind == "refine":
        sigmas = torch.cat([sigmas.new_tensor([threshold]), sigmas[sigmas < threshold]])
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def base_grid(kind: str, steps: int) -> Tensor:
    """The grid before the shift, without the terminal 0, float32."""
    if kind not in KINDS:
        raise ValueError(f"schedule: got {kind!r}, wanted one of {', '.join(KINDS)}")
    if kind == "distilled 8":
        if steps != 8:
            raise ValueError(f"steps: got {steps}, but Avatar 1.5 is distilled for exactly 8")
        return torch.tensor([(999 - 125 * step) / 999 for step in range(8)])
    if kind == "distilled":
        if steps > 50:
            raise ValueError(f"steps: got {steps}, but the distilled grid has 50")
        return torch.tensor([(1000 - 20 * (50 * step // steps)) / 1000 for step in range(steps)])
    return torch.linspace(1, LAST_SIGMA, steps)


def humo_schedule(steps: int, shift: float = 5.0) -> Tensor:
    """HuMo's sigmas from the first to the terminal 0, float32: the grid of a model with 1000 whole timesteps."""
    if steps < 1:
        raise ValueError(f"steps: got {steps}, wanted at least 1")
    grid = torch.linspace(HUMO_FIRST, 0, steps + 1, dtype=torch.float64)[:-1]
    return torch.cat([shift_sigmas(grid, shift), grid.new_zeros(1)]).float()


def student_levels(student: str, blocks: int, passes: int, shift: float) -> Tensor:
    """The noise levels of a rolling window of `blocks` that is refined `passes` times, and a 0, float32: as the student
    was distilled, or "even" ones. Raises ValueError where a student knows another number of levels."""
    if student not in STUDENTS:
        raise ValueError(f"student: got {student!r}, wanted one of {', '.join(STUDENTS)}")
    levels, known = blocks * passes, STUDENTS[student]
    if known and len(known) != levels:
        raise ValueError(f"blocks, passes: got {blocks} x {passes} = {levels} levels, but {student} was distilled for "
                         f"{len(known)}. Use {len(known)} blocks and 1 pass, another student, or even")
    grid = torch.tensor(known or [1 - level / levels for level in range(levels)], dtype=torch.float64)
    return torch.cat([shift_sigmas(grid, shift), grid.new_zeros(1)]).float()


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    return shift * sigmas / (1 + (shift - 1) * sigmas)
