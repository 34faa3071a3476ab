"""Takes, readings, figures and the page of the claims in order; see claims.py."""
import argparse
import os
import platform
import time
from functools import cache, cached_property
from pathlib import Path

from claims_conditions import CONDITIONS, Condition, chunks_for, looked_at
from claims_measures import figures, readings
from claims_page import page, plots_of, written
from claims_pictures import plotted, save_png, strip
from claims_takes import Cast, cast, digest, frames_of_chunk, kept, made, true_frames_of_chunk
from claims_vae import PuppetVAE
from claims_verdicts import AHEAD, CLAIMS, QUICK, Claim
from lodestar.training.puppet import looker
from lodestar.training.puppet.network import trained
from lodestar.training.puppet.ship import shipped
from lodestar.training.puppet.speech import load_tracks
from lodestar.training.puppet.vae import SIZE
from lodestar.training.puppet.world import World
from torch import Tensor

HERE = Path(__file__).resolve().parent
SILENT_SECONDS, STRIP_CHARACTERS = 20, 2
USUAL, SHORT = (8, 60.0, 4), (4, 20.0, 3)       # characters, seconds, every so manyth chunk


class Studio:
    """What takes are made with and looked at by, each loaded when it is first needed. A condition whose weights are
    not there has no take."""

    def __init__(self, world: World, weights: Path, folder: Path, characters: int, seconds: float, every: int):
        self.world, self.weights, self.folder = world, weights, folder
        self.characters, self.seconds, self.every = characters, seconds, every
        self.network, self.cast = cache(self.network), cache(self.cast)

    def file(self, name: str) -> Path:
        return shipped(name, self.weights)

    @cached_property
    def made_with(self) -> str:
        pack = HERE.parent
        return digest(self.file("vae"), HERE / "claims_takes.py", *sorted((pack / "techniques").glob("*.py")),
                      *sorted((pack / "backbones" / "longcat").glob("*.py")))

    @cached_property
    def seen_with(self) -> str:
        return digest(self.file("looker"), HERE / "claims_measures.py", Path(looker.__file__))

    @cached_property
    def codec(self):
        return PuppetVAE(self.file("vae"))

    @cached_property
    def eye(self):
        return looker.looker(self.file("looker"))

    def network(self, name: str):
        return trained(self.file(name))

    def cast(self, silent: bool) -> Cast:
        seconds = min(self.seconds, SILENT_SECONDS) if silent else self.seconds
        return cast(self.world, self.codec, self.characters, chunks_for(seconds), silent)

    def cast_of(self, condition: Condition) -> Cast:
        return self.cast(condition.speech != "speech")

    def possible(self, condition: Condition) -> bool:
        return condition.context == "truth" or self.file(condition.weights).is_file()

    def key(self, condition: Condition) -> tuple:
        """All that decides about a take."""
        players = self.cast_of(condition)
        weights = "" if condition.context == "truth" else digest(self.file(condition.weights))
        return (condition, weights, self.made_with, self.characters, players.chunks, self.world.size,
                tuple(take.track.name for take in players.takes))

    def latents(self, condition: Condition) -> Tensor:
        return kept(self.folder, ("take", *self.key(condition)), lambda: {"latents": made(
            self.network(condition.weights), self.codec, condition, self.cast_of(condition)).half()})["latents"].float()

    def seen(self, condition: Condition, told: bool) -> tuple[dict, dict]:
        """(readings, figures). `told`: look at the chunks as well in which the story tells something."""
        players = self.cast_of(condition)
        usual = looked_at(players.chunks, self.every)
        looked = looked_at(players.chunks, self.every, tuple(time for time, _ in players.story) if told else ())
        found = kept(self.folder, ("seen", *self.key(condition), looked, self.seen_with),
                     lambda: self.look(condition, players, looked))
        return found, figures(found, players, usual)

    def look(self, condition: Condition, players: Cast, looked: tuple[int, ...]) -> dict:
        if condition.context == "truth":
            return readings(self.eye, self.codec, players, self.world.size, looked,
                            lambda chunk: true_frames_of_chunk(self.codec, players, chunk, self.world.size))
        latents = self.latents(condition)
        return readings(self.eye, self.codec, players, self.world.size, looked,
                        lambda chunk: frames_of_chunk(self.codec, latents, chunk))


def run(options: argparse.Namespace) -> None:
    defaults = SHORT if options.quick else USUAL
    size = tuple(given or default for given, default in
                 zip((options.characters, options.seconds, options.every), defaults, strict=True))
    asked = options.claims or (QUICK if options.quick else [claim.number for claim in CLAIMS])
    world = World(load_tracks(options.corpus) if options.corpus else None, size=SIZE)
    studio = Studio(world, options.weights, options.kept, *size)
    started = time.monotonic()
    seen, found = measured(studio, [claim for claim in CLAIMS if claim.number in asked])
    minutes = (time.monotonic() - started) / 60
    silent = f" ({min(size[1], SILENT_SECONDS):g} s where nobody speaks)"
    made_by = (f"`{command(options)}`: {size[0]} held-out characters, each {size[1]:g} s{silent}; {minutes:.0f} "
               f"minutes, takes kept from before not counted, on {os.cpu_count()} cores, {platform.machine()}; "
               f"{time.strftime('%Y-%m-%d')}.")
    plots = drawn(studio, seen, found, options.page.parent / "images")
    written(options.page, page(found, asked, made_by, [f"images/{name}.png" for name in plots]))
    print(options.page)


def command(options: argparse.Namespace) -> str:
    """What makes the page again."""
    given = {"--claims": options.claims, "--characters": options.characters, "--seconds": options.seconds,
             "--every": options.every}
    words = [word for name, value in given.items() if value
             for word in (name, *(value if isinstance(value, list) else [value]))]
    return " ".join(map(str, ("python benchmarks/claims.py", *["--quick"] * options.quick, *words)))


def measured(studio: Studio, claims: list[Claim]) -> tuple[dict, dict]:
    """Readings and figures by condition."""
    told = {name for claim in claims for check in claim.checks if check.figure == "told" for name in check.conditions}
    seen, found = {}, {}
    for name in dict.fromkeys(name for claim in claims for name in claim.conditions):
        started = time.monotonic()
        if studio.possible(CONDITIONS[name]):
            seen[name], found[name] = studio.seen(CONDITIONS[name], name in told)
        print(f"{name}: {time.monotonic() - started:.1f} s" if name in found else f"{name}: no weights", flush=True)
    return seen, found


def drawn(studio: Studio, seen: dict, found: dict, folder: Path) -> list[str]:
    """The names of the pictures that there were takes for."""
    pictures = {name: plotted(plots) for name, plots in plots_of(seen, found).items()}
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
