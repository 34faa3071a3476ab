"""What a workflow's page is made of: groups in columns, nodes folded into one, and the text of its note."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    title: str
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Column:
    width: int
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Folded:
    """Nodes that become one: their ids in the API file are "<id>:…". `promoted`: the widgets that stay in sight."""
    id: int
    title: str
    columns: tuple[tuple[int, ...], ...]
    promoted: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """`title` and `line` stand on the thumbnail."""
    title: str
    line: str
    columns: tuple[Column, ...]
    note: str
    folded: Folded | None = None


OWN = ("**Yours:** a *Load Image* and a *Load Audio* node in place of *Sample Person*; shift-drag its outputs onto "
       "theirs. What *Plan Take* shows as 0 or -1 is the model's own: rate, chunk, overlap, and a size in the "
       "proportions of the picture.")


def note(what: str, files: tuple[str, ...], origin: str, card: str, time: str, result: str, more: str = "",
         yours: str = OWN, shown: str = "Long Take") -> str:
    """What it does, what it needs, how long it takes, where the result is."""
    listed = "\n".join(f"- {file}" for file in files)
    return "\n\n".join(filter(None, (
        what, f"**Files**, below ComfyUI's models folder, from {origin}:\n\n{listed}" if files else "",
        f"**Card:** {card}", f"**Time:** {time}",
        f"**Result:** output/lodestar/{result}_00001_.mp4, also shown in *{shown}*.", more, yours)))


def minutes(on_4090: str, on_h200: str) -> str:
    return f"about {on_4090} on a 4090, {on_h200} on an H200, for a minute of video (estimated, not measured)."
