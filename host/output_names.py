"""Where a take's video goes: the user's name with ComfyUI's tokens filled in, below the output folder.

The tokens are those of ComfyUI's save nodes: what its page fills in for them (`%date:yyyy-MM-dd%`, `%Node.widget%`) and
what its server does (`%width%`, `%year%`, ...); here the server fills in both, so that API clients have them too.
A name that some system cannot have is refused on every system: workflows travel.
"""
import os
import re
import time
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths

from ..pipelines.safe_files import writing

LONGEST_NAME_BYTES, LONGEST_PATH_BYTES = 200, 900   # systems take 255 and 1024; a number and an ending follow
EXAMPLE = "such as lodestar/take"
TOKEN = re.compile("%([^%]+)%")
DATE_PART = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
DATE_FIELDS = {"d": "tm_mday", "M": "tm_mon", "h": "tm_hour", "m": "tm_min", "s": "tm_sec"}
CLOCK = {"year": "yyyy", "month": "MM", "day": "dd", "hour": "hh", "minute": "mm", "second": "ss"}
UNPRINTABLE = re.compile("[\0-\x1f\x7f\ud800-\udfff]")
RESERVED = re.compile('[<>:"|?*]')
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d\u00b9\u00b2\u00b3])\s*(\..*)?", re.IGNORECASE)


def fill_in(prefix: str, width: int, height: int, prompt: Mapping[str, Any], now: time.struct_time) -> str:
    """`prefix` with its tokens replaced. `prompt`: the queued graph. Raises ValueError for a node or widget it has not.

    Characters of a value that no name can have become `_`, as ComfyUI's page does it. Other text between percent signs
    stays as it is.
    """
    def value(match: re.Match) -> str:
        token = match[1]
        if token.startswith("date:"):
            return _safe(_date(token.removeprefix("date:"), now))
        if token in ("width", "height"):
            return str(width if token == "width" else height)
        if token in CLOCK:
            return _date(CLOCK[token], now)
        node, dot, widget = token.partition(".")
        return _safe(_widget(node, widget, prompt)) if dot and "." not in widget else match[0]

    return TOKEN.sub(value, prefix)


def _safe(text: str) -> str:
    return re.sub(r"[/\\]", "_", RESERVED.sub("_", UNPRINTABLE.sub("_", text)))


def _date(form: str, now: time.struct_time) -> str:
    def part(match: re.Match) -> str:
        text = match[0]
        if text[0] == "y":
            return {"yy": f"{now.tm_year % 100:02}", "yyyy": str(now.tm_year)}.get(text, text)
        return str(getattr(now, DATE_FIELDS[text[0]])).zfill(len(text))
    return DATE_PART.sub(part, form)


def _widget(node: str, widget: str, prompt: Mapping[str, Any]) -> str:
    """What a widget says, of the first node of that class or, where there is none, of that title."""
    named = [entry for entry in prompt.values() if entry.get("class_type") == node] or [
        entry for entry in prompt.values() if entry.get("_meta", {}).get("title") == node]
    found = named[0].get("inputs", {}).get(widget) if named else None
    if found is None or isinstance(found, (list, dict)):
        raise ValueError(f"filename_prefix: %{node}.{widget}% names {f'no widget of {node}' if named else 'no node'} "
                         "in this graph. Write the class or the title of a node and the name of one of its widgets, "
                         "such as %RandomNoise.noise_seed%, or leave it out")
    if isinstance(found, bool):
        return str(found).lower()
    return str(int(found)) if isinstance(found, float) and found.is_integer() else str(found)


def problem_of(prefix: str | None) -> str | None:
    """Why `prefix` cannot name a file below the output folder; None where it can. Tokens may still be in it."""
    if not isinstance(prefix, str):     # it comes by a link, or ComfyUI refuses it
        return None
    came = f"filename_prefix is {prefix if len(prefix) < 120 else prefix[:120] + '...'!r}"
    slashed = TOKEN.sub(_placeholder, prefix).replace("\\", "/")
    parts = slashed.split("/")
    if parts[-1].strip() in ("", ".", "..") or UNPRINTABLE.search(slashed):
        return f"{came}; it must name a file, {EXAMPLE}"
    if max(len(part.encode()) for part in parts) > LONGEST_NAME_BYTES or len(slashed.encode()) > LONGEST_PATH_BYTES:
        return f"{came}, too long for a file name; use a shorter one, {EXAMPLE}"
    output = Path(os.path.realpath(folder_paths.get_output_directory()))
    path = Path(os.path.realpath(output / slashed))
    if not path.is_relative_to(output):
        return f"{came}, which leaves ComfyUI's output folder; use a name {EXAMPLE}"
    if portable := _not_portable(parts):
        return f"{came}; {portable}. Use another name, {EXAMPLE}"
    return _why_blocked(came, output / slashed)


def _placeholder(match: re.Match) -> str:
    token = match[1]
    return "x" if token.startswith("date:") or token.count(".") == 1 else match[0]


def _not_portable(parts: list[str]) -> str | None:
    """Why some system could not have this path: Windows is the strict one."""
    if reserved := RESERVED.search("/".join(parts)):
        return f"Windows cannot have {reserved[0]!r} in a file name"
    for name in [*parts[:-1], f"{parts[-1]}_00001_.mp4"]:
        if DEVICE.fullmatch(name):
            return f"{name.split('.')[0]!r} is a device on Windows"
        if name not in (".", "..") and name != name.rstrip(". "):
            return f"Windows drops the dot or space at the end of {name!r}"
    return None


def _why_blocked(came: str, path: Path) -> str | None:
    """Why the nearest thing above `path` that is there does not let a file be made below it."""
    for parent in path.parents:
        try:
            os.stat(parent)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"{came}, a path that cannot be followed ({error}); use another name, {EXAMPLE}"
        if not parent.is_dir():
            return f"{came}, but {parent} is a file, no folder; use another name, {EXAMPLE}"
        if not os.access(parent, os.W_OK | os.X_OK):
            return f"{came}, but ComfyUI may not write into {parent}; see to its permissions, or use another name"
        return None
    return None


def free_paths(prefix: str, width: int, height: int) -> Iterator[Path]:
    """The free names for `prefix` (tokens filled in), numbered as ComfyUI's own nodes do; their folder is made.

    Another run can take one at any moment. Raises NotWritten where the folder cannot be made.
    """
    output = Path(folder_paths.get_output_directory())
    with writing(output / prefix):
        folder, name, first, _, _ = folder_paths.get_save_image_path(prefix.replace("\\", "/"), str(output), width,
                                                                     height)
    for number in count(first):
        yield Path(folder) / f"{name}_{number:05}_.mp4"


def subfolder_of(path: Path) -> str:
    """The folder of a file below the output folder, as ComfyUI's history and /view name it."""
    below = Path(os.path.relpath(path.parent, folder_paths.get_output_directory())).as_posix()
    return "" if below == "." else below
