"""What determines a chunk, by name, so that a finished one is used again only where nothing about it changed.

Values are taken where they are at hand; what cannot be read (model weights, samplers) is named by the part of the
queued prompt that made it, together with the size and time of every file that part names.
"""
import json
from collections.abc import Callable, Iterable, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from torch import Tensor

from .journal import digest

Prompt = Mapping[str, Mapping[str, Any]]   # node id -> {"class_type", "inputs"}, ComfyUI's API format


def fingerprint(value: Any) -> str:
    """A digest of tensors, numbers, text and any nest of lists and dicts of them; other objects count by their type."""
    if isinstance(value, Tensor):
        return digest(value.detach().cpu())
    if isinstance(value, Mapping):
        return digest("dict", *(part for key in sorted(value, key=str) for part in (str(key), fingerprint(value[key]))))
    if isinstance(value, (list, tuple)):
        return digest("list", *(fingerprint(entry) for entry in value))
    if value is None or isinstance(value, (str, Number)):
        return digest(repr(value))
    return digest(type(value).__name__)


def ancestry(prompt: Prompt, node_id: str, inputs: Iterable[str]) -> dict[str, Any]:
    """Everything upstream of some inputs of a node, free of node ids: the same graph gives the same answer."""
    def of(link: Any) -> Any:
        if not (isinstance(link, (list, tuple)) and len(link) == 2 and str(link[0]) in prompt):
            return link
        node = prompt[str(link[0])]
        return {"class": node["class_type"], "output": link[1],
                "inputs": {name: of(value) for name, value in sorted(node["inputs"].items())}}

    own = prompt.get(node_id, {}).get("inputs", {})
    return {name: of(own[name]) for name in inputs if name in own}


def files_named_in(graph: Any, locate: Callable[[str], Path | None]) -> dict[str, str]:
    """{text in the graph that names a file: that file's size and modification time}."""
    if isinstance(graph, Mapping):
        graph = list(graph.values())
    if isinstance(graph, (list, tuple)):
        return {name: stamp for entry in graph for name, stamp in files_named_in(entry, locate).items()}
    path = locate(graph) if isinstance(graph, str) and graph else None
    if path is None:
        return {}
    found = path.stat()
    return {graph: f"{found.st_size} bytes, {found.st_mtime_ns}"}


def graph_contract(prompt: Prompt, node_id: str, inputs: Iterable[str], locate: Callable[[str], Path | None]
                   ) -> dict[str, str]:
    """{input: digest of the graph above it and of the files it names}, for a node of a queued prompt."""
    graph = ancestry(prompt, node_id, inputs)
    return {name: digest(json.dumps([above, files_named_in(above, locate)], sort_keys=True, default=str))
            for name, above in graph.items()}
