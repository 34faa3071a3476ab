"""Takes, predictions, figures and the page of the claims in order; see __main__.py."""
import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path

from lib import environment
from lodestar.training.puppet import face_probe
from lodestar.training.puppet.export import weights_file
from lodestar.training.puppet.network import load_trained
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.vae import SIZE
from lodestar.training.puppet.world import World
from torch import Tensor

from .conditions import CONDITIONS, Condition, chunks_for, chunks_to_measure
from .measures import figures, predictions
from .page import page, plots_of, write_part
from .pictures import draw_plots, save_png, strip
from .reels import Reel, film
from .reference_claims import ALL_CLAIMS
from .takes import Cast, cast, digest_files, frames_of_chunk, load_or_make, make_take, true_frames_of_chunk
from .vae import PuppetVAE
from .verdicts import AHEAD, QUICK, Claim

HERE = Path(__file__).resolve().parent
SILENT_SECONDS, STRIP_CHARACTERS = 20, 2
USUAL, SHORT = (8, 60.0, 6), (4, 20.0, 3)       # characters, seconds, every so manyth chunk


class Studio:
    """The models that make and measure takes, each loaded when it is first needed. A condition whose weights are
    not there has no take."""

    def __init__(self, world: World, weights: Path, folder: Path, characters: int, seconds: float, every: int):
        self.world, self.weights, self.folder = world, weights, folder
        self.characters, self.seconds, self.every = characters, seconds, every
        self.network, self.cast, self.reel = cache(self.load_network), cache(self.make_cast), cache(self.make_reel)
        self.spent: dict[tuple, float] = {}     # seconds of processor time, whenever that was

    def file(self, name: str) -> Path:
        return weights_file(name, self.weights)

    @cached_property
    def made_with(self) -> str:
        pack = HERE.parents[1]
        return digest_files(self.file("vae"), HERE / "takes.py", HERE / "reels.py",
                      *sorted((pack / "techniques").rglob("*.py")),
                      *sorted((pack / "networks" / "longcat").glob("*.py")),
                      *sorted((pack / "pipelines" / "headless").glob("*.py")))

    @cached_property
    def seen_with(self) -> str:
        return digest_files(self.file("face_probe"), HERE / "measures.py", Path(face_probe.__file__))

    @cached_property
    def codec(self):
        return PuppetVAE(self.file("vae"))

    @cached_property
    def probe(self):
        return face_probe.load_face_probe(self.file("face_probe"))

    def load_network(self, name: str):
        return load_trained(self.file(name), self.file("puppet"))

    def make_cast(self, silent: bool) -> Cast:
        seconds = min(self.seconds, SILENT_SECONDS) if silent else self.seconds
        return cast(self.world, self.codec, self.characters, chunks_for(seconds), silent)

    def make_reel(self) -> Reel:
        return film(self.cast(False), self.codec, self.world.size)

    def reel_of(self, condition: Condition) -> Reel | None:
        return self.reel() if condition.video else None

    def cast_of(self, condition: Condition) -> Cast:
        return self.cast(condition.speech != "speech")

    def possible(self, condition: Condition) -> bool:
        return condition.context == "truth" or self.file(condition.weights).is_file()

    def key(self, condition: Condition) -> tuple:
        """All that decides about a take."""
        players = self.cast_of(condition)
        truth = condition.context == "truth"
        weights = "" if truth else digest_files(self.file(condition.weights), self.file("puppet"))
        return (condition, weights, self.made_with, self.characters, players.chunks, self.world.size,
                tuple(take.track.name for take in players.takes))

    def load_or_make(self, key: tuple, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        found, self.spent[key] = load_or_make(self.folder, key, make)
        return found

    def latents(self, condition: Condition) -> Tensor:
        return self.load_or_make(("take", *self.key(condition)), lambda: {"latents": make_take(
            self.network(condition.weights), self.codec, condition, self.cast_of(condition),
            self.reel_of(condition)).half()})["latents"].float()

    def measure(self, condition: Condition, story: bool) -> tuple[dict, dict]:
        """(predictions, figures). `story`: measure the chunks of the story's times as well."""
        players = self.cast_of(condition)
        usual = chunks_to_measure(players.chunks, self.every)
        times = tuple(time for time, _ in players.story) if story else ()
        looked = chunks_to_measure(players.chunks, self.every, times)
        latents = None if condition.context == "truth" else self.latents(condition)
        found = self.load_or_make(("seen", *self.key(condition), looked, self.seen_with),
                          lambda: self.look(latents, players, looked))
        reel = self.reel_of(condition)
        return found, figures(found, players, usual, reel.counts(condition) if reel else None)

    def look(self, latents: Tensor | None, players: Cast, looked: tuple[int, ...]) -> dict:
        def frames(chunk: int) -> Tensor:
            if latents is None:
                return true_frames_of_chunk(self.codec, players, chunk, self.world.size)
            return frames_of_chunk(self.codec, latents, chunk)

        return predictions(self.probe, self.codec, players, self.world.size, looked, frames)


def run(options: argparse.Namespace) -> None:
    """Has everything made that is asked for and writes the page; with `options.part` makes that part of it only."""
    characters, seconds, every = SHORT if options.quick else USUAL
    characters, seconds = options.characters or characters, options.seconds or seconds
    every = options.every or every
    asked = options.claims or (QUICK if options.quick else [claim.number for claim in ALL_CLAIMS])
    world = World(load_tracks(options.corpus) if options.corpus else None, size=SIZE)
    studio = Studio(world, options.weights, options.kept, characters, seconds, every)
    names = select_conditions([claim for claim in ALL_CLAIMS if claim.number in asked])
    if options.part:
        measure_conditions(studio, part_of(names, *map(int, options.part.split("/"))))
        return
    started = time.monotonic()
    if options.workers > 1:
        share_takes(options.workers)
    seen, found = measure_conditions(studio, names)
    minutes, spent = (time.monotonic() - started) / 60, sum(studio.spent.values()) / 60
    silent = f" ({min(seconds, SILENT_SECONDS):g} s where nobody speaks)"
    made_by = (f"`{command(options)}`: {characters} held-out characters, each {seconds:g} s{silent}; {minutes:.0f} "
               f"minutes on {os.cpu_count()} cores, takes kept from before not counted; {spent:.0f} minutes of "
               f"processor time, takes kept from before counted; {platform.machine()}, {time.strftime('%Y-%m-%d')}.")
    plots = draw_pictures(studio, seen, found, options.page.parent / "images")
    write_part(options.page, page(found, asked, made_by, [f"images/{name}.png" for name in plots]))
    print(options.page)


def select_conditions(claims: Sequence[Claim]) -> dict[str, bool]:
    """The names of the conditions in order, and of each whether to look where a story tells something."""
    checks = [check for claim in claims for check in claim.checks if check.figure == "arrival"]
    story = {name for check in checks for name in check.conditions}
    return {name: name in story for claim in claims for name in claim.conditions}


def part_of(names: dict[str, bool], part: int, parts: int) -> dict[str, bool]:
    """One of `parts` shares that take about as long: what takes longest is dealt out first."""
    def ease(name: str) -> tuple:
        condition = CONDITIONS[name]
        return condition.speech != "speech", condition.context == "truth", condition.context != "re-encode"

    return {name: names[name] for name in sorted(names, key=ease)[part::parts]}


def share_takes(workers: int) -> None:
    """This command once more in so many processes, which make a share of the takes each: that many small networks keep
    the cores busier than one on all of them."""
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    processes = [subprocess.Popen([*environment.this_command(Path(sys.executable)), "--part", f"{part}/{workers}"],
                                  env={**os.environ, "OMP_NUM_THREADS": threads}) for part in range(workers)]
    try:
        if any([process.wait() for process in processes]):
            sys.exit("a part of the takes could not be made; what was made is kept, and the same command goes on")
    finally:
        for process in processes:
            process.terminate()


def command(options: argparse.Namespace) -> str:
    """What makes the page again."""
    given = {"--claims": options.claims, "--characters": options.characters, "--seconds": options.seconds,
             "--every": options.every}
    words = [word for name, value in given.items() if value
             for word in (name, *(value if isinstance(value, list) else [value]))]
    return " ".join(map(str, ("python -m experiments.claims", *["--quick"] * options.quick, *words)))


def measure_conditions(studio: Studio, names: dict[str, bool]) -> tuple[dict, dict]:
    """Predictions and figures by condition."""
    seen, found = {}, {}
    for name, story in names.items():
        started = time.monotonic()
        if studio.possible(CONDITIONS[name]):
            seen[name], found[name] = studio.measure(CONDITIONS[name], story)
        print(f"{name}: {time.monotonic() - started:.1f} s" if name in found else f"{name}: no weights", flush=True)
    return seen, found


def draw_pictures(studio: Studio, seen: dict, found: dict, folder: Path) -> list[str]:
    """The names of the pictures that there were takes for."""
    pictures = {name: draw_plots(plots) for name, plots in plots_of(seen, found).items()}
    if "none" in found and AHEAD in found:
        pictures["claims_strip"] = faces(studio)
    for name, picture in pictures.items():
        save_png(picture, folder / f"{name}.png")
    return list(pictures)


def faces(studio: Studio) -> Tensor:
    """Some characters at the beginning, in the middle and at the end, without an anchor and with one."""
    chunks = studio.cast(False).chunks
    moments, rows = (0, chunks // 2, chunks - 1), []
    for name in ("none", AHEAD):
        latents = studio.latents(CONDITIONS[name])[:STRIP_CHARACTERS]
        shown = [frames_of_chunk(studio.codec, latents, chunk)[:, -1] for chunk in moments]
        rows.append((CONDITIONS[name].label.replace(" ", "\n", 1), [one for pair in zip(*shown, strict=True)
                                                                    for one in pair]))
    heads = [f"{studio.seconds * chunk / max(chunks - 1, 1):.0f} s" for chunk in moments] * STRIP_CHARACTERS
    return strip(rows, heads)
