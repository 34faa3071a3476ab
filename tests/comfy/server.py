"""The scripts' own server helper as fixtures: one server per test session, one more for a test that must kill it.

Loaded by conftest.py under a name of its own, because ComfyUI has a module called `server`.
"""
import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(name: str):
    """scripts/<name>.py as the module `name`. The folder never enters sys.path: it holds a test.py."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


environment = load_script("environment")
comfy_server = load_script("comfy_server")


@pytest.fixture(scope="session")
def tiny_models() -> Path:
    """The cached folder that holds models/diffusion_models, models/vae, models/audio_encoders."""
    return environment.tiny_models(Path(sys.executable))


@pytest.fixture(scope="session")
def start_server(tmp_path_factory, tiny_models, comfyui):
    """A factory of servers: `with start_server() as server`. `base=server.base` starts again on the same folders."""

    @contextlib.contextmanager
    def start(*arguments: str, base: Path | None = None):
        base = base or comfy_server.prepare_base(tmp_path_factory.mktemp("base"), tiny_models)
        with comfy_server.started(comfyui, base, arguments=arguments) as server:
            yield server

    return start


@pytest.fixture(scope="session")
def server(start_server):
    """A real ComfyUI server with the pack and the tiny models: server.run(prompt), .queue, .upload, .get, .post."""
    with start_server() as running:
        yield running
