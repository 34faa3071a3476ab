"""The pack loads in an unmodified server, and says of every node and input what it is for."""
import json
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RECORDED = json.loads((ROOT / "tests" / "golden" / "node_ids.json").read_text(encoding="utf-8"))


def inputs_of(node):
    return {name: spec for group in ("required", "optional") for name, spec in node["input"].get(group, {}).items()}


@pytest.fixture(scope="module")
def offered(server):
    """The pack's nodes as the server describes them."""
    return {name: node for name, node in server.get("/object_info").items()
            if node["python_module"].startswith("custom_nodes.ComfyUI-Lodestar")}


def test_the_server_offers_exactly_the_recorded_nodes(offered):
    assert set(offered) == set(RECORDED)
    for name, node in offered.items():
        assert sorted(inputs_of(node)) == sorted(RECORDED[name])
        assert node["category"].startswith("Lodestar") and len(node["description"]) > 40
        assert all(len(spec[1].get("tooltip", "")) > 10 for spec in inputs_of(node).values()), name


@pytest.mark.parametrize("words", ["talking", "talking head", "avatar", "lip sync", "long video", "wav2vec", "identity",
                                   "audio to video", "sadtalker", "infinitetalk", "streaming", "train lora"])
def test_the_node_search_finds_it_by_what_people_type(offered, comfyui_version, words):
    if comfyui_version == "0.7.0":      # which has no such field; its search knows names alone
        assert all("search_aliases" not in node for node in offered.values())
        return
    assert any(words in (node.get("search_aliases") or ()) for node in offered.values())


def test_every_node_has_words_to_be_found_by(offered, comfyui_version):
    assert comfyui_version == "0.7.0" or not [name for name, node in offered.items() if not node.get("search_aliases")]


def test_nothing_went_wrong_while_loading(server):
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert "ComfyUI-Lodestar" in log and "IMPORT FAILED" not in log


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_every_node_has_its_help_page_where_the_front_end_looks(server, page):
    for name in RECORDED:
        address = f"{server.url}/extensions/ComfyUI-Lodestar/docs/{page.format(name)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.status == 200 and answer.read().decode().startswith("# ")


def test_the_server_hands_out_the_chinese_of_every_node(server):
    chinese = server.get("/i18n")["zh"]
    assert chinese["nodeDefs"] == json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(chinese["nodeDefs"]) == set(RECORDED) and chinese["nodeCategories"]["techniques"] == "技术"
