"""What is trained here, and how. It may use the pack, whose name is `lodestar` whatever its folder is called."""
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if "lodestar" not in sys.modules:  # `python -m training…` from the repository's root; tests load the pack themselves
    spec = importlib.util.spec_from_file_location("lodestar", ROOT / "__init__.py",
                                                  submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    sys.modules["lodestar"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["lodestar"])
