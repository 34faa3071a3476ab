"""Reproduces the papers' claims with the puppet: `python -m experiments.claims`, or `--quick`; writes docs/claims.md.

A batch of held-out characters speaks for a minute under every condition of conditions.py. What was made is kept
by weights, condition and source, so a run that was ended goes on where it was.
"""
import argparse
import os
import sys
from pathlib import Path

from lib import environment
from lib.pack import load_pack

PACK = environment.PACK


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 characters, 20 s, claims 1, 3, 6 and 8")
    parser.add_argument("--claims", type=int, nargs="*", help="which of them, 1 to 8 and 17 to 20; all of them")
    parser.add_argument("--characters", type=int, help="8; 4 with --quick")
    parser.add_argument("--seconds", type=float, help="60; 20 with --quick")
    parser.add_argument("--every", type=int, help="look at every so manyth chunk: 6; 3 with --quick")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4),
                        help="processes that make takes side by side, each with its share of the cores")
    parser.add_argument("--part", help="make this share of the takes only and write no page: 0/2, 1/2")
    parser.add_argument("--weights", type=Path, default=PACK / "models",
                        help="where `python -m training.puppet.export` has put them; the pack's own")
    parser.add_argument("--corpus", type=Path, help="speech, if not the one in the cache")
    parser.add_argument("--kept", type=Path, default=environment.cache_folder() / "puppet" / "claims")
    parser.add_argument("--page", type=Path, default=PACK / "docs" / "claims.md")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    comfyui = environment.find_comfyui(environment.NEWEST, environment.own_comfyui())
    if comfyui is None:
        sys.exit(f"the claims need the VAE of a ComfyUI {environment.NEWEST}: set COMFYUI_PATH to one")
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    load_pack()
    from .run import run
    run(options)


if __name__ == "__main__":
    main()
