"""Makes the environment of the scripts, finds or brings a ComfyUI, finds a browser. Standard library only.

All of it lies in ~/.cache/lodestar ($LODESTAR_CACHE names another folder) and is made once: an environment is keyed by
its requirements and its Python, carries a marker when it is complete, and is made again when that marker is missing.
"""
import sys

if sys.version_info < (3, 10):  # noqa: UP036 - it is here to tell those who have an older one
    sys.exit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}: run the script with a newer one.")

import argparse
import contextlib
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from lib import downloads

PACK = Path(__file__).resolve().parents[2]
REPOSITORY = "https://github.com/lodestar-video/ComfyUI-Lodestar"
COMFYUI_URL = "https://github.com/comfyanonymous/ComfyUI"
NEWEST, FLOOR = "0.33.0", "0.7.0"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
TOOLS = ("pytest", "hypothesis", "ruff", "mypy", "playwright", "websocket-client", "psutil",
         "diffusers>=0.33")    # its Wan VAE stands in for that of ComfyUI where there is none
CLIENT = ("av", "websocket-client")  # enough to talk to somebody else's ComfyUI
WITHOUT_COMFYUI = ("numpy", "scipy", "av")  # what the lower floors take from ComfyUI's list
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER_PLACES = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "~/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    *(rf"{os.environ.get(root, 'C:')}\{place}" for root in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
      for place in (r"Google\Chrome\Application\chrome.exe", r"Chromium\Application\chrome.exe")))


def cache_folder() -> Path:
    folder = Path(os.environ.get("LODESTAR_CACHE") or Path.home() / ".cache" / "lodestar").expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def existing_file(text: str) -> Path:
    """An argument that names a file, for argparse."""
    path = Path(text).expanduser().resolve()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is no file")
    return path


def python_called(text: str) -> Path:
    """An argument that names a Python, by its path or as a shell finds it; a link of an environment stays one."""
    found = shutil.which(Path(text).expanduser())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return Path(found).absolute()


@contextlib.contextmanager
def only_one(path: Path, busy: str = ""):
    """Held by one process at a time; the system lets go of it when that process ends, however it ends. `busy`: said
    where another one has it."""
    with open(path, "a") as handle:
        if sys.platform == "win32":
            import msvcrt
            while True:
                with contextlib.suppress(OSError):  # gives up after ten seconds; a first set-up takes minutes
                    msvcrt.locking(handle.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
            except BlockingIOError:
                print(busy, file=sys.stderr, flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def link_or_copy(source: Path, target: Path) -> None:
    """A symbolic link where the system allows one, else a copy without the repository's history."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    elif target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:  # Windows without the developer mode
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".git", "__pycache__", "out"))
        else:
            shutil.copy2(source, target)


# ---------------------------------------------------------------- ComfyUI

def comfyui_version(folder: Path) -> str | None:
    """The version of the ComfyUI in `folder`, or None where there is none."""
    if not (folder / "main.py").is_file() or not (folder / "comfyui_version.py").is_file():
        return None
    found = re.search(r'__version__\s*=\s*"([^"]+)"', (folder / "comfyui_version.py").read_text(encoding="utf-8"))
    return found.group(1) if found else None


def own_comfyui(named: Path | None = None, pack: Path = PACK) -> Path | None:
    """The ComfyUI the user has: `named`, else $COMFYUI_PATH, else the one whose custom_nodes holds the pack."""
    for origin, folder in (("--comfyui", named), ("$COMFYUI_PATH", os.environ.get("COMFYUI_PATH"))):
        if folder:
            folder = Path(folder).expanduser().resolve()
            if comfyui_version(folder) is None:
                sys.exit(f"{origin} is {folder}, which holds no ComfyUI (no main.py): name its folder.")
            return folder
    home = pack.parent.parent
    return home if pack.parent.name == "custom_nodes" and comfyui_version(home) else None


def find_comfyui(version: str, own: Path | None = None) -> Path | None:
    """ComfyUI `version`: the user's own where it serves, else the cache, else a clone of that tag; None says why.

    The user's own stands for the tested version that it is; one that is neither stands for the newest.
    """
    if own:
        found = comfyui_version(own)
        if found == version or (version == NEWEST and found not in (NEWEST, FLOOR)):
            return own
    folder = cache_folder() / f"ComfyUI-{version}"
    with only_one(cache_folder() / f"ComfyUI-{version}.lock"):
        if comfyui_version(folder) is None:
            clone_comfyui(version, folder)
    return folder if comfyui_version(folder) else None


def clone_comfyui(version: str, folder: Path) -> None:
    """Clone the tag beside `folder` and rename it, so that what is there is whole. A failure is one line."""
    print(f"ComfyUI {version}: cloning {COMFYUI_URL}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
        command = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth", "1",
                   "--branch", f"v{version}", COMFYUI_URL, str(Path(temporary) / "ComfyUI")]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=900,
                           env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
        except FileNotFoundError:
            print(f"ComfyUI {version} cannot be had: git is not installed.")
        except subprocess.TimeoutExpired:
            print(f"ComfyUI {version} cannot be had: the clone took longer than 15 minutes.")
        except subprocess.CalledProcessError as error:
            print(f"ComfyUI {version} cannot be had: {(error.stderr.strip().splitlines() or ['git failed'])[-1]}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            (Path(temporary) / "ComfyUI").rename(folder)


def newest_comfyui() -> Path:
    """The user's own ComfyUI, else where the newest tested one lies in the cache."""
    return own_comfyui() or cache_folder() / f"ComfyUI-{NEWEST}"


def bring_comfyui(folder: Path, base: str | None = None, cpu: bool = True) -> None:
    """The ComfyUI in `folder` into this process, its files in `base`: once, before anything of it is imported."""
    sys.path.insert(0, str(folder))
    import comfy.options
    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    comfy.cli_args.args.cpu = cpu
    comfy.cli_args.args.base_directory = base


# ---------------------------------------------------------------- browser

def find_chromium() -> str | None:
    """A Chromium or Chrome: $CHROMIUM_PATH, the PATH, or where macOS and Windows put it."""
    named = os.environ.get("CHROMIUM_PATH")
    places = [Path(place).expanduser() for place in ([named] if named else BROWSER_PLACES)]
    on_path = None if named else next(filter(None, map(shutil.which, BROWSERS)), None)
    return on_path or next((str(place) for place in places if place.is_file()), None)


# ---------------------------------------------------------------- environment

def requirement_lines(path: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def requirements(comfyui: Path | None) -> list[str]:
    """Everything in one environment: torch pinned for the tests, ComfyUI's own list, the pack's, the test tools."""
    host = requirement_lines(comfyui / "requirements.txt") if comfyui else list(WITHOUT_COMFYUI)
    pinned = {line.partition("=")[0] for line in TORCH}
    host = [line for line in host if re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() not in pinned]
    return [*TORCH, *host, *requirement_lines(PACK / "requirements.txt"), *TOOLS]


def make_environment(wanted: list[str]) -> Path:
    """The Python of an environment that has `wanted`; made now if this is the first time it is asked for."""
    key = "\n".join([*wanted, platform.python_version(), sys.platform, platform.machine()])
    folder = cache_folder() / f"env-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    with only_one(folder.with_suffix(".lock")):
        if not ((folder / "ready").is_file() and python.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            build_environment(folder, python, wanted)
            (folder / "ready").write_text(key + "\n", encoding="utf-8")
    return python


def build_environment(folder: Path, python: Path, wanted: list[str]) -> None:
    print(f"making the environment {folder} (once)", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"python -m venv failed (on Debian and Ubuntu: apt install python3-venv).\n{made.stdout}{made.stderr}")
    downloads.install(python, wanted, folder)


def stop_on_signals() -> None:
    """Let a polite kill end the process the way Ctrl-C does, so that what it started is stopped on the way out."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))


def this_command(python: Path) -> list[str]:
    """What this process was begun with, -m and all, in `python`."""
    module = sys.modules["__main__"].__spec__
    return [str(python), *(["-m", module.name] if module else sys.argv[:1]), *sys.argv[1:]]


def enter(python: Path) -> None:
    """Go on in `python`: returns at once when this is it, else runs the same command there and ends this process."""
    if Path(sys.prefix).resolve() == python.parent.parent.resolve():
        return
    command = this_command(python)
    if os.name != "nt":
        sys.stdout.flush()
        os.execv(command[0], command)
    with subprocess.Popen(command) as child:  # Windows has no exec that keeps the console
        while child.poll() is None:
            with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C reaches the child as well, which tidies up
                child.wait()
    sys.exit(child.returncode)


def rig() -> Path:
    """The tests' rig, which the registry's package leaves out: without it the command ends, saying where it is."""
    folder = PACK / "tests" / "rig"
    if not folder.is_dir():
        sys.exit(f"{Path(sys.argv[0]).name}: what this needs lies in {folder}, and this copy of the pack has no tests: "
                 f"ComfyUI's registry leaves them out. Clone {REPOSITORY} and run it there")
    return folder


def tiny_models(python: Path) -> Path:
    """The folder with models/…, the tiny checkpoints of make_tiny_models.py; made once per version of that script."""
    script = rig() / "make_tiny_models.py"
    source = b"".join(path.read_bytes() for path in sorted(script.parent.glob("*tiny*.py")))
    folder = cache_folder() / f"tiny-models-{hashlib.sha256(source).hexdigest()[:12]}"
    with only_one(folder.with_suffix(".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
                made = subprocess.run([str(python), str(script), str(Path(temporary) / "made")], capture_output=True,
                                      text=True)
                if made.returncode:
                    sys.exit(f"{script.name} failed:\n{made.stdout}{made.stderr}")
                (Path(temporary) / "made").rename(folder)
    return folder
