"""One line of the benchmark table: what was measured, what came out, what it should be."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    what: str
    measured: str
    goal: str = ""
    met: bool | None = None   # None: nothing to hold it against, or too unsteady a number to be judged

    @classmethod
    def at_most(cls, what: str, value: float, goal: float, digits: int = 4, note: str = "") -> "Row":
        return cls(what, f"{value:.{digits}f}{note}", f"<= {goal:g}", value <= goal)

    def __str__(self) -> str:
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"| {self.what} | {self.measured} | {self.goal} | {verdict} |"


def show(rows: Callable[[], Iterable[Row]]) -> None:
    """Print rows as they are measured."""
    for row in rows():
        print(row, flush=True)
