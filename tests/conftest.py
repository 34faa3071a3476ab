"""Loads the pack as `lodestar`; the commands' library (`from lib import x`) and the rig come last on the path."""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests" / "rig")]
from lib.pack import load_pack  # noqa: E402

load_pack()
