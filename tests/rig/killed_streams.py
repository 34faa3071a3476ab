"""A stream of a real student, killed at each of its writes and made again; as a script it reports JSON, a case a line.

`python killed_streams.py FOLDER [--each 10]`: AvatarForcing's loader on a tiny checkpoint, its memory, the VAE's
stream, journal and writer as Long Take has them, inside a ComfyUI (COMFYUI_PATH). In each case a fork gets SIGKILL
before its n-th write, another fork makes the same take again: the same bytes of every chunk and of the video.
"""
import argparse
import hashlib
import itertools
import json
import os
import runpy
import shutil
import signal
import sys
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))

OPERATIONS = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}   # the system's audit events
CHUNK_SECONDS = 0.5
X264 = 0.5      # of 255, on average
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def load_chunk(models: Path):
    """The student, by the pack's own loader."""
    from families import FAMILIES, FamilyChunk, load_family
    return FamilyChunk(FAMILIES["avatarforcing"], load_family("avatarforcing", models))


def write_places() -> dict[CodeType, str]:
    """What writes and is no file operation of Python's: a frame into the segment, latents into the VAE's stream, keys
    into the memory, a block out of the sampler."""
    from lodestar.backbones.vae import WanStream
    from lodestar.backbones.written_memory import WrittenMemory
    from lodestar.host.stream_chunk_sampler import StreamChunkSampler
    from lodestar.pipelines.take.video_writer import Segment
    return {Segment._encode.__code__: "frame", WanStream.push.__code__: "decoder",
            WrittenMemory.write.__code__: "memory", StreamChunkSampler.sample.__code__: "block"}


def watch(folder: Path, at) -> None:
    """From now on `at(what)` before each write of this process, those of Python's files below `folder`."""
    places = write_places()

    def audit(event: str, arguments: tuple) -> None:
        if event not in OPERATIONS or not str(arguments[0]).startswith(str(folder)):
            return
        if event != "open" or isinstance(arguments[2], int) and arguments[2] & WRITES:
            at(event.removeprefix("os."))

    def profile(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code in places:
            at(places[frame.f_code])

    sys.addaudithook(audit)
    sys.setprofile(profile)


def make(chunk, models: Path, folder: Path, at=None) -> dict[str, Any]:
    """The stream in `folder`, from where it was left: digests of its chunks, its video, what else lies there."""
    import torch
    from stream_takes import session
    torch.set_num_threads(1)        # a fork has no others
    take = session(chunk, models.parent, folder, seconds=1)
    if at is not None:
        watch(folder, at)
    with torch.inference_mode():
        path = take.make("take", True).path
    sys.setprofile(None)
    latents = sorted(folder.rglob("chunk_*.safetensors"))
    return {"chunks": [digest(found) for found in latents], "video": str(path),
            "left": [found.name for found in folder.rglob("*.part")],
            "videos": len(list(folder.glob("take_*.mp4")))}


def digest(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def same_take(one: dict[str, Any] | None, other: dict[str, Any]) -> bool:
    """The same bytes of chunks and video. On rare occasions x264 does not repeat itself: then nearly the same
    frames."""
    from served_takes import frames_of
    if one is None or {**one, "video": ""} != {**other, "video": ""}:
        return False
    if digest(one["video"]) == digest(other["video"]):
        return True
    frames = [frames_of(Path(take["video"])).astype(int) for take in (one, other)]
    return frames[0].shape == frames[1].shape and bool(abs(frames[0] - frames[1]).mean() <= X264)


def in_fork(work) -> tuple[bool, Any]:
    """Do `work` in a fork: whether it came to its end, and what it gave."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with open(reader, encoding="utf-8") as pipe:
            lines = pipe.read().splitlines()
        ended = os.waitpid(child, 0)[1] == 0
        return ended, [json.loads(line) for line in lines]
    try:
        os.close(reader)
        with open(writer, "w", encoding="utf-8", buffering=1) as pipe:
            work(lambda value: pipe.write(json.dumps(value) + "\n"))
        os._exit(0)
    finally:        # nothing of the process that this was a copy of is to be tidied up
        traceback.print_exc()
        os._exit(1)


def list_writes(chunk, models: Path, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Every write of a take that nothing happens to, and the take."""
    ended, said = in_fork(lambda say: say(make(chunk, models, folder, say)))
    assert ended, "the take that nothing happens to broke off"
    return said[:-1], said[-1]


def kill_before(chunk, models: Path, folder: Path, number: int, kind: str = "") -> None:
    """Make the take until write `number` from now on, of one kind where it is named."""
    count = itertools.count()

    def die(what: str) -> None:
        if kind in ("", what) and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    ended, _ = in_fork(lambda say: make(chunk, models, folder, die))
    assert not ended, f"write {number} {kind} was never reached"


def make_again(chunk, models: Path, folder: Path) -> dict[str, Any] | None:
    """The take in the end; None where it is not made after all."""
    ended, said = in_fork(lambda say: say(make(chunk, models, folder)))
    return said[0] if ended else None


def run(folder: Path, models: Path, each: int) -> None:
    from lodestar.pipelines.take import plan
    plan.CHUNK_SECONDS = CHUNK_SECONDS
    chunk = load_chunk(models)
    writes, calm = list_writes(chunk, models, folder / "calm")
    for number in range(0, len(writes), each):
        place = folder / str(number)
        kill_before(chunk, models, place, number)
        found = make_again(chunk, models, place)
        sys.stdout.write(json.dumps({"number": number, "of": len(writes), "before": writes[number],
                                     "same": same_take(found, calm)}) + "\n")
        sys.stdout.flush()
        shutil.rmtree(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=1)
    options = parser.parse_args()
    from lib import comfy_server, environment
    comfyui = environment.newest_comfyui()
    environment.bring_comfyui(comfyui, str(options.folder / "base"))
    import utils.extra_config  # noqa: F401  as main.py does
    base = comfy_server.prepare_base(options.folder / "base", environment.tiny_models(Path(sys.executable)))
    run(options.folder, base / "models", options.each)


if __name__ == "__main__":
    main()
