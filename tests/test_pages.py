"""What the pages name is there: links, pictures, files, commands with their options; each command a person types
says how it is used."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = "", "docs/", "docs/upstream/", "web/docs/", "web/docs/*/", "benchmarks/", "training/", "models/", "assets/"
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}*.md"))
COMMAND = re.compile(r"(?:^|`)python ((?:-m )?)([\w./]+)([^`\n]*)", re.MULTILINE)
NAMED = re.compile(r"`((?:scripts|tests|benchmarks|experiments|training|docs|workflows)/[\w./]+\.(?:py|md|json))")
OURS = ("scripts", "tests", "benchmarks", "experiments", "training")
TYPED = ("convert_longcat_lora", "demo", "fleet", "render", "report", "soak", "takes", "test", "train")


def missing(page: Path, text: str) -> list[str]:
    """What a page names and is not there."""
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)
             if not re.match(r"https?:|#", link)]
    beside = page.parent.parent if page.stem == "zh" else page.parent      # the front end reads all pages at web/docs
    gone = [link for link in links if not (beside / link).exists()]
    gone += [name for name in NAMED.findall(text) if not (ROOT / name).is_file()]
    for module, name, rest in COMMAND.findall(text):
        if module and name.partition(".")[0] not in OURS:
            continue
        place = name.replace(".", "/")
        found = [ROOT / place / "__main__.py", ROOT / f"{place}.py"] if module else [ROOT / name]
        source = "".join(path.read_text(encoding="utf-8") for path in found if path.is_file())
        gone += [name] if not source else [f"{name} {option}" for option in re.findall(r"--[a-z][a-z-]+", rest)
                                           if f'"{option}"' not in source + shared()]
    return gone


def shared() -> str:
    """Where several commands have their options from: fleet.py has render.py's."""
    paths = [*(ROOT / "scripts" / "lib").glob("*.py"), ROOT / "scripts" / "render.py"]
    return "".join(path.read_text(encoding="utf-8") for path in paths)


def test_what_the_pages_name_is_there():
    assert len(PAGES) > 100
    assert not {page.relative_to(ROOT).as_posix(): gone for page in PAGES
                if (gone := missing(page, page.read_text(encoding="utf-8")))}


def test_what_is_not_there_would_be_found():
    wrong = "[a](no.md) `scripts/check_golden.py` `python scripts/nobody.py` `python scripts/takes.py --nothing` " \
            "`python -m experiments.nobody`\npython scripts/test.py --tier lint"
    assert missing(ROOT / "README.md", wrong) == ["no.md", "scripts/check_golden.py", "scripts/nobody.py",
                                                  "scripts/takes.py --nothing", "experiments.nobody"]


def test_the_page_of_nodes_names_every_node():
    text = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    names = [re.search(r'node_id="Lodestar\w+",\s*display_name="([^"]+)"', path.read_text(encoding="utf-8"))
             for path in sorted((ROOT / "nodes").glob("[a-z]*.py"))]
    found = [match[1].partition(" (")[0] for match in names if match]
    assert len(found) > 40 and not [name for name in found if not re.search(rf"\b{name}\b", text)]


@pytest.mark.parametrize("name", TYPED)
def test_a_command_says_how_it_is_used(name):
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--help"]
    asked = subprocess.run(command, capture_output=True, text=True)
    assert asked.returncode == 0 and asked.stdout.startswith("usage:") and len(asked.stdout) > 100, asked.stderr
