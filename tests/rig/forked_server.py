"""A ComfyUI begun as a fork of a process that has imported for it what takes longest: for runs that start many.

Only libraries of others are imported there. ComfyUI itself and the pack start in each fork, as `python main.py`.
`fork` forks this process; `Forks` another, `python forked_server.py`, so that it may be used at any time.
"""
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lib import comfy_server, environment

LIBRARIES = ("torch", "torch._dynamo", "torchvision", "torchaudio", "scipy.signal", "scipy.stats", "transformers",
             "sqlalchemy.orm", "alembic.config", "torchsde", "kornia", "aiohttp.web", "numba", "spandrel", "av", "cv2",
             "OpenGL.GL", "sympy", "huggingface_hub", "pydantic", "yaml", "PIL.Image", "comfy_kitchen", "mpmath")


class Forked:
    """What a Server asks of a Popen."""

    def __init__(self, pid: int, code_of: Callable[[int], int | None]):
        """`code_of` a process: as poll() has it."""
        self.pid = pid
        self.returncode: int | None = None
        self._code_of, self._lock = code_of, threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                self.returncode = self._code_of(self.pid)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.02)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)


class Forks:
    """The process that is forked; it is there from the first `begin` until `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def begin(self, command: list[str], base: Path, log: Path, variables: dict[str, str]) -> Forked:
        """`begin` of comfy_server.start_server, with this Python."""
        pid = self._ask({"command": command, "base": str(base), "log": str(log), "variables": variables})
        assert pid is not None
        return Forked(pid, lambda pid: self._ask({"code_of": pid}))

    def close(self) -> None:
        if self._process:
            self._process.communicate()

    def _ask(self, question: dict) -> int | None:
        with self._lock:
            self._process = self._process or subprocess.Popen(
                [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
                     "PYTHONPATH": str(environment.PACK / "scripts")},
                preexec_fn=comfy_server.end_with_parent)
            assert self._process.stdin and self._process.stdout
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


def answer() -> None:
    """Be the other end of a Forks."""
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)       # what a library may say
    import_libraries()
    with questions, answers:
        for line in questions:
            question = json.loads(line)
            if "code_of" in question:
                found = code_of_child(question["code_of"])
            else:
                found = os.fork()
                if not found:
                    for pipe in (questions, answers):
                        os.close(pipe.fileno())
                    run(question["command"][1:], Path(question["base"]), Path(question["log"]), question["variables"])
            answers.write(json.dumps(found) + "\n")
            answers.flush()


def code_of_child(pid: int) -> int | None:
    """As poll() has it, once."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def import_libraries() -> None:
    for name in LIBRARIES:
        with suppress(ImportError):     # one that this ComfyUI does not ask for
            importlib.import_module(name)


def fork(command: list[str], base: Path, log: Path, variables: dict[str, str]) -> Forked:
    """`begin` of comfy_server.start_server. Call it while this process has one thread and computes nothing in torch."""
    import_libraries()
    pid = os.fork()
    if not pid:
        run(command[1:], base, log, variables)
    return Forked(pid, code_of_child)


def run(arguments: list[str], base: Path, log: Path, variables: dict[str, str]) -> None:
    """Be `python arguments...` until the end of this process."""
    code = 1
    try:
        comfy_server.end_with_parent()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        with open(log, "ab") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.environ.clear()
        os.environ.update(variables)
        os.chdir(base)
        sys.argv[:], sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    finally:        # nothing of the process that this was a copy of is to be tidied up
        if error := sys.exc_info()[1]:
            traceback.print_exception(error)
        os._exit(code)


if __name__ == "__main__":
    answer()
