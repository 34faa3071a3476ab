"""A ComfyUI graph in API format, as commands and tests build and edit it: nodes by class, links as `node[output]`."""
import copy
import json
from pathlib import Path
from typing import Any

Prompt = dict[str, dict[str, Any]]      # {node id: {"class_type", "inputs", "_meta"}}, what POST /prompt takes


class Node:
    """One node of a graph. `node[0]` is the link to its first output, which an input takes as its value."""

    __iter__ = None     # else Python would count its outputs without end

    def __init__(self, graph: "Graph", id: str):
        self.graph, self.id = graph, id

    def __getitem__(self, output: int) -> list:
        return [self.id, output]

    @property
    def kind(self) -> str:
        """Its class: `node_id` in the schema, `class_type` in the prompt."""
        return self.graph.entries[self.id]["class_type"]

    @property
    def inputs(self) -> dict[str, Any]:
        """Values and links by name; a change of it is a change of the graph."""
        return self.graph.entries[self.id]["inputs"]

    def set(self, **inputs: Any) -> "Node":
        self.inputs.update(inputs)
        return self

    def unset(self, *names: str) -> "Node":
        """Take inputs away. KeyError for one that is not there."""
        for name in names:
            del self.inputs[name]
        return self

    def source(self, name: str) -> "Node":
        """The node that the input's link comes from."""
        return Node(self.graph, self.inputs[name][0])

    def become(self, kind: str, **inputs: Any) -> "Node":
        """The same node, with its links to others, of another class and with other inputs."""
        self.graph.entries[self.id].update(class_type=kind, inputs=inputs)
        return self


class Graph:
    """Nodes in order. It is built of a copy of `prompt`."""

    def __init__(self, prompt: Prompt | None = None):
        self.entries: Prompt = copy.deepcopy(prompt or {})

    @classmethod
    def read(cls, path: str | Path) -> "Graph":
        """Of an API-format file."""
        graph = cls()
        graph.entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        return graph

    def prompt(self) -> Prompt:
        """A copy, for POST /prompt or a file."""
        return copy.deepcopy(self.entries)

    def nodes(self) -> list[Node]:
        return [Node(self, id) for id in self.entries]

    def all(self, *kinds: str) -> list[Node]:
        """The nodes of these classes, in order; there may be none."""
        return [node for node in self.nodes() if node.kind in kinds]

    def the(self, kind: str) -> Node:
        """The one node of a class. ValueError where there is none, or more than one."""
        found = self.all(kind)
        if len(found) != 1:
            raise ValueError(f"the graph has {len(found) or 'no'} {kind} node{'s' * (len(found) > 1)}, wanted one; it "
                             f"has {', '.join(sorted({node.kind for node in self.nodes()})) or 'no node at all'}")
        return found[0]

    def having(self, name: str) -> Node:
        """The one node that has an input of that name. ValueError where there is none, or more than one."""
        found = [node for node in self.nodes() if name in node.inputs]
        if len(found) != 1:
            raise ValueError(f"{name} is an input of {len(found) or 'no'} node{'s' * (len(found) != 1)}, wanted one")
        return found[0]

    def add(self, kind: str, /, **inputs: Any) -> Node:
        """One more node, entitled by its class, under the next number."""
        id = str(max((int(id) for id in self.entries if id.isdecimal()), default=0) + 1)
        self.entries[id] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
        return Node(self, id)

    def replace(self, link: list, other: Any) -> None:
        """Give every input that reads `link` another link, or a value."""
        for node in self.nodes():
            node.set(**{name: other for name, value in node.inputs.items() if value == link})

    def readers(self, source: Node | list) -> list[Node]:
        """The nodes that read a link, or any output of a node."""
        links = source if isinstance(source, list) else [source.id]
        return [other for other in self.nodes()
                if any(isinstance(value, list) and value[:len(links)] == links for value in other.inputs.values())]

    def remove(self, *nodes: Node) -> None:
        """Take nodes away. ValueError where one that stays reads them."""
        for node in nodes:
            if left := [other for other in self.readers(node) if other.id not in {gone.id for gone in nodes}]:
                raise ValueError(f"{node.kind} (node {node.id}) is read by {', '.join(one.kind for one in left)}: "
                                 "replace its links first")
        for node in nodes:
            del self.entries[node.id]
