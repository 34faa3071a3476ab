"""The scripts' own server helper as fixtures: one server per test session, one more for a test that must kill it."""
import contextlib
import importlib.util
import sys
from pathlib import Path

import forked_server
import pytest
import stand_ins
from lib import comfy_server, environment


@pytest.fixture(scope="session")
def tiny_models() -> Path:
    """The cached folder that holds models/diffusion_models, models/vae, models/audio_encoders."""
    return environment.tiny_models(Path(sys.executable))


@pytest.fixture(scope="session")
def begin_server():
    """How a server's process is made where many are: with libraries that are imported once."""
    if sys.platform != "linux":
        yield comfy_server.begin_process
        return
    forks = forked_server.Forks()
    yield forks.begin
    forks.close()


@pytest.fixture(scope="session")
def start_server(tmp_path_factory, tiny_models, comfyui, begin_server):
    """A factory of servers: `with start_server() as server`. `beside=server`: a second one on the same folders, while
    the first runs or after it."""

    @contextlib.contextmanager
    def start(*arguments: str, base: Path | None = None, beside=None, begin=begin_server):
        own = tmp_path_factory.mktemp("base")
        if beside:      # a ComfyUI empties its temp folder
            base, arguments = beside.base, (*arguments, "--temp-directory", str(own))
        base = base or comfy_server.prepare_base(own, tiny_models)
        for nodes in ("small_h3.py", "loop_nodes.py"):
            environment.link_or_copy(Path(__file__).with_name(nodes), base / "custom_nodes" / nodes)
        with comfy_server.start_server(comfyui, base, arguments=arguments, begin=begin,
                                       log=own / "beside.log" if beside else None) as server:
            yield server

    return start


@pytest.fixture(scope="session")
def server(start_server):
    """A real ComfyUI server with the pack and the tiny models: server.run(prompt), .queue, .upload, .get, .post. It is
    begun as a user begins one."""
    with start_server(begin=comfy_server.begin_process) as running:
        yield running


@pytest.fixture(scope="session")
def official(server):
    """The same server with tiny files of official names."""
    stand_ins.place(server.base / "models")
    if importlib.util.find_spec("comfy.ldm.minimax") is not None:       # a ComfyUI that has LTX-2.3
        import joint_models
        joint_models.write_official(server.base / "models")
    return server
