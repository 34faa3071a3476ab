"""API graphs, built and edited: links by node and output, nodes by class, and refusals where one was meant."""
import json

import pytest
from lib.graph import Graph

pytestmark = pytest.mark.once


@pytest.fixture
def graph():
    graph = Graph({"20:14": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Me"}}})
    resized = graph.add("ImageScale", image=graph.the("LoadImage")[0], width=64)
    graph.add("Report", picture=resized[0], mask=graph.the("LoadImage")[1], size=64)
    return graph


def test_a_graph_is_what_the_server_takes(graph, tmp_path):
    assert graph.prompt() == {
        "20:14": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Me"}},
        "1": {"class_type": "ImageScale", "inputs": {"image": ["20:14", 0], "width": 64},
              "_meta": {"title": "ImageScale"}},
        "2": {"class_type": "Report", "inputs": {"picture": ["1", 0], "mask": ["20:14", 1], "size": 64},
              "_meta": {"title": "Report"}}}
    (tmp_path / "graph.json").write_text(json.dumps(graph.prompt()), encoding="utf-8")
    read = Graph.read(tmp_path / "graph.json")
    assert read.prompt() == graph.prompt()
    assert read.add("Note").id == "3"


def test_a_graph_and_its_prompt_share_nothing(graph):
    before = graph.prompt()
    Graph(before).the("LoadImage").set(image="b.png")
    graph.prompt()["1"]["inputs"]["width"] = 1
    assert graph.prompt() == before


def test_inputs_are_set_and_taken_away(graph):
    graph.the("ImageScale").set(width=32, height=16).unset("image")
    assert graph.prompt()["1"]["inputs"] == {"width": 32, "height": 16}
    with pytest.raises(KeyError):
        graph.the("ImageScale").unset("image")


@pytest.mark.parametrize(("find", "says"), [
    (lambda graph: graph.the("Note"), "the graph has no Note node, wanted one; it has ImageScale, LoadImage, Report"),
    (lambda graph: graph.add("Report") and graph.the("Report"), "the graph has 2 Report nodes, wanted one"),
    (lambda graph: Graph().the("Note"), "it has no node at all"),
    (lambda graph: graph.having("height"), "height is an input of no nodes"),
    (lambda graph: graph.add("Note", size=1) and graph.having("size"), "size is an input of 2 nodes"),
    (lambda graph: graph.remove(graph.the("LoadImage")), r"LoadImage \(node 20:14\) is read by ImageScale, Report")])
def test_where_one_is_meant_none_and_two_are_refused(graph, find, says):
    with pytest.raises(ValueError, match=says):
        find(graph)


def test_links_are_followed_both_ways(graph):
    image, scale, report = graph.nodes()
    assert report.source("picture").id == scale.id and report.source("mask").kind == "LoadImage"
    assert [node.id for node in graph.readers(image)] == [scale.id, report.id]
    assert [node.id for node in graph.readers(image[0])] == [scale.id]
    assert [node.id for node in graph.all("Report", "LoadImage")] == [image.id, report.id] and not graph.all("Note")


def test_a_node_is_replaced_and_removed(graph):
    image, scale, report = graph.nodes()
    graph.replace(scale[0], image[0])
    graph.remove(scale)
    assert report.inputs == {"picture": ["20:14", 0], "mask": ["20:14", 1], "size": 64}
    image.become("EmptyImage", width=8)
    assert graph.prompt()["20:14"] == {"class_type": "EmptyImage", "inputs": {"width": 8}, "_meta": {"title": "Me"}}
    graph.remove(report, image)     # those that go may read each other
    assert graph.prompt() == {}
