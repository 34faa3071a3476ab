"""What SECURITY.md says of the nodes, as far as the source shows it: no network, no shell, no pickle, no route."""
import ast
from pathlib import Path

import pytest
from house import FLOORS, floors, name_of, root_of, sources

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
NETWORK = {"socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "websocket", "websockets",
           "ftplib", "smtplib", "huggingface_hub", "torch.hub", "gdown"}
RUNS = {"subprocess", "multiprocessing", "ctypes", "code", "runpy", "pip", "marshal", "shelve", "dill", "webbrowser"}
ALLOWED = {("backbones/allocator.py", "ctypes"): "malloc_trim of the C library",
           ("networks/weight_files.py", "pickle"): "the error of torch.load",
           ("backbones/weight_loading.py", "pickle"): "the same",
           ("host/take_requests.py", "aiohttp"): "ComfyUI's own server, which serves the routes",
           ("host/live_routes.py", "aiohttp"): "the same",
           ("host/live_session.py", "urllib"): "the text of an address of ComfyUI's /view",
           ("pipelines/take/fingerprint.py", "pickle"): "the error of an object that cannot be pickled"}
CALLS = {"system", "popen", "startfile", "urlopen", "Unpickler", "from_pretrained", "hf_hub_download",
         "snapshot_download", "load_state_dict_from_url"}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def breaks(source):
    """Lines of one file that do what the page says is not done."""
    for node, parts, ours in source.imports():
        names = {parts[0], ".".join(parts[:2])}
        if not ours and names & (NETWORK | RUNS | {"pickle"}) and (source.path.as_posix(), parts[0]) not in ALLOWED:
            yield source.at(node, f"imports {'.'.join(parts)}")
    for call in source.calls():
        name, owner = name_of(call.func), root_of(call.func)
        if name in CALLS or isinstance(call.func, ast.Name) and name in BUILTINS:
            yield source.at(call, f"calls {ast.unparse(call.func)}")
        if name in ("load", "loads") and owner == "pickle":
            yield source.at(call, "unpickles")
        if name == "load" and owner == "torch" and not any(
                word.arg == "weights_only" and getattr(word.value, "value", None) is True for word in call.keywords):
            yield source.at(call, "torch.load without weights_only=True")
        if name in ("load_torch_file", "load_diffusion_model", "load_checkpoint_guess_config") and not any(
                word.arg == "safe_load" and getattr(word.value, "value", None) is True for word in call.keywords):
            yield source.at(call, f"{name} without safe_load=True, which older ComfyUI needs")


def test_the_nodes_do_nothing_of_what_the_page_rules_out():
    found = [line for source in floors(ROOT) for line in breaks(source)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["import requests", "from urllib.request import urlopen", "import subprocess",
                                  "import pickle\npickle.loads(b'')", "import torch\ntorch.load('x')",
                                  "import torch\ntorch.load('x', weights_only=False)",
                                  "import comfy.utils\ncomfy.utils.load_torch_file('x')",
                                  "import comfy.sd\ncomfy.sd.load_diffusion_model('x')",
                                  "import os\nos.system('x')", "eval('1')", "from torch.hub import load",
                                  "Model.from_pretrained('x')"])
def test_each_of_it_would_be_found(tmp_path, text):
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "bad.py").write_text(text)
    assert [line for source in sources(tmp_path, *FLOORS) for line in breaks(source)]


def test_every_route_is_on_the_page():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    routes = {f"{call.func.attr.upper()} {call.args[0].value}" for source in floors(ROOT) for call in source.calls()
              if ".routes." in ast.unparse(call.func) and call.args}
    assert routes == {"POST /lodestar/take", "POST /lodestar/live/{name}", "GET /lodestar/live/{name}"}
    assert all(f"`{route}`" in page for route in routes)


def test_the_page_s_scripts_make_no_html_and_ask_comfyui_alone():
    for path in (ROOT / "web").rglob("*.*js"):
        text = path.read_text(encoding="utf-8").replace('"http://www.w3.org/2000/svg"', "")     # a name, no address
        assert not any(word in text for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", " fetch(",
                                                 "XMLHttpRequest", "WebSocket", "document.write", "://")), path
