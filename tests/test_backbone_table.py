"""The page's table of backbones is what the cells of the test on every family say."""
import json

import pytest
import tabulate_backbones as tables

pytestmark = pytest.mark.once
CELLS = {"0.33.0": {"One": {"anchor": "works", "skip": "no sound"}, "Two": {"anchor": "works", "skip": "works"}},
         "0.7.0": {"One": {"anchor": "works", "skip": "no sound"}}}


def test_the_table_of_the_page_is_drawn_from_the_cells_as_found():
    text = tables.PAGE.read_text(encoding="utf-8")
    assert tables.put_in(text, tables.draw_table(json.loads(tables.CELLS.read_text(encoding="utf-8")))) == text


def test_a_refusal_is_a_footnote_and_a_family_that_a_version_lacks_says_so():
    lines = tables.draw_table(CELLS).splitlines()
    assert lines[2:4] == ["| One | yes | no<sup>1</sup> |", "| Two<sup>2</sup> | yes | yes |"]
    assert "1. no sound" in lines and "2. not in ComfyUI 0.7.0" in lines


def test_what_another_version_does_otherwise_is_a_footnote():
    cells = {**CELLS, "0.7.0": {"One": {"anchor": "no room", "skip": "no sound"}}}
    assert "ComfyUI 0.7.0: no room" in tables.draw_table(cells)


def test_a_cell_that_neither_works_nor_is_refused_ends_the_command(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text('<testsuite><testcase name="a[x]"><failure>wrong</failure></testcase></testsuite>')
    with pytest.raises(SystemExit, match=r"a\[x\]"):
        tables.read_report(report)
