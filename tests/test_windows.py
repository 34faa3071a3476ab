"""What can be held of Windows without one: its locks, files that are open there, and modules that only others have.

There a file that is open or mapped can be neither moved, replaced nor removed, and there is no fcntl.
"""
import ast
import errno
import mmap
import os
import runpy
import sys
import types
from contextlib import suppress
from pathlib import Path

import pytest
from lodestar.pipelines.take import folder_lock
from lodestar.pipelines.take.folder_lock import FolderBusy, FolderLock, is_held
from lodestar.pipelines.take.journal import Journal

pytestmark = [pytest.mark.once, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")]
ROOT = Path(__file__).resolve().parents[1]
ONE_SYSTEM = {"fcntl", "grp", "msvcrt", "pwd", "resource", "termios", "winreg", "_winapi"}


class Died(Exception):
    """Stands for Cancel behind the last chunk."""


def is_open(path) -> bool:
    """Whether this process has it open or mapped."""
    wanted = os.stat(path)
    for handle in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.path.samestat(os.stat(int(handle)), wanted):
                return True
    lines = Path("/proc/self/maps").read_text().splitlines()
    return any(line.split()[4] == str(wanted.st_ino) and line.endswith(os.path.basename(path)) for line in lines)


class Locks(types.ModuleType):
    """msvcrt: a lock is the handle's, and ends with it."""
    LK_NBLCK = 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.held: list[tuple[int, os.stat_result]] = []

    def locking(self, handle: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        wanted = os.fstat(handle)
        for other, locked in self.held:
            if other != handle and os.path.samestat(locked, wanted) and self._is_open(other, locked):
                raise PermissionError(errno.EACCES, "Permission denied")
        self.held.append((handle, wanted))

    @staticmethod
    def _is_open(handle: int, file: os.stat_result) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(handle), file)
        return False


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Locks())
    monkeypatch.setattr(folder_lock, "sys", types.SimpleNamespace(platform="win32"))

    def guard(name):
        real = getattr(os, name)

        def guarded(*paths, **named):
            for path in paths:
                if not named and os.path.isfile(path) and is_open(path):
                    raise PermissionError(errno.EACCES, "it is being used by another process", str(path))
            return real(*paths, **named)
        monkeypatch.setattr(os, name, guarded)
    for name in ("replace", "rename", "unlink", "remove"):
        guard(name)


def test_the_stand_in_refuses_what_windows_refuses(windows, tmp_path):
    path = tmp_path / "a"
    with open(path, "wb") as file:
        file.write(b"x")
        for change in (path.unlink, lambda: path.rename(tmp_path / "b"), lambda: (tmp_path / "c").replace(path)):
            (tmp_path / "c").touch()
            with pytest.raises(PermissionError):
                change()
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with pytest.raises(PermissionError):
        path.unlink()
    mapped.close()
    path.unlink()


def test_a_folder_is_one_run_s_and_free_when_that_has_ended(windows, tmp_path):
    lock = FolderLock(tmp_path)
    assert is_held(tmp_path)
    with pytest.raises(FolderBusy, match="in use by another run"):
        FolderLock(tmp_path)
    lock.release()
    assert not is_held(tmp_path)
    FolderLock(tmp_path).release(delete=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sampler", ["ToySampler", "ToyRollingSampler"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_take_is_made_broken_off_and_gone_on_with(windows, tmp_path, sampler, keep):
    make = runpy.run_path(str(Path(__file__).with_name("rig") / "killed_takes.py"))["make"]

    def die():
        raise Died
    with pytest.raises(Died):
        make(tmp_path, keep, die, sampler=sampler)
    assert (tmp_path / "journal" / "chunk_0001.safetensors").is_file()
    assert Path(make(tmp_path, keep, sampler=sampler)["path"]).is_file()
    assert not list(tmp_path.rglob("*.part")) and (tmp_path / "journal").exists() == keep
    if keep:        # chunks from the first on are others: what was there is replaced
        with Journal.open(tmp_path / "journal", [{"seed": "x"}] * 2) as journal:
            assert journal.finished == 0


def imports_for_one_system(source: str) -> list[str]:
    """Modules that not every system has, imported where that is not asked for first: outside of a function."""
    tree = ast.parse(source)
    inner = {id(node) for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
             for node in ast.walk(function)}
    return [name for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) and id(node) not in inner
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
            if name.partition(".")[0] in ONE_SYSTEM]


def test_no_module_needs_another_system_to_be_imported():
    assert imports_for_one_system("import fcntl\nimport os") == ["fcntl"]
    assert imports_for_one_system("def f():\n    import fcntl\n") == []
    floors = ("backbones", "host", "networks", "nodes", "pipelines", "scripts", "techniques", "training")
    sources = [ROOT / "__init__.py", *(path for floor in floors for path in sorted((ROOT / floor).rglob("*.py")))]
    assert len(sources) > 150
    found = {str(path.relative_to(ROOT)): names for path in sources
             if (names := imports_for_one_system(path.read_text(encoding="utf-8")))}
    assert not found


def test_no_file_of_the_pack_has_a_name_that_windows_cannot_have():
    devices = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if parts[0].startswith(".") or "__pycache__" in parts:
            continue
        assert path.stem.lower() not in devices and not set(path.name) & set('<>:"\\|?*') and path.name[-1] not in ". "
        assert len(str(path.relative_to(ROOT))) < 140
