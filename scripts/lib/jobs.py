"""Jobs: which videos to make, of which picture and speech, read from a table or a folder, and made into graphs.

A job is known by a digest of all that goes into it, files by their bytes, so that it is made once whoever asks and
however often: its name on the server holds the digest.
"""
import csv
import hashlib
import io
import json
import math
import re
import unicodedata
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
SAID = 50                                               # problems that are listed
FOLDER = "lodestar_jobs"                                # below the server's output folder
SEPARATOR = re.compile(r"sep=.\s*$", re.IGNORECASE)      # a line that Excel writes and reads before the others
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
        parts: list[Any] = [Graph.read(self.workflow).prompt(), self.script, self.seed, self.seconds]
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
        for path in self.files():
            with open(path, "rb"):
                pass
        self.last_take(self.graph(Names, ""))

    def files(self) -> list[Path]:
        """All that it is made of."""
        graph = Graph.read(self.workflow)
        named = [(find_input(graph, column), text) for column, text in self.values]
        return [self.workflow, *filter(None, (self.picture, self.speech)),
                *(Path(text) for (node, name), text in named if UPLOADS.get(node.kind) == name)]


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
        value = type(before)(text) if isinstance(before, int | float) else text
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
        return value
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
            if job.name.casefold() in names:
                raise ValueError(f"a second job is called {job.name}")
            names.add(job.name.casefold())
            job.check()
            jobs.append(job)
        except (ValueError, OSError) as error:
            problems.append(f"{place}: {error}")
    if not jobs and not problems:
        problems.append(f"{source.name}: there is no job in it")
    if problems:
        more = len(problems) - SAID
        raise ValueError("\n".join([*problems[:SAID], *([f"and {more} more like these"] if more > 0 else [])]))
    return jobs


def read_utf8(path: Path) -> str:
    """A file's text, without the mark that some systems put before it. ValueError where it is other than UTF-8."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path.name}, line {line}: it is not UTF-8; save it as UTF-8 (Excel: CSV UTF-8)") from None


def rows_of_table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Comma, semicolon or tab between the columns, as the first line has it; UTF-8, with or without a mark."""
    lines = list(io.StringIO(read_utf8(path), newline=""))
    before = next((number for number, line in enumerate(lines) if line.strip() and not SEPARATOR.match(line)), 0)
    between = max(",;\t", key="".join(lines[before:before + 1]).count)
    reader = csv.DictReader(lines[before:], delimiter=between, restkey="", strict=True)
    try:
        reader.fieldnames = check_columns([column or "" for column in reader.fieldnames or ()], path.name)
        for row in reader:
            place = f"{path.name}, line {before + reader.line_num}"
            if any(text.strip() for text in row.pop("", ())):
                raise ValueError(f"{place}: it has more values than there are columns; put text with a comma between "
                                 "quotes")
            values = {key: (value or "").strip() for key, value in row.items()}
            if any(values.values()):
                yield place, values
    except csv.Error as error:
        raise ValueError(f"{path.name}, from line {before + reader.line_num + 1} on: {error}") from None


def check_columns(found: list[str], table: str) -> list[str]:
    """Their names as we call them. Raises ValueError for one that means nothing, or stands there twice."""
    names = [name.strip().lower() if name.strip().lower() in COLUMNS else name.strip() for name in found]
    while names and not names[-1]:      # a separator at the end of the line
        names.pop()
    if unknown := [name for name in names if name not in COLUMNS and "." not in name]:
        raise ValueError(f"{table}: unknown column {', '.join(map(repr, unknown))}; there are {', '.join(COLUMNS)} and "
                         "NODE.INPUT, such as LodestarPlanTake.width")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{table}: column {', '.join(sorted(twice))} stands there twice")
    return names


def rows_of_folder(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A job per sound file: its picture has the same name, or is the only one; so has its script, as .txt.

    workflow.json in the folder is the workflow of all.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in files if path.suffix.lower() in PICTURES]
    own = folder / "workflow.json"
    for speech in (path for path in files if path.suffix.lower() in SOUNDS):
        same = [path for path in pictures if path.stem == speech.stem] or (pictures if len(pictures) == 1 else [])
        row = {"name": speech.stem, "speech": speech.name, "picture": same[0].name if same else "",
               "script": f"{speech.stem}.txt" if (folder / f"{speech.stem}.txt").is_file() else "",
               "workflow": own.name if own.is_file() else ""}
        if len(same) != 1 and pictures:
            raise ValueError(f"{speech.name}: {len(same) or 'none'} of the {len(pictures)} pictures "
                             f"{'are' if same else 'is'} called {speech.stem}")
        yield speech.name, row


def job_of(row: dict[str, str], folder: Path, workflow: Path) -> Job:
    """A row of the table; paths in it begin at `folder`. Raises ValueError."""
    def file(column: str) -> Path | None:
        if not row.get(column):
            return None
        path = folder / Path(row[column]).expanduser()
        if "\0" in row[column] or not path.resolve().is_file():
            raise ValueError(f"{column}: {path} is no file")
        return path.resolve()

    speech, script = file("speech"), row.get("script", "")
    if script.lower().endswith(".txt") and "\n" not in script:
        script = read_utf8(file("script") or Path())
    name = unicodedata.normalize("NFC", row.get("name") or (speech.stem if speech else ""))    # as only some systems do
    job = Job(name, file("workflow") or workflow, file("picture"), speech,
              script.strip(), number(row, "seed", int), number(row, "seconds", float))
    check_name(job.name)
    check_workflow(job.workflow)
    graph, values = Graph.read(job.workflow), []
    for column in (column for column in row if "." in column and row[column]):
        node, name = find_input(graph, column)
        if name == "filename_prefix" and node.kind in TAKES:
            raise ValueError(f"{column}: the video is called by the column name")
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
        wanted = "a whole number" if kind is int else "seconds above 0, such as 2.5"
        raise ValueError(f"{column}: got {row[column][:50]!r}, wanted {wanted}")
    return value


def check_name(name: str) -> None:
    if not re.fullmatch(r"[\w][\w .+-]{0,99}", name) or name != name.rstrip(". ") or DEVICES.fullmatch(name):
        raise ValueError(f"name: got {name!r}, wanted letters, digits, spaces, '.', '+', '-' and '_', as every "
                         "system can have them")


def check_workflow(path: Path) -> None:
    try:
        graph = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"workflow: {path} is no JSON ({error})") from None
    if isinstance(graph, dict) and "nodes" in graph:
        raise ValueError(f"workflow: {path} is what the page saves; export it in API format (ComfyUI: Workflow > "
                         f"Export (API)), or use one of {PACK / 'workflows' / 'api'}")
    if not (isinstance(graph, dict) and graph and all(
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
            for node in graph.values())):
        raise ValueError(f"workflow: {path} is no workflow in API format")
