"""The short form of docs/reliability.md: `python tests/rig/reliability.py` runs each test that a row names, once.

One run of pytest, so that the tests share their server; it says how long that was, and how much of it they computed.
COMFYUI_PATH names the ComfyUI, as for the tests.
"""
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def commands() -> list[str]:
    """`P FILES [-k WORDS]`, as the page has them."""
    return re.findall(r"`(P tests/[^`]+)`", PAGE.read_text(encoding="utf-8"))


def tests_of(command: str) -> dict[tuple[str, str], list[str]]:
    """The tests that each word of a command means in each of its files; a word of "" means all of a file."""
    files, _, words = command.removeprefix("P ").partition(" -k ")
    found = {}
    for file in files.split():
        path = ROOT / file
        names = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else []
        for word in words.strip('"').split(" or "):
            found[file, word] = [name for name in names if word in name]
    return found


def main() -> None:
    named = {f"{file}::{name}" if word else file
             for command in commands() for (file, word), names in tests_of(command).items() for name in names}
    chosen = sorted(test for test in named if "::" not in test or test.partition("::")[0] not in named)
    since = time.monotonic()
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--durations=15", *sys.argv[1:],
                            *chosen], cwd=ROOT, env=variables)
    used = os.times()
    print(f"{len(commands())} rows, {time.monotonic() - since:.0f} s, of which "
          f"{used.children_user + used.children_system:.0f} s were computed")
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
