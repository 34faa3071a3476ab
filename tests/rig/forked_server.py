"""A ComfyUI begun as a fork of this process, which has imported for it what takes longest: for runs that start many.

Only libraries of others are imported here. ComfyUI itself and the pack start in each fork, as `python main.py`.
"""
import importlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

from lib import comfy_server

LIBRARIES = ("torch", "torch._dynamo", "torchvision", "torchaudio", "scipy.signal", "scipy.stats", "transformers",
             "sqlalchemy.orm", "alembic.config", "torchsde", "kornia", "aiohttp.web", "numba", "spandrel", "av", "cv2",
             "OpenGL.GL", "sympy", "huggingface_hub", "pydantic", "yaml", "PIL.Image", "comfy_kitchen", "mpmath")


class Forked:
    """What a Server asks of a Popen."""

    def __init__(self, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
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


def fork(command: list[str], base: Path, log: Path, variables: dict[str, str]) -> Forked:
    """`begin` of comfy_server.start_server. Call it while this process has one thread and computes nothing in torch."""
    for name in LIBRARIES:
        with suppress(ImportError):     # one that this ComfyUI does not ask for
            importlib.import_module(name)
    pid = os.fork()
    if not pid:
        run(command[1:], base, log, variables)
    return Forked(pid)


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
