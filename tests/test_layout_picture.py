"""Layouts as pictures: bars where the RoPE times are, cells where one frame sees another, and the help pages' own."""
import re
from pathlib import Path

import draw_layouts
import pytest
import torch
from lib import wiring_picture
from lodestar.pipelines.layout_picture import AXIS, CELL, COLOURS, HEAD, LABEL, MARGIN, ROW, SEEN, TABLE, draw_layout
from lodestar.techniques.layout import Layout, Span
from PIL import Image

pytestmark = pytest.mark.once

DOCS = Path(__file__).resolve().parent.parent / "web" / "docs"


def colour_at(picture, x, y):
    return "#" + "".join(f"{round(float(value) * 255):02x}" for value in picture[int(y), int(x)])


def layout(*times):
    return Layout((Span("chunk", (0, 1, 2), clean=False), Span("anchor", times)))


@pytest.mark.parametrize(("times", "first"), [((6.0,), 0), ((-2.0, 1.5), -2)])
def test_a_bar_stands_at_each_time(times, first):
    picture = draw_layout(layout(*times), {}, "A title")
    assert picture.shape[1:] == (640, 3) and 0 <= picture.min() and picture.max() <= 1
    for row, (span, colour) in enumerate((((0, 1, 2), COLOURS["chunk"]), (times, COLOURS["anchor"]))):
        y = HEAD + ROW * (row + 0.5)
        middles = {time: MARGIN + LABEL + (time - first + 0.5) * CELL for time in span}
        assert {colour_at(picture, x, y) for x in middles.values()} == {colour}
        free = [time for time in range(first, first + 8) if all(abs(time - other) >= 1 for other in span)]
        assert colour not in {colour_at(picture, MARGIN + LABEL + (time - first + 0.5) * CELL, y) for time in free}


def test_a_cell_is_as_large_as_what_is_seen():
    picture = draw_layout(layout(6.0), {(0, 3): 0.0, (1, 3): 0.25}, "A title")
    left, top, each = MARGIN + LABEL, HEAD + 2 * ROW + AXIS + 10 + 12, (TABLE - 14) / 4

    def share(query, key):
        cell = picture[round(top + query * each):round(top + (query + 1) * each),
                       round(left + key * each):round(left + (key + 1) * each)]
        wanted = torch.tensor([int(SEEN[place:place + 2], 16) for place in (1, 3, 5)]) / 255
        return ((cell - wanted).abs().amax(-1) < 0.02).float().mean().item()

    assert share(0, 3) < 0.02 and share(1, 3) == pytest.approx(0.25, abs=0.05) and share(2, 3) > 0.9
    assert share(3, 0) > 0.9, "rows are queries, columns are keys"


def test_the_help_pages_show_what_the_techniques_do(tmp_path):
    """`python scripts/draw_layouts.py` draws them; drawn again they are the same but for the font's rounding."""
    shown = {name for page in DOCS.glob("*.md") for name in re.findall(r"!\[[^]]+\]\((\w+\.png)\)", page.read_text(
        encoding="utf-8"))}
    drawn = {draw_layouts.draw(name, panels, tmp_path).name for name, panels in draw_layouts.layouts().items()}
    assert drawn == shown == {path.name for path in DOCS.glob("*.png")}
    for name in drawn:
        ours, theirs = (torch.frombuffer(bytearray(Image.open(folder / name).convert("RGB").tobytes()),
                                         dtype=torch.uint8).float() for folder in (tmp_path, DOCS))
        assert ours.shape == theirs.shape and (ours - theirs).abs().mean() < 1, name


def test_every_help_page_has_a_picture_and_wires_are_those_of_the_templates(tmp_path):
    pages = {page.stem: re.findall(r"!\[[^]]+\]\(([\w.]+)\)", page.read_text(encoding="utf-8"))
             for page in DOCS.glob("*.md")}
    assert not [name for name, shown in pages.items() if not shown]
    wired = draw_layouts.pages_with_wires()
    assert {path.name for path in DOCS.glob("*.svg")} == {f"wiring_{name}.svg" for name in wired}
    stale = [name for name in wired if draw_layouts.draw_wires(name, tmp_path).read_bytes()
             != (DOCS / f"wiring_{name}.svg").read_bytes()]
    assert not stale, "python scripts/draw_layouts.py draws them again"


def test_long_names_stay_in_their_box_and_outputs_say_all_they_feed():
    drawn = wiring_picture.draw("LodestarSamplePerson")
    assert ">image<" in drawn and ">Plan Take, Long Take, Ta…<" in drawn and drawn.count("<rect") == 3
