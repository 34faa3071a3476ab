"""docs/reliability.md names tests and commands that are there: each path, each word of -k, each script and option."""
import re

import pytest
import reliability

pytestmark = pytest.mark.once


def broken(command: str) -> list[str]:
    """What of `P FILES [-k WORDS]` names nothing."""
    found = reliability.tests_of(command)
    gone = [file for file in dict.fromkeys(file for file, _ in found) if not (reliability.ROOT / file).is_file()]
    return gone + [word for word in dict.fromkeys(word for _, word in found)
                   if not any(names for (_, other), names in found.items() if other == word)]


def test_every_row_names_tests_that_are_there():
    assert len(reliability.commands()) > 25
    assert not {command: wrong for command in reliability.commands() if (wrong := broken(command))}


def test_a_row_that_names_nothing_would_be_found():
    assert broken("P tests/test_clock.py -k lock") == [] and broken("P tests/test_clock.py") == []
    assert broken('P tests/test_clock.py -k "lock or nobody"') == ["nobody"]
    assert broken("P tests/test_nobody.py") == ["tests/test_nobody.py", ""]


def test_every_long_form_is_a_command_that_is_there():
    for script, options in re.findall(r"`python (\S+\.py)([^`]*)`", reliability.PAGE.read_text(encoding="utf-8")):
        text = (reliability.ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in text for option in re.findall(r"--[a-z]+", options)), (script, options)
