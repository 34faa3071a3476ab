"""What the registry hands out, installed under its name in an empty ComfyUI whose path has spaces and letters of other
alphabets, in a folder that is not written to, with the flags that change most: it loads, and the puppet talks."""
import zipfile
from pathlib import Path

import av
import pytest
import registry_zip
from lib import comfy_server
from served_takes import video_of, workflow

pytestmark = pytest.mark.once
NOT_FOR_USERS = ("tests/", "benchmarks/", "experiments/", ".ci/", ".github/", "docs/images/")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("base") / "Zoë's ComfyUI, 测试"
    for name in ("custom_nodes/lodestar", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True)
    packed = base.parent / "lodestar.zip"
    registry_zip.write(packed)
    with zipfile.ZipFile(packed) as opened:
        opened.extractall(base / "custom_nodes" / "lodestar")
    assert packed.stat().st_size < 20_000_000
    return base


def files(pack: Path) -> dict[str, int]:
    return {path.relative_to(pack).as_posix(): path.stat().st_mtime_ns for path in pack.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}


def test_it_holds_what_users_need_and_no_more(installed):
    found = files(installed / "custom_nodes" / "lodestar")
    assert not [name for name in found if name.startswith(NOT_FOR_USERS)]
    for name in ("__init__.py", "README.md", "requirements.txt", "docs/troubleshooting.md", "locales/zh/nodeDefs.json",
                 "web/docs/LodestarLongTake.md", "web/docs/LodestarLongTake/zh.md", "web/lodestar.js",
                 "assets/LICENSES.md", "workflows/01 Talking puppet.json",
                 "subgraphs/Talking puppet.json", "scripts/render.py",
                 "models/diffusion_models/lodestar_puppet.safetensors", "models/vae/lodestar_puppet_vae.safetensors"):
        assert name in found
    weights = [name for name in found if name.endswith(".safetensors")]
    assert len(weights) == 3 and all(name.startswith("models/") for name in weights)


@pytest.mark.parametrize("flags", [
    ("--cache-none", "--disable-metadata"), pytest.param(("--cache-lru", "2"), marks=pytest.mark.slow),
    pytest.param(("--cache-classic",), marks=pytest.mark.slow)], ids=" ".join)
def test_it_loads_and_the_puppet_talks(installed, comfyui, flags):
    pack = installed / "custom_nodes" / "lodestar"
    before = files(pack)
    graph = workflow("puppet")
    graph.the("LodestarPlanTake").set(max_seconds=0.5)
    graph.the("LodestarLongCatSchedule").set(steps=2)
    graph.remove(graph.the("LodestarTakeReport"))
    graph.the("LodestarLongTake").set(filename_prefix="Zoë/测试")
    with comfy_server.start_server(comfyui, installed, arguments=flags) as server:
        offered = [node for node in server.get("/object_info").values()
                   if node["python_module"] == "custom_nodes.lodestar"]
        video = video_of(server, server.run(graph.prompt()))
        assert "zh" in server.get("/i18n") and len(offered) == len(server.get("/i18n")["zh"]["nodeDefs"])
        assert set(server.get("/api/workflow_templates")) == {"lodestar"}
        assert "IMPORT FAILED" not in server.log.read_text(encoding="utf-8", errors="replace")
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 13
    assert files(pack) == before, "a pack writes nothing into its own folder"
