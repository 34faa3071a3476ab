"""Jobs: which videos to make, of which picture and speech, read from a table or a folder, and made into graphs.

A job is known by a digest of all that goes into it, files by their bytes, so that it is made once whoever asks and
however often: its name on the server holds the digest.
"""
import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib.environment import PACK
from lib.graph import Graph, Node
from lib.workflow_inputs import set_file, set_seconds, with_loaders

COLUMNS = ("name", "picture", "speech", "workflow", "script", "seed", "seconds")
UPLOADS = {"LoadImage": "image", "LoadAudio": "audio", "LoadVideo": "file"}   # inputs that name a file to be sent
PICTURES, SOUNDS = (".png", ".jpg", ".jpeg", ".webp"), (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".opus")
TAKES = ("LodestarLongTake", "LodestarRefineTake")      # nodes that write the video
FOLDER = "lodestar_jobs"                                # below the server's output folder
DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One video. Paths are absolute; what is None or "" is left as the workflow has it."""
    name: str
    workflow: Path
    picture: Path | None = None
    speech: Path | None = None
    script: str = ""
    seed: int | None = None
    seconds: float | None = None
    values: tuple[tuple[str, str], ...] = ()    # (CLASS.INPUT or ID.INPUT, text) of further columns

    def digest(self) -> str:
        """SHA-256 in hex of everything that goes into it, but not of its name. OSError where a file is not there."""
        parts: list[Any] = [json.loads(self.workflow.read_text(encoding="utf-8")), self.script, self.seed, self.seconds]
        parts += [None if path is None else sum_of(path) for path in (self.picture, self.speech)]
        graph = Graph.read(self.workflow)
        for column, text in self.values:
            node, name = find_input(graph, column)
            parts.append([column, sum_of(Path(text)) if UPLOADS.get(node.kind) == name else text])
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def prefix(self, digest: str) -> str:
        """Its filename_prefix."""
        return f"{FOLDER}/{self.name}-{digest[:16]}"

    def graph(self, client, digest: str) -> Graph:
        """What to queue; files are sent to `client`. Raises ValueError where the workflow has no place for a value."""
        graph = Graph.read(self.workflow)
        if self.picture or self.speech:
            graph = with_loaders(graph)
        set_file(graph, "LoadImage", "image", self.picture, client)
        set_file(graph, "LoadAudio", "audio", self.speech, client)
        if self.script:
            graph.the("LodestarPlanTake").set(script=self.script)
        if self.seed is not None:
            node, name = seed_input(graph)
            node.set(**{name: self.seed})
        if self.seconds is not None:
            set_seconds(graph, self.seconds)
        for column, text in self.values:
            node, name = find_input(graph, column)
            is_file = UPLOADS.get(node.kind) == name
            node.set(**{name: client.upload(Path(text)) if is_file else value_of(text, node.inputs[name], column)})
        for node in graph.all(*TAKES):
            last = node.id == self.last_take(graph)
            node.set(filename_prefix=self.prefix(digest) if last else f"{self.prefix(digest)}-{node.id}")
        return graph

    @staticmethod
    def last_take(graph: Graph) -> str:
        """The id of the node that writes the job's video. ValueError where there is none, or it is not clear which."""
        takes = graph.all(*TAKES)
        last = [node for node in takes if not graph.readers(node)] if len(takes) > 1 else takes
        if len(last) > 1:   # a take that is refined comes before its refinement
            last = graph.all("LodestarRefineTake")
        if len(last) != 1:
            raise ValueError(f"the workflow has {len(takes) or 'no'} node that writes a video, wanted one Long Take or "
                             "Refine Take")
        return last[0].id

    def check(self) -> None:
        """Raise ValueError or OSError for what would not work on any server, before one is asked."""
        class Names:
            upload = staticmethod(lambda path: Path(path).name)
        self.last_take(self.graph(Names, self.digest()))


def seed_input(graph: Graph) -> tuple[Node, str]:
    """The node that has the graph's seed, and its input. ValueError where there is none, or more than one."""
    found = [(node, name) for node in graph.nodes() for name in ("noise_seed", "seed")
             if isinstance(node.inputs.get(name), int)]
    if len(found) != 1:
        raise ValueError(f"seed: the workflow has {len(found) or 'no'} nodes with a seed, wanted one; use a column "
                         "such as RandomNoise.noise_seed")
    return found[0]


def find_input(graph: Graph, column: str) -> tuple[Node, str]:
    """The node and the input that a column means: CLASS.INPUT, or ID.INPUT. Raises ValueError."""
    node_name, _, name = column.partition(".")
    found = [node for node in graph.nodes() if node_name in (node.kind, node.id)]
    if len(found) != 1:
        many = f"{len(found) or 'no'} such node{'s' * (len(found) > 1)}"
        raise ValueError(f"{column}: the workflow has {many}, wanted one")
    if name not in found[0].inputs:
        raise ValueError(f"{column}: {found[0].kind} has no input {name} in the workflow; it has "
                         f"{', '.join(found[0].inputs)}")
    if isinstance(found[0].inputs[name], list):
        raise ValueError(f"{column}: that input comes from another node")
    return found[0], name


def value_of(text: str, before: Any, column: str) -> Any:
    """`text` as what the workflow has there: text, a number, or true and false. Raises ValueError."""
    try:
        if isinstance(before, bool):
            return {"true": True, "false": False}[text.lower()]
        return type(before)(text) if isinstance(before, int | float) else text
    except (KeyError, ValueError):
        raise ValueError(f"{column}: got {text!r}, wanted {'true or false' if isinstance(before, bool) else 'a number'}"
                         ) from None


def sum_of(path: Path) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


# ---------------------------------------------------------------- where jobs are read from

def read_jobs(source: Path, workflow: Path) -> list[Job]:
    """The jobs of a table (CSV) or a folder, in order. Raises ValueError with a line for everything that is wrong."""
    rows = rows_of_folder(source) if source.is_dir() else rows_of_table(source)
    jobs, problems, names = [], [], set()
    for place, row in rows:
        try:
            job = job_of(row, source if source.is_dir() else source.parent, workflow)
            if job.name.lower() in names:
                raise ValueError(f"a second job is called {job.name}")
            names.add(job.name.lower())
            job.check()
            jobs.append(job)
        except (ValueError, OSError) as error:
            problems.append(f"{place}: {error}")
    if not jobs and not problems:
        problems.append(f"{source.name}: there is no job in it")
    if problems:
        raise ValueError("\n".join(problems))
    return jobs


def rows_of_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Comma, semicolon or tab between the columns, as the first line has it; UTF-8, with or without a mark."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        between = max(",;\t", key=head.count)
        reader = csv.DictReader(file, delimiter=between, restkey="", strict=True)
        columns = [(column or "").strip() for column in reader.fieldnames or ()]
        if unknown := [column for column in columns if column not in COLUMNS and "." not in column]:
            raise ValueError(f"{path.name}: unknown column {', '.join(map(repr, unknown))}; there are "
                             f"{', '.join(COLUMNS)} and NODE.INPUT, such as LodestarPlanTake.width")
        reader.fieldnames = columns
        try:
            for row in reader:
                if row.pop("", None):
                    raise ValueError(f"{path.name}, line {reader.line_num}: it has more values than there are columns; "
                                     "put text with a comma between quotes")
                values = {key: (value or "").strip() for key, value in row.items()}
                if any(values.values()):
                    yield f"{path.name}, line {reader.line_num}", values
        except csv.Error as error:
            raise ValueError(f"{path.name}, line {reader.line_num}: {error}") from None


def rows_of_folder(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A job per sound file: its picture has the same name, or is the only one; so has its script, as .txt.

    workflow.json in the folder is the workflow of all.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    own = folder / "workflow.json"
    for speech in (path for path in files if path.suffix.lower() in SOUNDS):
        same = [path for path in pictures if path.stem == speech.stem] or (pictures if len(pictures) == 1 else [])
        row = {"name": speech.stem, "speech": speech.name, "picture": same[0].name if same else "",
               "script": f"{speech.stem}.txt" if (folder / f"{speech.stem}.txt").is_file() else "",
               "workflow": own.name if own.is_file() else ""}
        if pictures and not same:
            raise ValueError(f"{speech.name}: none of the {len(pictures)} pictures is called {speech.stem}")
        yield speech.name, row


def job_of(row: dict[str, str], folder: Path, workflow: Path) -> Job:
    """A row of the table; paths in it begin at `folder`. Raises ValueError."""
    def file(column: str) -> Path | None:
        if not row.get(column):
            return None
        path = (folder / Path(row[column]).expanduser()).resolve()
        if not path.is_file():
            raise ValueError(f"{column}: {path} is no file")
        return path

    speech, script = file("speech"), row.get("script", "")
    if script.lower().endswith(".txt") and "\n" not in script:
        script = (file("script") or Path()).read_text(encoding="utf-8-sig")
    job = Job(row.get("name") or (speech.stem if speech else ""), file("workflow") or workflow, file("picture"), speech,
              script.strip(), number(row, "seed", int), number(row, "seconds", float))
    check_name(job.name)
    check_workflow(job.workflow)
    graph, values = Graph.read(job.workflow), []
    for column in (column for column in row if "." in column and row[column]):
        node, name = find_input(graph, column)
        is_file = UPLOADS.get(node.kind) == name
        values.append((column, str(file(column)) if is_file else row[column]))
    return replace(job, values=tuple(values))


def number(row: dict[str, str], column: str, kind: type) -> Any:
    """A number of the row that is not negative, or None."""
    if not row.get(column):
        return None
    try:
        value = kind(row[column])
    except ValueError:
        value = -1
    if not 0 <= value < (2 ** 64 if kind is int else float("inf")) or (column == "seconds" and not value):
        wanted = "a whole number" if kind is int else "seconds above 0"
        raise ValueError(f"{column}: got {row[column]!r}, wanted {wanted}")
    return value


def check_name(name: str) -> None:
    if not re.fullmatch(r"[\w][\w .+-]{0,99}", name) or name != name.rstrip(". ") or DEVICES.fullmatch(name):
        raise ValueError(f"name: got {name!r}, wanted letters, digits, spaces, '.', '+', '-' and '_', as every "
                         "system can have them")


def check_workflow(path: Path) -> None:
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"workflow: {path} is no JSON ({error})") from None
    if isinstance(graph, dict) and "nodes" in graph:
        raise ValueError(f"workflow: {path} is what the page saves; export it in API format (ComfyUI: Workflow > "
                         f"Export (API)), or use one of {PACK / 'workflows' / 'api'}")
    if not (isinstance(graph, dict) and graph and all(
            isinstance(node, dict) and {"class_type", "inputs"} <= set(node) for node in graph.values())):
        raise ValueError(f"workflow: {path} is no workflow in API format")
