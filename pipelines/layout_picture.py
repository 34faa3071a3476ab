"""A Layout as a picture: who stands when on the RoPE time axis, and which latent frames see which in self-attention."""
import math
from collections.abc import Mapping

from torch import Tensor

from ..techniques.layout import Layout, Span
from .sheet import BORDER, GRID, PANEL, PAPER, SOFT, Sheet

WIDTH, MARGIN, ROW, CELL = 640, 24, 30, 24      # pixels; CELL: the most that a latent frame's bar is wide
LABEL, PLOT, TABLE = 152, 440, 264              # of the labels, the time axis, the visibility table
HEAD, AXIS = 56, 46                             # heights of the heading and below the bars
COLOURS = {"chunk": "#2563b0", "context": "#8fb4de", "reference": "#d9622b", "anchor": "#d9622b",
           "references": "#d9622b"}
OTHER = "#98a1ad"
SEEN = "#b9d0ec"


def draw_layout(layout: Layout, visibility: Mapping[tuple[int, int], float], title: str) -> Tensor:
    """The layout of one model call, and {(query frame, key frame): weight} of pairs that do not see each other in
    full -> (H, 640, 3), float 0..1."""
    below = HEAD + len(layout.spans) * ROW + AXIS + 10
    sheet = Sheet(WIDTH, below + (TABLE if visibility else 16) + MARGIN)
    sheet.text(MARGIN, 16, title, large=True)
    draw_times(sheet, layout)
    if visibility:
        draw_visibility(sheet, layout, visibility, below)
    else:
        sheet.text(MARGIN + LABEL, below, "Every frame sees every other.")
    return sheet.pixels()


def draw_times(sheet: Sheet, layout: Layout) -> None:
    """One row of bars per span, over an axis of RoPE times in latent frames."""
    times = [time for span in layout.spans for time in span.times]
    first, last = math.floor(min(times)), math.ceil(max(times))
    each = min(PLOT / (last - first + 1), CELL)
    left, bottom = MARGIN + LABEL, HEAD + len(layout.spans) * ROW
    sheet.area([(left, HEAD), (left + PLOT, HEAD), (left + PLOT, bottom), (left, bottom)], PANEL)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step * each >= 28)
    for tick in range(math.ceil(first / step) * step, last + 1, step):
        middle = left + (tick - first + 0.5) * each
        sheet.line([(middle, HEAD), (middle, bottom)], GRID)
        sheet.text(middle, bottom + 6, f"{tick}", SOFT, small=True, anchor="ma")
    sheet.text(left, bottom + 24, "RoPE time, latent frames", SOFT, small=True)
    for row, span in enumerate(layout.spans):
        top = HEAD + row * ROW
        sheet.text(MARGIN, top + 6, label_of(span))
        for time in span.times:
            x = left + (time - first) * each
            sheet.bar(x + 1, top + 5, x + each - 1, top + ROW - 5, colour_of(span))


def draw_visibility(sheet: Sheet, layout: Layout, visibility: Mapping[tuple[int, int], float], below: float) -> None:
    """A row per query frame, a column per key frame: a full cell is seen, a smaller one in part, none not at all."""
    frames = sum(len(span.times) for span in layout.spans)
    left, top, each = MARGIN + LABEL, below + 12, (TABLE - 14) / frames
    sheet.text(MARGIN, top, "Attention")
    for line, text in enumerate(("rows: queries", "columns: keys", "empty: not seen", "small: seen less")):
        sheet.text(MARGIN, top + 26 + 18 * line, text, SOFT, small=True)
    for query in range(frames):
        for key in range(frames):
            gap = each * (1 - visibility.get((query, key), 1.0) ** 0.5) / 2
            if 2 * gap < each:
                sheet.bar(left + key * each + gap, top + query * each + gap, left + (key + 1) * each - gap,
                          top + (query + 1) * each - gap, SEEN)
    for place in range(frames + 1):
        sheet.line([(left + place * each, top), (left + place * each, top + frames * each)], PAPER, 0.5)
        sheet.line([(left, top + place * each), (left + frames * each, top + place * each)], PAPER, 0.5)
    for span in layout.spans:
        own = layout.frame_indices(span)
        begin, end = own.start * each, own.stop * each
        sheet.bar(left - 10, top + begin + 1, left - 4, top + end - 1, colour_of(span))
        sheet.bar(left + begin + 1, top - 10, left + end - 1, top - 4, colour_of(span))
    side = frames * each
    sheet.line([(left, top), (left + side, top), (left + side, top + side), (left, top + side), (left, top)], BORDER)


def label_of(span: Span) -> str:
    """Its role, how many latent frames it has, and whether they are clean."""
    return f"{span.name}: {len(span.times)} {'clean' if span.clean else 'noisy'}"


def colour_of(span: Span) -> str:
    return COLOURS.get(span.name, OTHER)
