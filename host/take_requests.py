"""What a user asks of a take while it is made: to stop after this chunk, or to keep its chunks.

A request is an empty file in the take's own folder, so it needs no state here and reaches a run of any server; the page
has a route that makes one. A take that was stopped is gone on with when it is queued again: its stops are counted in a
file beside its folder, so that ComfyUI does not take the part for the whole.
"""
import re
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ..pipelines.safe_files import writing
from ..pipelines.take.manifest import MANIFEST
from ..pipelines.take.take_folders import REQUESTS, TAKES


def takes_folder() -> Path:
    return Path(folder_paths.get_output_directory()) / TAKES


def folder_name(prefix: str) -> str:
    """How the folders of a take begin that a user calls `prefix`."""
    return re.sub(r"[^\w-]+", "_", prefix).strip("_")[:64]


def count_stops(prefix: str) -> str:
    """How often takes of that name were stopped, as text; "" for never."""
    path = _stops(prefix)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def add_stop(prefix: str) -> None:
    """Raises NotWritten."""
    count = int(count_stops(prefix) or 0) + 1
    with writing(_stops(prefix)):
        _stops(prefix).write_text(str(count), encoding="utf-8")


def _stops(prefix: str) -> Path:
    return takes_folder() / f"{folder_name(prefix)}.stops"


def make_request(folder: str, request: str) -> bool:
    """Put a request to the take whose folder the page was given; False where there is none. Raises NotWritten."""
    path = takes_folder() / Path(folder).name
    if request not in REQUESTS or folder != f"{TAKES}/{path.name}" or not path.is_dir() or \
            not any((path / name).exists() for name in (MANIFEST, "lock")):
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
