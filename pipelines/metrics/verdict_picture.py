"""A verdict as a picture that can be read in a node: five large figures, each with its word, and the worst moment."""
from typing import Any

from torch import Tensor

from ..sheet import SOFT, Sheet
from .report_picture import clock
from .verdict import BAD, GOOD, LOOK, Figure, Thumbnails, worst_of

WIDTH, ROW, NAME, MARGIN, THUMB = 460, 40, 16, 14, 200      # pixels
COLOURS = {GOOD: "#2f8f4e", LOOK: "#c98a12", BAD: "#c23b32"}


def verdict_picture(report: dict[str, Any], figures: list[Figure], thumbnails: Thumbnails) -> Tensor:
    """(H, WIDTH, 3), float 0..1."""
    worst = worst_of(figures)
    small = None if worst is None else thumbnails.at((worst.seconds or 0) * report["video"]["fps"])
    rows = max(len(figures) * ROW, 0 if small is None else small.shape[0] + 26)
    missing = not_measured(report)
    sheet = Sheet(WIDTH, rows + 2 * MARGIN + 22 + (18 if missing else 0))
    video = report["video"]
    sheet.text(MARGIN, MARGIN - 4, f"{video['name']}, {clock(video['seconds'])}", SOFT)
    top = MARGIN + 22
    draw_figures(sheet, MARGIN, top, figures)
    if small is not None and worst is not None:
        left = WIDTH - THUMB - MARGIN
        sheet.picture(left, top, small)
        sheet.text(left, top + small.shape[0] + 4, f"worst: {worst.name} at {clock(worst.seconds or 0)}", SOFT)
    if missing:
        sheet.text(MARGIN, top + rows + 2, missing, SOFT, small=True)
    return sheet.pixels()


def draw_figures(sheet: Sheet, left: int, top: int, figures: list[Figure]) -> None:
    for place, figure in enumerate(figures):
        draw_figure(sheet, left, top + place * ROW, figure, figure.name, SOFT)


def draw_figure(sheet: Sheet, left: int, top: int, figure: Figure, below: str, colour: str = COLOURS[GOOD]) -> None:
    """One figure beside its bar, with its word and a line below that."""
    sheet.bar(left, top, left + 6, top + ROW - 8, COLOURS[figure.word])
    sheet.text(left + 14, top - 3, figure.value, large=True)
    sheet.text(left + 128, top - 3, figure.word, COLOURS[figure.word])
    sheet.text(left + 128, top + 15, below, colour, small=True)


def not_measured(report: dict[str, Any]) -> str:
    """One plain line; the full report says why."""
    names = [name.replace("_", " ") for name in report["left_out"]]
    return f"not measured: {', '.join(names)}" if names else ""


def comparison_picture(names: tuple[str, str], verdicts: tuple[list[Figure], list[Figure]]) -> Tensor:
    """Two takes side by side (H, WIDTH, 3): the figures that both have, and which take is better in each."""
    first, second = ({figure.name: figure for figure in figures} for figures in verdicts)
    shared = [name for name in first if name in second]
    sheet = Sheet(WIDTH, len(shared) * (ROW + NAME) + 2 * MARGIN + 34)
    for side, (title, figures) in enumerate(zip(names, (first, second), strict=True)):
        left = MARGIN + side * WIDTH // 2
        sheet.text(left, MARGIN - 6, title, large=True)
        for place, name in enumerate(shared):
            y = MARGIN + 34 + place * (ROW + NAME)
            if side == 0:
                sheet.text(left, y, name, SOFT, small=True)
            draw_figure(sheet, left, y + NAME, figures[name],
                        "better" if better(first[name], second[name]) == side + 1 else "")
    return sheet.pixels()


def better(one: Figure, other: Figure) -> int:
    """1 or 2, the one that is better; 0 where they are as good as each other."""
    if abs(one.badness - other.badness) < 0.1 and one.word == other.word:
        return 0
    return 1 if one.badness < other.badness else 2
