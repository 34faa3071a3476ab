"""Measures a video: `python scripts/report.py VIDEO [--reference PICTURE]`.

Writes VIDEO's name with .report.json and .report.png beside it and prints the figures. Needs no ComfyUI. Runs in any
Python that has torch, numpy, av and Pillow; else an environment is made, once.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path


def frame_numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if numbers != sorted(set(numbers)) or numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"{text}: wanted ascending frame numbers above 0, such as 77,154")
    return numbers


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=environment.existing_file, metavar="VIDEO")
    parser.add_argument("--reference", type=environment.existing_file, metavar="PICTURE", help="the person's picture")
    parser.add_argument("--borders", type=frame_numbers, default=[], metavar="FRAMES",
                        help="the first frame of each chunk but the first, such as 77,154: for the seam score")
    parser.add_argument("--mouth", default="", metavar="BOX",
                        help="where the mouth is, for lip sync: left, top, right, bottom, from 0 to 1 of the picture")
    parser.add_argument("--models", type=Path, metavar="FOLDER",
                        help="where OpenCV's face files and SyncNet's are; default: ComfyUI's models/lodestar")
    parser.add_argument("--drawn", action="store_true", help="the puppet's take: look at a drawn character")
    return parser.parse_args(arguments)


def face_folders(named: Path | None) -> list[Path]:
    if named:
        return [named.expanduser()]
    comfyui = environment.own_comfyui()
    return [comfyui / "models" / "lodestar", comfyui / "models"] if comfyui else []


def measure_video(path: Path, reference: Path | None = None, borders: Sequence[int] = (), mouth: str = "",
             models: Sequence[Path] = (), drawn: bool = False) -> str:
    """Measures, writes, and says what was found. `drawn`: measured by the puppet's face probe. ValueError and OSError
    for what cannot be read."""
    from lib.pack import load_pack
    load_pack()
    from lodestar.pipelines.metrics.report import evaluate
    from lodestar.pipelines.metrics.report_files import beside, save_report
    from lodestar.pipelines.metrics.report_picture import figures_of, missing_of, number, report_picture
    from lodestar.pipelines.metrics.video_reader import VideoFile
    from lodestar.pipelines.picture_file import read_picture
    video, detect, identity = VideoFile(path), None, None
    picture = read_picture(reference) if reference else None
    if drawn:
        from lodestar.training.puppet.face_probe import load_face_probe
        detect = load_face_probe().detect
        identity = None if picture is None else load_face_probe().read(picture[None]).embeddings[0]
    found = evaluate(video, borders=borders, reference=picture, mouth_box=mouth, models=models, detect=detect,
                     identity=identity, on_frames=teller(video.stated_frames))
    paths = save_report(found, report_picture(found), beside(path))
    figures = figures_of(found)
    if who := found["measures"].get("identity"):
        first, last = number(who["first_second"]), number(who["last_second"])
        figures.insert(0, ("Identity", f"{first} in the first second, {last} in the last  (1: the same person)"))
    return "\n".join([*(f"{name}: {value}" for name, value in figures), *missing_of(found), *map(str, paths)])


def teller(total: int):
    """Says how far it is, on one line of a terminal."""
    def on_frames(frames: int) -> None:
        if sys.stdout.isatty():
            print(f"\r{frames} of {total or '?'} frames ", end="" if frames != total else "\n", flush=True)

    return on_frames


def main() -> None:
    options = parse_options()
    if not all(map(importlib.util.find_spec, ("torch", "numpy", "av", "PIL"))):
        environment.stop_on_signals()
        environment.enter(environment.make_environment(environment.requirements(None)))
    try:
        print(measure_video(options.video, options.reference, options.borders, options.mouth,
                            face_folders(options.models), options.drawn))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
