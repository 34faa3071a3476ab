"""The files and values that a workflow in API format is given before it is queued: what demo.py and render.py share."""
import json
from pathlib import Path

from lib.environment import PACK
from lib.graph import Graph

ASSETS = PACK / "assets"


def with_loaders(graph: Graph) -> Graph:
    """The graph with Load Image and Load Audio, of the same files, where Sample Person brings them from the pack."""
    people = json.loads((ASSETS / "people.json").read_text(encoding="utf-8"))
    graph = Graph(graph.prompt())
    for person in graph.all("LodestarSamplePerson"):
        chosen = person.inputs.get("person")
        if not isinstance(chosen, str) or chosen not in people:
            raise ValueError(f"LodestarSamplePerson: person is {str(chosen)[:50]}, wanted one of {', '.join(people)}")
        files = people[chosen]
        for output, (kind, key, file) in enumerate((("LoadImage", "image", files["picture"]),
                                                    ("LoadAudio", "audio", files["speech"]))):
            if graph.readers(person[output]):
                graph.replace(person[output], graph.add(kind, **{key: file})[0])
        graph.remove(person)
    return graph


def set_file(graph: Graph, kind: str, key: str, chosen: Path | None, client) -> None:
    """Send `chosen`, else the bundled file that is named, and write its name on the server into the node that loads it.

    A workflow's own files are left alone: without `chosen`, only nodes that name a bundled file are touched.
    """
    loaders = graph.all(kind)
    targets = [node for node in loaders if own_file(node.inputs.get(key))]
    if chosen and not targets:
        if len(loaders) != 1:
            raise ValueError(f"{chosen.name} goes into the one {kind} node, and this workflow has {len(loaders)}: name "
                             f"a file of {ASSETS} in the node that is meant")
        targets = loaders
    for node in targets:
        node.set(**{key: client.upload(chosen or own_file(node.inputs[key]))})


def own_file(name: object) -> Path | None:
    """The pack's own file of that name."""
    path = ASSETS / Path(name if isinstance(name, str) and name else "none").name
    return path if path.name == name and path.is_file() else None


def set_seconds(graph: Graph, seconds: float) -> None:
    plans = graph.all("LodestarPlanTake")
    if not plans:
        raise ValueError("seconds is max_seconds of the LodestarPlanTake node, and this workflow has none")
    for node in plans:
        node.set(max_seconds=seconds)
