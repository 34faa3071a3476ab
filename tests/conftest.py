"""Loads the pack as `lodestar` from the folder it lies in, whatever that folder is called.

The pack has a package named `nodes`, and so has ComfyUI: the repo root must never be on sys.path. The scripts and the
tests' rig come last on it, so that tests can `import environment`, `import make_tiny_models`, `import rounding`.
"""
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT] + [
    str(ROOT / "scripts"), str(ROOT / "tests" / "rig")]


def load_pack():
    """Import the pack's root as the package `lodestar`, without running ComfyUI-only code."""
    if "lodestar" not in sys.modules:
        spec = importlib.util.spec_from_file_location("lodestar", ROOT / "__init__.py",
                                                      submodule_search_locations=[str(ROOT)])
        module = importlib.util.module_from_spec(spec)
        sys.modules["lodestar"] = module
        spec.loader.exec_module(module)
    return sys.modules["lodestar"]


load_pack()
