"""Puts a real ComfyUI on the path, on CPU and with a base folder of its own, before anything of it is imported."""
import os
import tempfile
from pathlib import Path

import pytest
from lib import comfy_server, environment
from server_fixtures import begin_server, official, server, start_server, tiny_models  # noqa: F401

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
    """The rig's wan_models: tiny Wan models and one call of them."""
    import wan_models
    return wan_models


@pytest.fixture(scope="session")
def longcat():
    """The rig's longcat_models: tiny LongCat models, headless twins, and sampling by hand."""
    import longcat_models
    return longcat_models


@pytest.fixture(scope="session")
def omni():
    """The rig's omniavatar_models: tiny OmniAvatar models, and one run of a sampler with them."""
    import omniavatar_models
    return omniavatar_models


@pytest.fixture(scope="session")
def first_output_folder() -> str:
    import folder_paths
    return folder_paths.get_output_directory()


@pytest.fixture(autouse=True)
def output_folder(first_output_folder):
    """Where a test, or what several share, sends its output is forgotten after it."""
    import folder_paths
    yield
    folder_paths.set_output_directory(first_output_folder)
