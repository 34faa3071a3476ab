"""Where other programs of this machine send speech to a live take: POST, or a websocket, at /lodestar/live/NAME.

16-bit PCM goes in as it comes. Nothing is remembered here: what is sent is appended to the channel's file, which is
there only while a take has it open. Other machines are refused.
"""
import ipaddress
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from aiohttp import WSMsgType, web
from server import PromptServer

from ..pipelines.take.live_source import END, REPLACE, SOUND, put_record
from .live_sources import channel_file

PIECE_BYTES = 1 << 16


def add_live_routes() -> None:
    """Beside ComfyUI's own, where there is a server."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return

    @server.routes.post("/lodestar/live/{name}")
    async def post(request: web.Request) -> web.Response:
        return await receive(request)

    @server.routes.get("/lodestar/live/{name}")
    async def get(request: web.Request) -> web.StreamResponse:
        return await converse(request)


async def receive(request: web.Request) -> web.Response:
    """POST: the body is sound. `?rate=16000&channels=1`; with `replace=1` what is queued is dropped, with `end=1` the
    take ends behind it."""
    path = allowed_channel(request)
    kind = REPLACE if request.query.get("replace") == "1" else SOUND
    sent = 0
    try:
        rate, channels = form_of(request)
        async for data in whole_samples(request.content.iter_chunked(PIECE_BYTES), 2 * channels):
            put_record(path, kind, data, rate, channels)
            kind, sent = SOUND, sent + len(data)
        if kind == REPLACE:
            put_record(path, kind)
        if request.query.get("end") == "1":
            put_record(path, END)
    except FileNotFoundError as error:
        raise web.HTTPNotFound(text=nobody(request)) from error
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    return web.json_response({"samples": sent // (2 * channels)})


async def converse(request: web.Request) -> web.StreamResponse:
    """A websocket: binary messages are sound, the texts `replace` (what is queued is dropped) and `end`."""
    path = allowed_channel(request)
    try:
        rate, channels = form_of(request)
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    with suppress(FileNotFoundError):       # the take is over
        async for message in socket:
            try:
                if message.type == WSMsgType.BINARY:
                    put_record(path, SOUND, message.data, rate, channels)
                elif message.type == WSMsgType.TEXT and message.data in ("replace", "end"):
                    put_record(path, REPLACE if message.data == "replace" else END)
            except ValueError as error:
                await socket.send_json({"error": str(error)})
    await socket.close()
    return socket


def allowed_channel(request: web.Request) -> Path:
    """The file of a channel that a take of this machine has open."""
    if not is_local(request.remote):
        raise web.HTTPForbidden(text="speech is taken from this machine alone")
    try:
        path = channel_file(request.match_info["name"])
    except ValueError as error:
        raise web.HTTPBadRequest(text=str(error)) from error
    if not path.is_file():
        raise web.HTTPNotFound(text=nobody(request))
    return path


def nobody(request: web.Request) -> str:
    name = request.match_info["name"]
    return f"no Live Take with the source live:{name} is running. Queue one, then send"


def is_local(address: str | None) -> bool:
    with suppress(ValueError):
        found = ipaddress.ip_address(address or "")
        return (getattr(found, "ipv4_mapped", None) or found).is_loopback
    return False


def form_of(request: web.Request) -> tuple[int, int]:
    """Sample rate and channels of what is sent. Raises ValueError."""
    try:
        return int(request.query.get("rate", "16000")), int(request.query.get("channels", "1"))
    except ValueError as error:
        raise ValueError(f"rate, channels: wanted whole numbers, as in ?rate=16000&channels=1 ({error})") from error


async def whole_samples(pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """The bytes in pieces of whole frames of `size`; what is left at the end belongs to none."""
    rest = b""
    async for piece in pieces:
        data = rest + piece
        whole = len(data) // size * size if size > 0 else len(data)
        rest = data[whole:]
        if whole:
            yield data[:whole]
