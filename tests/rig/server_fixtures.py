"""The scripts' own server helper as fixtures: one server per test session, one more for a test that must kill it."""
import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest
import small_h3
import stand_ins
from lib import comfy_server, environment


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
        environment.link_or_copy(Path(small_h3.__file__), base / "custom_nodes" / "small_h3.py")
        with comfy_server.start_server(comfyui, base, arguments=arguments) as server:
            yield server

    return start


@pytest.fixture(scope="session")
def server(start_server):
    """A real ComfyUI server with the pack and the tiny models: server.run(prompt), .queue, .upload, .get, .post."""
    with start_server() as running:
        yield running


@pytest.fixture(scope="session")
def official(server):
    """The same server with tiny files of official names."""
    stand_ins.place(server.base / "models")
    if importlib.util.find_spec("comfy.ldm.minimax") is not None:       # a ComfyUI that has LTX-2.3
        import joint_models
        joint_models.write_official(server.base / "models")
    return server
