"""Puts a real ComfyUI on the path, on CPU, before anything of it is imported."""
import os
import sys
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("LODESTAR_CACHE", Path.home() / ".cache" / "lodestar"))


def comfyui_folder() -> Path | None:
    named = os.environ.get("COMFYUI_PATH")
    found = [Path(named)] if named else sorted(CACHE.glob("ComfyUI-*"), reverse=True)
    return next((folder for folder in found if (folder / "main.py").is_file()), None)


COMFYUI = comfyui_folder()
if COMFYUI is None:
    pytest.exit("no ComfyUI found: set COMFYUI_PATH, or run python scripts/test.py, which brings one", returncode=3)
sys.path.insert(0, str(COMFYUI))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing(False)
import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
