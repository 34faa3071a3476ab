"""The short form of docs/reliability.md: `python tests/rig/reliability.py` runs each test that a row names, once.

Two runs of pytest side by side: the tests that need a server, which share it, and the others. It says how long that
was, and how much they computed. COMFYUI_PATH names the ComfyUI, as for the tests.
"""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment  # noqa: E402, isort: skip - it refuses a Python that is too old

import os  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
SERVED = "tests/comfy/server/"


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


def chosen_tests() -> list[str]:
    """Each test that a row names, once."""
    named = {f"{file}::{name}" if word else file
             for command in commands() for (file, word), names in tests_of(command).items() for name in names}
    return sorted(test for test in named if "::" not in test or test.partition("::")[0] not in named)


def main() -> None:
    comfyui = environment.newest_comfyui()
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    since, chosen = time.monotonic(), chosen_tests()
    variables = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": str(Path(__file__).parent),
                 "COMFYUI_PATH": str(comfyui)}
    served = [test for test in chosen if test.startswith(SERVED)]
    with tempfile.TemporaryFile() as beside:
        runs = [subprocess.Popen([sys.executable, "-m", "pytest", "-q", "-m", "not slow", "--durations=15",
                                  *sys.argv[1:], *tests], cwd=ROOT, env=variables, stdout=output)
                for tests, output in ((served, None), ([test for test in chosen if test not in served], beside))]
        codes = [run.wait() for run in runs]
        beside.seek(0)
        sys.stdout.write(beside.read().decode("utf-8", errors="replace"))
    used = os.times()
    print(f"{len(commands())} rows, {time.monotonic() - since:.0f} s, of which "
          f"{used.children_user + used.children_system:.0f} s were computed")
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
