"""Puts a real ComfyUI on the path, on CPU and with a base folder of its own, before anything of it is imported."""
import importlib.util
import os
import tempfile
from pathlib import Path

import comfy_server
import environment
import pytest


def load_beside(name: str):
    """The module <name>.py of this folder, which is not on sys.path: ComfyUI has a `server` of its own."""
    spec = importlib.util.spec_from_file_location(f"lodestar_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fixtures = load_beside("server")
start_server, server, official, tiny_models = (
    fixtures.start_server, fixtures.server, fixtures.official, fixtures.tiny_models)


COMFYUI = environment.newest_comfyui()
if environment.comfyui_version(COMFYUI) is None:
    pytest.exit("no ComfyUI found: set COMFYUI_PATH, or run python scripts/test.py, which brings one", returncode=3)
BASE = tempfile.TemporaryDirectory(prefix="lodestar-comfy-", ignore_cleanup_errors=True)
environment.bring_comfyui(COMFYUI, BASE.name)
import utils.extra_config  # noqa: E402, F401  as main.py does: ComfyUI's nodes.py puts a folder with a utils.py first


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of the ComfyUI under test."""
    return COMFYUI


@pytest.fixture(scope="session")
def comfyui_version() -> str:
    return environment.comfyui_version(COMFYUI)


@pytest.fixture(scope="session")
def base(tiny_models) -> Path:
    """The base folder of the ComfyUI in this process, with the tiny models in it: base / "output", base / "models"."""
    return comfy_server.prepare_base(Path(os.path.realpath(BASE.name)), tiny_models)


@pytest.fixture(scope="session")
def wan():
    """wan_models.py beside this file: tiny Wan models and one call of them."""
    return load_beside("wan_models")


@pytest.fixture(scope="session")
def longcat():
    """longcat_models.py beside this file: tiny LongCat models, headless twins, and sampling by hand."""
    return load_beside("longcat_models")


@pytest.fixture(autouse=True)
def output_folder():
    """Where a test sends its output is forgotten after it."""
    import folder_paths
    before = folder_paths.get_output_directory()
    yield
    folder_paths.set_output_directory(before)
