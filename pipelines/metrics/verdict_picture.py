"""A verdict as a picture that can be read in a node: five large figures, each with its word, and the worst moment."""
from typing import Any

from torch import Tensor

from ..sheet import SOFT, Sheet
from .report_picture import clock
from .verdict import BAD, GOOD, LOOK, Figure, Thumbnails, worst_of

WIDTH, ROW, MARGIN, THUMB = 460, 40, 14, 200      # pixels
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
        y = top + place * ROW
        sheet.bar(left, y, left + 6, y + ROW - 8, COLOURS[figure.word])
        sheet.text(left + 14, y - 3, figure.value, large=True)
        sheet.text(left + 128, y - 3, figure.word, COLOURS[figure.word])
        sheet.text(left + 128, y + 15, figure.name, SOFT, small=True)


def not_measured(report: dict[str, Any]) -> str:
    """One plain line; the full report says why."""
    names = [name.replace("_", " ") for name in report["left_out"]]
    return f"not measured: {', '.join(names)}" if names else ""


def comparison_picture(names: tuple[str, str], verdicts: tuple[list[Figure], list[Figure]]) -> Tensor:
    """Two takes side by side (H, W, 3): the figures that both have, and which take is better in each."""
    first, second = ({figure.name: figure for figure in figures} for figures in verdicts)
    shared = [name for name in first if name in second]
    sheet = Sheet(2 * WIDTH, len(shared) * ROW + 2 * MARGIN + 30)
    for side, (title, figures) in enumerate(zip(names, (first, second), strict=True)):
        left = MARGIN + side * WIDTH
        sheet.text(left, MARGIN - 6, title, large=True)
        draw_figures(sheet, left, MARGIN + 30, [figures[name] for name in shared])
        for place, name in enumerate(shared):
            if better(first[name], second[name]) == side + 1:
                sheet.text(left + 320, MARGIN + 30 + place * ROW - 1, "better", COLOURS[GOOD])
    return sheet.pixels()


def better(one: Figure, other: Figure) -> int:
    """1 or 2, the one that is better; 0 where they are as good as each other."""
    if abs(one.badness - other.badness) < 0.1 and one.word == other.word:
        return 0
    return 1 if one.badness < other.badness else 2
