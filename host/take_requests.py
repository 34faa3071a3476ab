"""What a user asks of a take while it is made: to stop after this chunk, or to keep its chunks.

A request is an empty file in the take's own folder, so it needs no state here and reaches a run of any server; the page
has a route that makes one. A take that was stopped is gone on with when it is queued again: its stops are counted in a
file beside its folder, so that ComfyUI does not take the part for the whole; and in this process, whose cache may have
the part when that file was cleaned away.
"""
import re
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ..pipelines.safe_files import writing
from ..pipelines.take.manifest import MANIFEST
from ..pipelines.take.take_folders import REQUESTS, STOPS, TAKES

_counted: dict[Path, int] = {}


def takes_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / TAKES


def folder_name(prefix: str) -> str:
    """How the folders of a take begin that a user calls `prefix`."""
    return re.sub(r"[^\w-]+", "_", prefix).strip("_")[:64]


def count_stops(prefix: str) -> str:
    """How often takes of that name were stopped, as text; "" for never."""
    path = _stops(prefix)
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    return str(max(int(text) if text.isdecimal() else 0, _counted.get(path, 0)) or "")


def add_stop(prefix: str) -> None:
    """Raises NotWritten."""
    path = _stops(prefix)
    _counted[path] = int(count_stops(prefix) or 0) + 1
    with writing(path):
        path.write_text(str(_counted[path]), encoding="utf-8")


def _stops(prefix: str) -> Path:
    return takes_folder() / f"{folder_name(prefix)}{STOPS}"


def make_request(folder: str, request: str) -> bool:
    """Put a request to the take whose folder the page was given; False where there is none. Raises NotWritten."""
    name = folder.removeprefix(f"{TAKES}/")
    path = takes_folder() / name
    if request not in REQUESTS or folder == name or not re.fullmatch(r"[\w.-]{1,255}", name) or not name.strip("."):
        return False
    if not path.is_dir() or not any((path / file).exists() for file in (MANIFEST, "lock")):
        return False
    with writing(path / request):
        (path / request).touch()
    return True


def add_routes() -> None:
    """POST /lodestar/take {"folder", "request"}, beside ComfyUI's own routes."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.post("/lodestar/take")
    async def ask(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            made = make_request(str(body["folder"]), str(body["request"]))
        except (ValueError, KeyError, TypeError):
            return web.json_response({"error": "wanted {folder, request}"}, status=400)
        return web.json_response({"made": made}, status=200 if made else 404)
