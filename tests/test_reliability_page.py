"""docs/reliability.md names tests and commands that are there: each path, each word of -k, each script and option."""
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"`(P tests/[^`]+)`", PAGE)


def broken(command: str) -> list[str]:
    """What of `P FILES [-k WORDS]` names nothing."""
    files, _, words = command.removeprefix("P ").partition(" -k ")
    paths = [ROOT / name for name in files.split()]
    gone = [path.name for path in paths if not path.is_file()]
    tests = [name for path in paths if path.is_file()
             for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)]
    return gone + [word for word in words.strip('"').split(" or ") if not any(word in name for name in tests)]


def test_every_row_names_tests_that_are_there():
    assert len(COMMANDS) > 25
    assert not {command: wrong for command in COMMANDS if (wrong := broken(command))}


def test_a_row_that_names_nothing_would_be_found():
    assert broken("P tests/test_clock.py -k lock") == [] and broken("P tests/test_clock.py") == []
    assert broken('P tests/test_clock.py -k "lock or nobody"') == ["nobody"]
    assert broken("P tests/test_nobody.py") == ["test_nobody.py", ""]


def test_every_long_form_is_a_command_that_is_there():
    for script, options in re.findall(r"`python (\S+\.py)([^`]*)`", PAGE):
        text = (ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in text for option in re.findall(r"--[a-z]+", options)), (script, options)
