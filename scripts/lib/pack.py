"""The pack as the package `lodestar`, whatever its folder is called: for commands, tests, training and experiments."""
import importlib.util
import sys
from pathlib import Path

PACK = Path(__file__).resolve().parents[2]


def load_pack():
    """Import the pack and give it. Its folder leaves sys.path: it has a package named `nodes`, and so has ComfyUI."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != PACK]
    if "lodestar" not in sys.modules:
        spec = importlib.util.spec_from_file_location("lodestar", PACK / "__init__.py",
                                                      submodule_search_locations=[str(PACK)])
        assert spec and spec.loader
        sys.modules["lodestar"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["lodestar"])
    return sys.modules["lodestar"]
