"""A ComfyUI that a command starts for its jobs, and starts again where it died: the user's own, else the tested one."""
import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lib import comfy_server, environment
from lib.render_job import Servers

BUSY = "another command renders with a ComfyUI of its own; waiting until it ends ($LODESTAR_CACHE keeps two apart)"
TINY = "lodestar_tiny"      # in the names of the random models that are made here
# glibc returns each large block to the system at once; decoding on a CPU then spends 40 % of its time on page faults.
ALLOCATOR = (("MALLOC_ARENA_MAX", 1), ("MALLOC_MMAP_THRESHOLD_", 2 ** 30), ("MALLOC_TRIM_THRESHOLD_", 2 ** 31))


class OwnServer(Servers):
    """Use as a context manager. `base`: what ComfyUI calls its base directory; `output`: where videos and takes lie."""

    def __init__(self, comfyui: Path, base: Path, *, python: Path | None = None, gpu: bool = False,
                 output: Path | None = None, log: Path | None = None, arguments: Sequence[str] = ()):
        self._comfyui, self._base, self._log = comfyui, base, log
        self._python, self._gpu = python or Path(sys.executable), gpu
        self._arguments = [*arguments, *(["--output-directory", str(output)] if output else [])]
        self._running = ExitStack()
        self._server: comfy_server.Server | None = None

    def __enter__(self) -> "OwnServer":
        self.bring_back()
        return self

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def client(self) -> comfy_server.Server:
        assert self._server, "it is entered first"
        return self._server

    def bring_back(self) -> None:
        self._running.close()
        self._server = self._running.enter_context(comfy_server.start_server(
            self._comfyui, self._base, python=self._python, gpu=self._gpu, log=self._log, arguments=self._arguments))


def base_of(comfyui: Path, name: str, tiny_python: Path | None) -> Path:
    """The user's own ComfyUI with its models, where the pack is in it; else a folder in the cache that has the pack,
    and the tiny random models where there is a Python to make them."""
    if comfyui == environment.PACK.parent.parent and not tiny_python:
        return comfyui
    base = environment.cache_folder() / name
    return comfy_server.prepare_base(base, environment.tiny_models(tiny_python) if tiny_python else None)


@contextmanager
def server_for(options: argparse.Namespace, comfyui: Path | None, texts: Sequence[str]) -> Iterator[Servers]:
    """The running server of --server, or one of our own. `texts`: of the workflows, which name the models."""
    if options.server:
        yield Servers(options.server, options.patience)
        return
    assert comfyui, "one was found, or the command has ended"
    for name, size in () if options.gpu else ALLOCATOR:
        os.environ.setdefault(name, str(size))
    with contextlib.ExitStack() as stack:
        stack.enter_context(environment.only_one(environment.cache_folder() / "jobs.lock", BUSY))
        base = base_of(comfyui, "jobs", Path(sys.executable) if any(TINY in text for text in texts) else None)
        yield stack.enter_context(OwnServer(comfyui, base, gpu=options.gpu, output=options.output,
                                            log=environment.cache_folder() / "jobs.log"))
