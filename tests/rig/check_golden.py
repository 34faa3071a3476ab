"""Runs golden fixtures through the pack's own classes: `python tests/rig/check_golden.py FOLDER`.

FOLDER holds fixture folders (cases.json or config.json, tensors) at any depth. Every case runs on CPU in float32, built
from torch's own layers and then from each ComfyUI's, where it has the classes; one line per case, exit code 1 if any
fails, is unknown, or is left out by the newest ComfyUI.
"""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from lib import environment  # noqa: E402, isort: skip - it refuses a Python that is too old

import argparse  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402

PLAIN = "torch"
HOSTS = (PLAIN, environment.NEWEST, environment.FLOOR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder with fixtures, one model's or several")
    parser.add_argument("--host", action="append", choices=HOSTS, help="only this one; may be given several times")
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI folder to check with; default: found, else cloned")
    parser.add_argument("--require-all", action="store_true", help="a missing ComfyUI is a failure")
    options = parser.parse_args()
    folder = options.folder.expanduser().resolve()
    if not any(any(folder.rglob(name)) for name in ("cases.json", "config.json")):
        sys.exit(f"{folder}: no cases.json in it or below it, wanted a folder of golden fixtures")
    environment.stop_on_signals()
    own = environment.own_comfyui(options.comfyui)
    trees = {version: environment.find_comfyui(version, own) for version in HOSTS if version != PLAIN}
    python = environment.make_environment(environment.requirements(trees[environment.NEWEST]))
    return max(check(python, folder, host, trees, options.require_all) for host in options.host or HOSTS)


def check(python: Path, folder: Path, host: str, trees: dict[str, Path | None], require_all: bool) -> int:
    """All cases on one host, in a process of its own: two ComfyUIs cannot live in one."""
    print(f"\n{host if host == PLAIN else f'ComfyUI {host}'}", flush=True)
    if host != PLAIN and trees[host] is None:
        print("left out: it is not here and could not be cloned", flush=True)
        return int(require_all)
    command = [str(python), str(Path(__file__).with_name("golden.py")), str(folder)]
    variables = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    variables.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads that wait for each other are slower than one
    command += [] if host == PLAIN else [str(trees[host])]
    child = subprocess.run(command + (["complete"] if host == environment.NEWEST else []), env=variables)
    return int(child.returncode != 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
