"""The table of backbones in docs/models.md, from what tests/comfy/in_process/test_cells.py finds: for developers.

    python scripts/tabulate_backbones.py --slow     runs it on every ComfyUI that the tests use

Writes tests/golden/cells.json, which that test holds every cell to, and the table. Without --slow, cells that take
minutes (torch.compile) stay as they were found; --draw only draws the table again.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

TEST = environment.PACK / "tests" / "comfy" / "in_process" / "test_cells.py"
CELLS = environment.PACK / "tests" / "golden" / "cells.json"
PAGE = environment.PACK / "docs" / "models.md"
BEGIN, END = "<!-- table: python scripts/tabulate_backbones.py -->\n", "<!-- end of table -->\n"
WORKS = "works"
Cells = dict[str, dict[str, dict[str, str]]]      # ComfyUI version, family, column: WORKS, or why it is refused


def find_cells(comfyui: Path, slow: bool) -> Cells:
    """Every cell on one ComfyUI. Ends the command where one neither works nor is refused by the pack."""
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}",
                        "-m", "" if slow else "not slow", str(TEST)], env={
                            **os.environ, "COMFYUI_PATH": str(comfyui), "OMP_NUM_THREADS": "1",
                            "PYTHONPATH": str(environment.rig())}, cwd=environment.PACK, stdout=subprocess.DEVNULL)
        return read_report(report)


def read_report(report: Path) -> Cells:
    """What the test recorded of each cell."""
    cells: Cells = {}
    for test in ElementTree.parse(report).iter("testcase"):
        found = {entry.get("name"): entry.get("value", "") for entry in test.iter("property")}
        if "cell" in found:
            version, family, column, outcome = json.loads(found["cell"])
            cells.setdefault(version, {}).setdefault(family, {})[column] = outcome
        elif test.find("failure") is not None or test.find("error") is not None:
            sys.exit(f"{test.get('name')} neither works nor is refused: run pytest {TEST}")
    return cells


def draw_table(cells: Cells) -> str:
    """Markdown: a row per family, what is refused as a footnote with its reason."""
    newest, *older = sorted(cells, key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    fullest: dict[str, str] = max(cells[newest].values(), key=len)
    columns = list(fullest)
    reasons: list[str] = []

    def note(reason: str) -> str:
        if reason not in reasons:
            reasons.append(reason)
        return f"<sup>{reasons.index(reason) + 1}</sup>"

    def cell(family: str, column: str) -> str:
        outcome = cells[newest][family].get(column, "")
        text = "yes" if outcome == WORKS else f"no{note(outcome)}" if outcome else "?"
        for version in older:
            other = cells[version].get(family, {}).get(column, outcome)
            if other != outcome:
                text += note(f"ComfyUI {version}: {other}")
        return text

    def title(family: str) -> str:
        absent = [version for version in older if family not in cells[version]]
        return family + (note(f"not in ComfyUI {', '.join(absent)}") if absent else "")

    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {title(family)} | {' | '.join(cell(family, column) for column in columns)} |"
              for family in cells[newest]]
    notes = [f"{index}. {reason}" for index, reason in enumerate(reasons, 1)]
    untested = ["", "?: not tested yet"] if any("| ? " in line for line in lines) else []
    return "\n".join([*lines, "", *notes, *untested]) + "\n"


def put_in(text: str, table: str) -> str:
    """`text` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table + END + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="only the table, from the cells as they were found")
    parser.add_argument("--slow", action="store_true", help="find the cells that take minutes again, too")
    options = parser.parse_args()
    cells: Cells = json.loads(CELLS.read_text(encoding="utf-8")) if CELLS.is_file() else {}
    if not options.draw:
        for version in (environment.NEWEST, environment.FLOOR):
            comfyui = environment.find_comfyui(version, environment.own_comfyui())
            if comfyui is None:
                sys.exit(f"no ComfyUI {version}: the table needs every version that the tests use")
            for family, found in find_cells(comfyui, options.slow)[version].items():
                cells.setdefault(version, {}).setdefault(family, {}).update(found)
        CELLS.write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    table = draw_table(cells)
    PAGE.write_text(put_in(PAGE.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main()
