"""A small take that is killed at every step, and made again; `python killed_takes.py FOLDER` reports JSON, a case a
line, with its `way`:

"keep link", "keep copy", "tidy link", "tidy copy": in each case a forked child gets SIGKILL before its n-th file
operation after the last chunk (in the middle of the copy as well), and the same take is made again.
"ToySampler", "ToyRollingSampler": the same before each file operation of the chunks.
"""
import itertools
import json
import os
import runpy
import shutil
import signal
import sys
from fractions import Fraction
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))

import torch  # noqa: E402
from lodestar.pipelines import safe_files  # noqa: E402
from lodestar.pipelines.take.final_file import find_published, publish  # noqa: E402
from lodestar.pipelines.take.journal import Journal  # noqa: E402
from lodestar.pipelines.take.plan import plan_take  # noqa: E402
from lodestar.pipelines.take.take import make_take  # noqa: E402
from lodestar.pipelines.take.video_writer import VideoWriter  # noqa: E402
from lodestar.techniques.tensor_digest import digest_tensor  # noqa: E402
from lodestar.techniques.timeline import Timeline  # noqa: E402

tiny = runpy.run_path(str(Path(__file__).parents[1] / "tiny_backbone.py"))
WIDTH, HEIGHT, FPS = 32, 16, Fraction(25)
PLAN = plan_take(Timeline(FPS), 40, 25, 5, WIDTH, HEIGHT)   # two chunks
ENDS = ("keep link", "keep copy", "tidy link", "tidy copy")
SAMPLERS = ("ToySampler", "ToyRollingSampler")
OPERATIONS = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}   # the system's audit events


def make(folder: Path, keep: bool, before_the_end=lambda: None, sampler: str = "ToySampler") -> dict:
    """As Long Take does it. `folder` gets `journal` and `output`."""
    writer, output = VideoWriter(WIDTH, HEIGHT, FPS, crf=0), folder / "output"
    output.mkdir(parents=True, exist_ok=True)
    with Journal.open(folder / "journal", [PLAN.fingerprint_of(chunk) for chunk in PLAN.chunks]) as journal:
        path = find_published(journal, "take")
        if path is None:
            result = make_take(PLAN, tiny[sampler](WIDTH, HEIGHT, tiny["last_latents"](2)), tiny["ToyStream"], journal,
                               writer)
            before_the_end()
            path = publish(journal, "take", lambda joined: writer.finish(result.segments, None, {}, joined),
                           lambda: names(output))
        tail = journal.latents(journal.finished_latents - PLAN.chunks[-1].new_latents, journal.finished_latents)
        if not keep:
            journal.discard()
        note = journal.note
    return {"path": str(path), "tail": digest_tensor(tail), "note": note}


def names(output: Path):
    taken = [int(path.stem.split("_")[1]) for path in output.iterdir()]
    return (output / f"take_{number}.mp4" for number in itertools.count(max(taken, default=0) + 1))


def killer(number: int):
    """A hook that kills this process before its n-th file operation from now on."""
    count = itertools.count()

    def hook(event, arguments):
        if event in OPERATIONS and next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    return lambda: sys.addaudithook(hook)


def copy_and_die(original, copy, block):
    copy.write(original.read(100))
    copy.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work) -> bool:
    """Do `work` in a fork; whether it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        work()
        os._exit(0)
    finally:
        os._exit(1)


def refuse_links(*arguments, **named):
    raise PermissionError(1, "this disk knows no links")


def run_chunks(folder: Path, sampler: str) -> None:
    for number in itertools.count():
        place = folder / str(number)
        place.mkdir()

        def die(place=place, number=number):
            with Journal.open(place / "journal", [PLAN.fingerprint_of(chunk) for chunk in PLAN.chunks]) as journal:
                killer(number)()
                make_take(PLAN, tiny[sampler](WIDTH, HEIGHT, tiny["last_latents"](2)), tiny["ToyStream"], journal,
                          VideoWriter(WIDTH, HEIGHT, FPS, crf=0))
        ended = in_child(die)
        tell(sampler, number=number, ended=ended, **make(place, True, sampler=sampler))
        if ended:
            return


def tell(way: str, **case: object) -> None:
    sys.stdout.write(json.dumps({"way": way, **case}) + "\n")
    sys.stdout.flush()


def run_ends(folder: Path, way: str) -> None:
    keep = way.startswith("keep")
    if way.endswith("copy"):
        os.link = refuse_links
    chunks = folder / "chunks"
    in_child(lambda: make(chunks, True, lambda: os._exit(0)))   # the chunks once, for all cases
    for number in itertools.count(-1):
        place = folder / str(number)
        shutil.copytree(chunks, place)

        def die(place=place, number=number):
            if number < 0:
                shutil.copyfileobj = copy_and_die
                make(place, keep)
            else:
                make(place, keep, killer(number))
        ended = in_child(die)
        over = not (place / "journal" / "manifest.jsonl").exists()
        shown = [path.name for path in (place / "output").iterdir()]
        working = [path.name for path in (place / "journal").glob("*")]
        found = make(place, keep)
        left = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
        tell(way, number=number, ended=ended, over=over, shown=shown, working=working, left=left, **found)
        if ended and number >= 0:
            return


if __name__ == "__main__":
    torch.set_num_threads(1)   # a fork has no others
    safe_files.BLOCK_BYTES = 1 << 10
    for way in (*ENDS, *SAMPLERS):
        place = Path(sys.argv[1]) / way
        place.mkdir()
        if not in_child(lambda way=way, place=place: (run_ends if way in ENDS else run_chunks)(place, way)):
            sys.exit(f"{way} was not run to its end")
