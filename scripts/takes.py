"""Takes that are not finished, or whose chunks were kept: `python scripts/takes.py [list|inspect|resume|clean]`.

They lie in ComfyUI's output folder, in `lodestar_takes`. `list` says of each how far it is and how big; `inspect NAME`
reads it whole and says what it is made from; `resume NAME --server URL` queues its graph again, which goes on behind
the last finished chunk; `clean` removes those that are named, or all that `--finished`, `--damaged` and `--older-than
DAYS` choose: without any of these it removes nothing. A take that runs is never touched. Standard library only.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import json
import sys
import time
from fractions import Fraction
from pathlib import Path

from lib.pack import load_pack

FILES = (".safetensors", ".gguf", ".pt", ".pth", ".png", ".jpg", ".jpeg", ".webp", ".wav", ".flac", ".mp3", ".m4a",
         ".ogg", ".mp4", ".mov", ".webm", ".mkv")     # what a graph names and a person knows a take by


def takes_folder(named: Path | None) -> Path:
    """`lodestar_takes` in the named output folder, else in that of the user's own ComfyUI."""
    load_pack()
    from lodestar.pipelines.take.take_folders import TAKES
    if named:
        output = named.expanduser().resolve()
    elif comfyui := environment.own_comfyui():
        output = comfyui / "output"
    else:
        sys.exit("Which takes? Name ComfyUI's output folder with --output FOLDER, or its own with $COMFYUI_PATH.")
    if not output.is_dir():
        sys.exit(f"{output} is no folder: name ComfyUI's output folder with --output FOLDER")
    return output if output.name == TAKES else output / TAKES


def graph_of(folder) -> dict:
    """The graph that made it, in API format; {} where the manifest has none."""
    try:
        return json.loads(folder.about.get("graph") or "{}")
    except ValueError:
        return {}


def files_in(graph: dict) -> list[str]:
    """Names of the models, pictures and sounds that a graph loads, in order."""
    values = [value for node in graph.values() for value in node.get("inputs", {}).values() if isinstance(value, str)]
    return list(dict.fromkeys(value for value in values if value.lower().endswith(FILES)))


def seconds_of(folder) -> str:
    """How much of the take is finished, in seconds where the rate is known, else in frames."""
    if not folder.about.get("fps"):
        return f"{folder.frames} frames"
    fps = Fraction(folder.about["fps"])
    return f"{float(folder.frames / fps):.1f} of {float(folder.about['frames'] / fps):.1f} s"


def age_of(folder, now: float) -> str:
    """Since its newest file was written. A clock that was set back makes it 0, never less."""
    hours = max(now - folder.changed, 0) / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def record_of(folder) -> dict:
    """One take as JSON."""
    return {"folder": str(folder.path), "take": folder.take, "state": folder.state,
            "chunks_finished": len(folder.entries), "chunks": folder.chunks, "frames_finished": folder.frames,
            "frames": folder.about.get("frames"),
            "bytes": folder.size, "changed": folder.changed, "problem": folder.problem,
            "video": folder.final.path if folder.final else None, "files": files_in(graph_of(folder))}


def list_takes(takes: Path, options: argparse.Namespace) -> None:
    from lodestar.pipelines.take.take_folders import find_takes
    found = find_takes(takes)
    if options.json:
        print(*(json.dumps(record_of(folder)) for folder in found), sep="\n", end="\n" * bool(found))
        return
    for folder in found:
        chunks = f"{len(folder.entries)}/{folder.chunks or '?'} chunks"
        print(f"{folder.path.name}\n    {folder.state}, {chunks}, {seconds_of(folder)}, {folder.size / 1e6:.1f} MB, "
              f"{age_of(folder, time.time())} old, of {folder.take or 'no name'}")
    total = sum(folder.size for folder in found) / 1e6
    print(f"{len(found)} take{'s' * (len(found) != 1)} in {takes}, {total:.1f} MB")


def named_take(takes: Path, name: str):
    """The take whose folder's name begins so; ends the command where there is none, or more than one."""
    from lodestar.pipelines.take.take_folders import find_takes
    found = [folder for folder in find_takes(takes) if folder.path.name.startswith(name)]
    exact = [folder for folder in found if folder.path.name == name]
    if len(exact or found) != 1:
        names = ", ".join(folder.path.name for folder in found) or "none"
        sys.exit(f"{name} is to name one take in {takes}, and there it names {names}")
    return (exact or found)[0]


def inspect_take(takes: Path, options: argparse.Namespace) -> None:
    folder = named_take(takes, options.name)
    damaged = [] if folder.running else folder.damaged_files()
    if options.json:
        print(json.dumps({**record_of(folder), "damaged": damaged, "graph": graph_of(folder)}))
        return
    about = folder.about
    problem = f", {folder.problem}" if folder.problem else ""
    print(f"{folder.path}\nname: {folder.take or '?'}\nstate: {folder.state}{problem}\n"
          f"finished: {len(folder.entries)} of {folder.chunks or '?'} chunks, {seconds_of(folder)}")
    if about:
        print(f"size: {about.get('width')}x{about.get('height')} at {float(Fraction(about.get('fps', '0'))):g} fps")
    print(f"made from: {', '.join(files_in(graph_of(folder))) or 'not recorded'}")
    print(f"on disk: {folder.size / 1e6:.1f} MB, {age_of(folder, time.time())} old")
    if damaged:
        print(f"damaged: {', '.join(damaged)}; made again from the first of them on")
    print(hint(folder))


def hint(folder) -> str:
    """What a person can do with it now."""
    if folder.running:
        return "It runs now: wait for it, or cancel it in its ComfyUI."
    if folder.final is not None:
        return f"Its video is {folder.final.path}."
    if not graph_of(folder):
        return "To go on: queue the same graph again; with other values another take begins."
    return (f"To go on: python scripts/takes.py resume {folder.path.name} --server URL, or queue the same graph again; "
            "with other values another take begins.")


def resume_take(takes: Path, options: argparse.Namespace) -> None:
    from lib import comfy_server
    folder = named_take(takes, options.name)
    if not (graph := graph_of(folder)):
        sys.exit(f"{folder.path} has no graph in it: queue the graph that made it again")
    if folder.running:
        sys.exit(f"{folder.path} runs now")
    try:
        prompt_id = comfy_server.Client(options.server).queue(graph)
    except comfy_server.PromptRefused as error:
        sys.exit(f"ComfyUI refused the graph of this take:\n{error}")
    except comfy_server.ServerGone as error:
        sys.exit(str(error))
    print(f"queued as {prompt_id}: it goes on with chunk {len(folder.entries) + 1}")


def clean_takes(takes: Path, options: argparse.Namespace) -> None:
    from lodestar.pipelines.take.folder_lock import FolderBusy
    from lodestar.pipelines.take.take_folders import find_takes, remove_take
    chosen = [named_take(takes, name) for name in options.names] or [
        folder for folder in find_takes(takes) if is_chosen(folder, options, time.time())]
    freed, failed = 0, False
    for folder in chosen:
        if options.dry_run:
            print(f"would remove {folder.path.name}, {folder.size / 1e6:.1f} MB, {folder.state}")
            continue
        try:
            left = remove_take(folder.path)
            print(f"removed {folder.path.name}, {folder.size / 1e6:.1f} MB"
                  + (f"; left what is not the pack's: {', '.join(left)}" if left else ""))
            freed += folder.size
        except FolderBusy:
            print(f"left {folder.path.name}: it runs now")
            failed = failed or bool(options.names)
        except OSError as error:
            print(f"left {folder.path.name}: {error}")
            failed = True
    strays = clean_stops(takes, options, {folder.path.name.rpartition("-")[0] for folder in chosen})
    print(f"{freed / 1e6:.1f} MB freed" if chosen or strays else "nothing was chosen: name takes, or give --finished, "
          "--damaged or --older-than DAYS")
    sys.exit(int(failed))


def clean_stops(takes: Path, options: argparse.Namespace, names: set[str]) -> int:
    """Remove the counts of stops whose takes are gone: of takes that were just removed, and with --finished of all. How
    many there were; a server that runs has counted for itself."""
    from lodestar.pipelines.take.take_folders import find_stray_stops
    chosen = [path for path in find_stray_stops(takes) if path.stem in names or (
        options.finished and not options.damaged and not options.names and
        time.time() - path.stat().st_mtime > (options.older_than or 0) * 86400)]
    for path in chosen:
        print(f"{'would remove' if options.dry_run else 'removed'} {path.name}, the count of a name's stops")
        if not options.dry_run:
            path.unlink(missing_ok=True)
    return len(chosen)


def is_chosen(folder, options: argparse.Namespace, now: float) -> bool:
    """Whether a take that nobody named is to go: each option that was given must agree, and one must be given."""
    asked = [(options.finished, folder.state == "finished"), (options.damaged, folder.state in ("damaged", "empty")),
             (options.older_than is not None, now - folder.changed > (options.older_than or 0) * 86400)]
    return not folder.running and any(given for given, _ in asked) and all(fits for given, fits in asked if given)


def days(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: wanted a number of days, 0 or more")
    return value


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output", type=Path, metavar="FOLDER",
                        help="ComfyUI's output folder; default: your ComfyUI's")
    common.add_argument("--json", action="store_true", help="JSON, a take a line")
    parts = parser.add_subparsers(metavar="list|inspect|resume|clean", required=True)
    parts.add_parser("list", parents=[common], help="every take, the newest first").set_defaults(do=list_takes)
    one = parts.add_parser("inspect", parents=[common], help="one take, read whole")
    one.set_defaults(do=inspect_take)
    again = parts.add_parser("resume", parents=[common], help="queue a take's graph again")
    again.set_defaults(do=resume_take)
    again.add_argument("--server", default="127.0.0.1:8188", metavar="URL", help="the ComfyUI; default: 127.0.0.1:8188")
    for part in (one, again):
        part.add_argument("name", help="its folder, or how that begins")
    clean = parts.add_parser("clean", parents=[common], help="remove takes")
    clean.set_defaults(do=clean_takes)
    clean.add_argument("names", nargs="*", metavar="NAME", help="folders of takes, or how they begin")
    clean.add_argument("--finished", action="store_true", help="all whose video is made")
    clean.add_argument("--damaged", action="store_true", help="all of which nothing can be used")
    clean.add_argument("--older-than", type=days, metavar="DAYS", help="all that nothing was written to for so long")
    clean.add_argument("--dry-run", action="store_true", help="say what would be removed")
    return parser.parse_args(arguments or sys.argv[1:] or ["list"])


def main() -> None:
    options = parse_options()
    try:
        options.do(takes_folder(options.output), options)
    except OSError as error:
        sys.exit(f"this cannot be read: {error}")


if __name__ == "__main__":
    main()
