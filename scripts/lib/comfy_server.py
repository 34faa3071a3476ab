"""A ComfyUI server as a context manager, and a small client for any server: what all commands and the tests use.

Plain HTTP from the standard library; websocket-client (in the scripts' environment) is imported to follow a prompt.
"""
import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.environment import PACK, link_or_copy

OnEvent = Callable[[str, dict], None]
PROGRESS_TEXT = (3).to_bytes(4, "big")   # what a binary message with a node's line of text begins with
SILENCE = ""                             # the kind of the message that there was none for a second
UPLOAD_MB = 4096                         # the longest file that a server of ours is sent
LOOK_SECONDS = 5                         # of silence, after which the server is asked whether the prompt is over


class PromptRefused(ValueError):
    """POST /prompt answered 400. `body` is the server's answer, the message names each node and input."""

    def __init__(self, body: dict):
        self.body = body
        self.node_errors: dict = body.get("node_errors") or {}
        lines = [f"{found['class_type']} (node {node}): {error['message']}: {error['details']}".rstrip(": ")
                 for node, found in self.node_errors.items() for error in found["errors"]]
        error = body.get("error") or {}
        whole = f"{error.get('message', '')}: {error.get('details', '')}" if isinstance(error, dict) else str(error)
        super().__init__("\n".join(lines) or whole.strip(": ") or json.dumps(body))


class PromptFailed(RuntimeError):
    """A node raised while the prompt ran. `data` is the server's execution_error."""

    def __init__(self, data: dict):
        self.data = data
        self.node_type, self.exception_type = data["node_type"], data["exception_type"]
        super().__init__(f"{self.node_type} (node {data['node_id']}): {data['exception_message'].strip()}")


class PromptCancelled(RuntimeError):
    """Somebody pressed Cancel, or POSTed /interrupt, while the prompt ran."""


class ServerGone(RuntimeError):
    """The server does not answer, did not start, or ended while it was needed."""


class Forgotten(ServerGone):
    """The server was started again: it answers, and the prompt is to be queued again."""


class Queued(NamedTuple):
    """A prompt in a server's queue."""
    prompt_id: str
    client_id: str      # whose connection is sent what happens


class Client:
    """A ComfyUI server at `url`, running anywhere."""

    def __init__(self, url: str):
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self.client_id = str(uuid.uuid4())

    def request(self, path: str, body: bytes | None = None, content_type: str = "application/json") -> bytes:
        """The answer's bytes: GET, or POST when there is a body. Raises urllib's HTTPError, or ServerGone."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type} if body else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            raise ServerGone(f"no ComfyUI answers at {self.url}: {error}") from error

    def get(self, path: str):
        return json.loads(self.request(path))

    def post(self, path: str, data: dict) -> dict:
        return json.loads(self.request(path, json.dumps(data).encode()) or b"{}")

    def upload(self, path: Path) -> str:
        """Send any input file, picture or sound; returns its name in the server's input folder, overwriting none.
        Raises ValueError for one that is longer than the server takes."""
        boundary = uuid.uuid4().hex
        name = path.name.replace("\\", "_").replace('"', "_").replace("\n", "_").replace("\r", "_")
        head = (f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n")
        body = head.encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        try:
            answer = json.loads(self.request("/upload/image", body, f"multipart/form-data; boundary={boundary}"))
        except urllib.error.HTTPError as error:
            if error.code != 413:
                raise
            raise ValueError(f"{path.name} has {len(body) / 1e6:.0f} MB, more than {self.url} takes: start that "
                             f"ComfyUI with --max-upload-size {len(body) // 10 ** 6 + 1}, in MB") from None
        return "/".join(filter(None, (answer["subfolder"], answer["name"])))

    def queue(self, prompt: dict, workflow: dict | None = None) -> str:
        """Queue an API-format prompt; returns its id. Raises PromptRefused."""
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        body = {"prompt": prompt, "client_id": self.client_id, "extra_data": extra}
        try:
            return self.post("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise PromptRefused(json.loads(error.read())) from None

    def run(self, prompt: dict, on_event: OnEvent | None = None, timeout_seconds: float = float("inf"),
            workflow: dict | None = None) -> dict:
        """Queue, follow to the end, return the history entry. `on_event(type, data)` sees every message on the way.

        Raises PromptRefused, PromptFailed, PromptCancelled, ServerGone or TimeoutError. Whatever ends the wait early
        takes the prompt off the server as well.
        """
        with contextlib.ExitStack() as unless_queued:
            messages = unless_queued.enter_context(contextlib.closing(self._websocket()))
            prompt_id = self.queue(prompt, workflow)
            unless_queued.pop_all()
        return self._follow(prompt_id, messages, on_event, timeout_seconds)

    def attach(self, queued: "Queued", on_event: OnEvent | None = None, timeout_seconds: float = float("inf")) -> dict:
        """Follow a prompt that another client queued, as `run` does."""
        self.client_id = queued.client_id or self.client_id
        return self._follow(queued.prompt_id, self._websocket(), on_event, timeout_seconds, look_first=True)

    def find_queued(self, is_meant: Callable[[dict], bool]) -> "Queued | None":
        """The first prompt, running or waiting, whose graph `is_meant`."""
        queue = self.get("/queue")
        for _, prompt_id, graph, extra, *_ in [*queue["queue_running"], *queue["queue_pending"]]:
            if is_meant(graph):
                return Queued(prompt_id, extra.get("client_id", ""))
        return None

    def _follow(self, prompt_id: str, messages, on_event: OnEvent | None, timeout_seconds: float,
                look_first: bool = False) -> dict:
        """A connection that breaks is made again: the prompt runs on without it."""
        until, broken = time.monotonic() + timeout_seconds, False
        try:
            while True:
                with contextlib.closing(messages):
                    try:
                        return self._watch(prompt_id, messages, on_event, until, broken, look_first or broken)
                    except Forgotten:
                        raise
                    except ServerGone:
                        self.check_alive()
                        broken = True
                messages = self._websocket()
        except (KeyboardInterrupt, SystemExit, TimeoutError):
            self.cancel(prompt_id)
            raise

    def _watch(self, prompt_id: str, messages, on_event: OnEvent | None, until: float, broken: bool,
               look_first: bool) -> dict:
        last = 0.0 if look_first else time.monotonic()
        for kind, data in self._messages(messages, until):
            if time.monotonic() - last > LOOK_SECONDS and (kind == SILENCE or look_first):
                if entry := self._find_end(prompt_id, broken):
                    return entry
                last, look_first = time.monotonic(), False
            if kind == SILENCE:
                continue
            last = time.monotonic()
            if on_event:
                on_event(kind, data)
            if self._is_over(kind, data, prompt_id):
                break
        return self.history(prompt_id)

    def _find_end(self, prompt_id: str, broken: bool) -> dict | None:
        """The history entry of a prompt that is over, however that was missed; None while it waits or runs.

        `broken`: the connection was, so that the server may be another one, which knows nothing of it.
        """
        queue = self.get("/queue")
        if any(entry[1] == prompt_id for entry in [*queue["queue_running"], *queue["queue_pending"]]):
            return None
        entry = self.get(f"/history/{prompt_id}").get(prompt_id)
        if entry is None:
            if broken:
                raise Forgotten(f"{self.url} was started again and does not know prompt {prompt_id}")
            raise PromptCancelled("it was taken off the queue")
        for kind, data in (entry.get("status") or {}).get("messages", ()):
            self._is_over(kind, {**data, "prompt_id": prompt_id}, prompt_id)
        return entry

    def cancel(self, prompt_id: str) -> None:
        """Take the prompt off the queue, or interrupt it if it is the one that runs."""
        self.request("/queue", json.dumps({"delete": [prompt_id]}).encode())
        self.request("/interrupt", json.dumps({"prompt_id": prompt_id}).encode())

    def history(self, prompt_id: str, timeout_seconds: float = 30) -> dict:
        """The finished prompt's entry. The server writes it shortly after it says that the prompt is over."""
        until = time.monotonic() + timeout_seconds
        while time.monotonic() < until:
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} has no history entry after {timeout_seconds:.0f} s")

    def download(self, file: dict) -> bytes:
        """The bytes of a file that a history entry names: {"filename", "subfolder", "type"}."""
        return self.request("/view?" + urllib.parse.urlencode(file))

    def save(self, file: dict, path: Path) -> bool:
        """The same into `path`, of any length; False where the server has no such file. Raises ServerGone."""
        url = f"{self.url}/view?{urllib.parse.urlencode(file)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer, open(path, "wb") as copy:
                shutil.copyfileobj(answer, copy)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            return False
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise ServerGone(f"{self.url} was gone before {path.name} was here: {error}") from error
        return True

    def check_alive(self) -> None:
        """Raise ServerGone when the server is known to have ended; a remote one is only known by its answers."""

    @staticmethod
    def _is_over(kind: str, data: dict, prompt_id: str) -> bool:
        if data.get("prompt_id") != prompt_id:
            return False
        if kind == "execution_error":
            raise PromptFailed(data)
        if kind == "execution_interrupted":
            raise PromptCancelled(f"cancelled in {data.get('node_type')} (node {data.get('node_id')})")
        return kind == "executing" and data.get("node") is None

    def _websocket(self):
        import websocket
        url = "ws" + self.url.removeprefix("http") + f"/ws?clientId={self.client_id}"
        try:
            connection = websocket.create_connection(url, timeout=60)
        except (OSError, websocket.WebSocketException) as error:
            raise ServerGone(f"no ComfyUI answers at {self.url}: {error}") from error
        connection.settimeout(1)  # from here on silence is normal: `_messages` looks around every second
        return connection

    def _messages(self, messages, until: float) -> Iterator[tuple[str, dict]]:
        import websocket
        while True:
            try:
                message = messages.recv()
            except websocket.WebSocketTimeoutException:
                self.check_alive()
                if time.monotonic() > until:
                    raise TimeoutError("the prompt took longer than it was given") from None
                yield SILENCE, {}
                continue
            except (OSError, websocket.WebSocketException) as error:
                self.check_alive()
                raise ServerGone(f"the connection to {self.url} broke: {error}") from error
            if isinstance(message, str) and message:
                parsed = json.loads(message)
                yield parsed["type"], parsed["data"]
            elif message[:4] == PROGRESS_TEXT:  # the other binary ones are previews
                end = 8 + int.from_bytes(message[4:8], "big")
                yield "progress_text", {"node": message[8:end].decode(), "text": message[end:].decode()}


def finished_video(entry: dict) -> dict:
    """The last video that a history entry names: {"filename", "subfolder", "type"}; a saved one before a preview."""
    found = [file for outputs in entry["outputs"].values() for files in outputs.values() if isinstance(files, list)
             for file in files if isinstance(file, dict) and str(file.get("filename", "")).endswith(".mp4")]
    if not found:
        raise ValueError("the prompt ended well and made no .mp4: is there a LodestarLongTake node in the workflow?")
    saved = [file for file in found if file.get("type") == "output"] or found
    return {key: saved[-1].get(key, "") for key in ("filename", "subfolder", "type")}


class Server(Client):
    """A server that this process started, with everything it reads and writes under `base`."""

    def __init__(self, url: str, base: Path, process: subprocess.Popen, log: Path):
        super().__init__(url)
        self.base, self.process, self.log = base, process, log

    def check_alive(self) -> None:
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise ServerGone(f"ComfyUI ended with exit code {self.process.returncode}; the end of {self.log}:\n{tail}")

    def wait_ready(self, timeout_seconds: float) -> None:
        until = time.monotonic() + timeout_seconds
        while time.monotonic() < until:
            self.check_alive()
            with contextlib.suppress(ServerGone):  # not listening yet
                self.get("/system_stats")
                return
            time.sleep(0.2)
        raise ServerGone(f"ComfyUI did not answer within {timeout_seconds:.0f} s; its log is {self.log}")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """No goodbye: what a crash or a pulled plug leaves behind."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def prepare_base(base: Path, models: Path | None = None, pack: Path = PACK) -> Path:
    """A base directory with the pack in custom_nodes and, file by file, what lies in `models`/models. Returns it."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link_or_copy(pack, base / "custom_nodes" / "ComfyUI-Lodestar")
    if models:
        for file in filter(Path.is_file, sorted((models / "models").rglob("*"))):
            link_or_copy(file, base / file.relative_to(models))
    return base


def end_with_parent() -> None:
    """In a process that was just begun: the system kills it when the one that began it dies, however that dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)     # PR_SET_PDEATHSIG


def begin_process(command: list[str], base: Path, log: Path, variables: dict[str, str]) -> subprocess.Popen:
    """The command in `base`, all that it says behind what is in `log`."""
    with open(log, "ab") as output:
        return subprocess.Popen(command, cwd=base, stdout=output, stderr=subprocess.STDOUT, env=variables,
                                preexec_fn=end_with_parent if sys.platform == "linux" else None)


@contextlib.contextmanager
def start_server(comfyui: Path, base: Path, *, python: str | Path = sys.executable, gpu: bool = False,
                 arguments: Sequence[str] = (), timeout_seconds: float = 300, log: Path | None = None,
                 begin: Callable[[list[str], Path, Path, dict[str, str]], Any] = begin_process) -> Iterator[Server]:
    """A server on a free port of 127.0.0.1 for as long as the block runs; it is stopped however the block ends, and on
    Linux when this process is killed in it. `log`: default base/server.log. `begin`: makes the process."""
    port, log = free_port(), log or base / "server.log"
    command = [str(python), str(comfyui / "main.py"), "--listen", "127.0.0.1", "--port", str(port),
               "--base-directory", str(base), "--database-url", "sqlite:///:memory:",
               "--disable-auto-launch", "--disable-api-nodes", "--max-upload-size", str(UPLOAD_MB),
               *([] if gpu else ["--cpu"]), *arguments]
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    if not gpu:
        variables.setdefault("OMP_NUM_THREADS", "1")  # tiny models: two threads that fight are ten times slower
    server = Server(f"http://127.0.0.1:{port}", base, begin(command, base, log, variables), log)
    try:
        server.wait_ready(timeout_seconds)
        yield server
    finally:
        server.stop()
