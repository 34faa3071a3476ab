"""A drawn character talks for 20 seconds, on a CPU, with the anchor and without it: `python scripts/demo.py`.

Makes an environment and a ComfyUI the first time, starts a server on this machine (or uses --server URL), queues the
puppet's workflow, shows how far the take and its chunk are, measures both videos, and says in three sentences what that
means. Where no ComfyUI can be had, the same takes are made without one (--headless). Other workflows make one take;
those with tiny random models get them made.
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import contextlib
import importlib.util
import os
import sys
import time
from fractions import Fraction
from pathlib import Path

from lib import comfy_server, compare
from lib.graph import Graph
from lib.progress import Progress
from lib.workflow_inputs import own_file, set_file, set_seconds, with_loaders

PACK = environment.PACK
WORKFLOW = PACK / "workflows" / "api" / "puppet.json"
PUPPET, TINY = "lodestar_puppet", "lodestar_tiny"   # names of the pack's own models, and of those made here

# glibc returns each large block to the system at once; decoding on a CPU then spends 40 % of its time on page faults.
ALLOCATOR = (("MALLOC_ARENA_MAX", 1), ("MALLOC_MMAP_THRESHOLD_", 2 ** 30), ("MALLOC_TRIM_THRESHOLD_", 2 ** 31))


def fill_workflow(options: argparse.Namespace, client) -> Graph:
    """The workflow with the files and the length that were asked for."""
    graph = Graph.read(options.workflow)
    if options.image or options.audio or client is Here:
        graph = with_loaders(graph)
    set_file(graph, "LoadImage", "image", options.image, client)
    set_file(graph, "LoadAudio", "audio", options.audio, client)
    if options.seconds:
        set_seconds(graph, options.seconds)
    return graph


def local_path(client: comfy_server.Client, file: dict) -> Path:
    """Where the video is on this machine; what another server made is brought into out/."""
    if isinstance(client, comfy_server.Server):
        return client.base / file["type"] / file["subfolder"] / file["filename"]
    target = PACK / "out" / file["filename"]
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(client.download(file))
    return target


def describe(path: Path) -> str:
    """What the file really contains, read by decoding it."""
    import av
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = sum(1 for _ in container.decode(video))
        rate, size, codec = Fraction(video.average_rate), f"{video.width}x{video.height}", video.codec_context.name
    text = f"{float(frames / rate):.2f} s, {frames} frames at {float(rate):g} fps, {size}, {codec}"
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return text + ", no sound"
        sound = container.streams.audio[0]
        seconds = float(sound.duration * sound.time_base)      # what is decoded behind it is AAC's padding
        return (f"{text}; sound {seconds:.2f} s, {sound.codec_context.name}, {sound.rate} Hz, "
                f"{sound.channels} channel{'s' if sound.channels > 1 else ''}")


def take(client: comfy_server.Client, graph: Graph) -> tuple[Path, list[int]]:
    """Run a workflow on `client` and return the finished video and its chunk borders."""
    progress = Progress(graph)
    try:
        entry = client.run(graph.prompt(), progress)
    finally:
        if sys.stdout.isatty():
            print()
    return local_path(client, comfy_server.finished_video(entry)), progress.borders


class Here:
    """Stands where a client stands: files are used where they lie."""
    upload = staticmethod(str)


def take_here(graph: Graph) -> tuple[Path, list[int]]:
    """The same without ComfyUI."""
    name = graph.having("filename_prefix").inputs["filename_prefix"]
    progress, target = Progress(graph), PACK / "out" / f"{Path(name).name}.mp4"
    target.parent.mkdir(exist_ok=True)
    make_here(graph, target, lambda **how_far: progress("lodestar.chunk", {"node": "", **how_far}))
    return target, progress.borders


def make_here(graph: Graph, target: Path, tell) -> Path:
    """The video that a graph of the puppet asks for, without ComfyUI; see make_puppet_take."""
    from lib.pack import load_pack
    load_pack()
    from lodestar.pipelines.headless.puppet_take import make_puppet_take
    from lodestar.pipelines.headless.wan_vae import WanVae
    from lodestar.training.puppet.export import weights_file
    from lodestar.training.puppet.network import load_trained
    return make_puppet_take({node.kind: node.inputs for node in graph.nodes()}, load_trained(weights_file("puppet")),
                            WanVae.read(weights_file("vae")), target, tell)


def report_video(video: Path, borders: list[int], options: argparse.Namespace) -> str:
    """The figures of the video and where its report is; the puppet is measured by its own face probe."""
    import report
    loaders = with_loaders(Graph.read(options.workflow)).all("LoadImage")
    named = (node.inputs["image"] for node in loaders)
    reference = options.image or next(filter(None, map(own_file, named)), None)
    return report.measure_video(video, reference, borders, drawn=PUPPET in options.workflow.read_text(encoding="utf-8"))


def one_take(graph: Graph, make, options: argparse.Namespace) -> None:
    path, borders = make(graph)
    print(f"{path}\n{describe(path)}", flush=True)
    if importlib.util.find_spec("torch"):   # what talks to somebody else's server may have none
        print(report_video(path, borders, options))


def both_takes(graph: Graph, make, options: argparse.Namespace) -> None:
    """With the anchor and without it, and what that means."""
    videos, reports = [], []
    for words, asked in (("with the anchor", graph), ("without the anchor", compare.without_anchor(graph))):
        print(f"{words}:", flush=True)
        path, borders = make(asked)
        print(f"{path}\n{describe(path)}", flush=True)
        videos.append(path)
        if importlib.util.find_spec("torch"):
            *_, report_line, _ = report_video(path, borders, options).splitlines()
            reports.append(compare.Figures.of(Path(report_line)))
    if not reports:
        return
    import av
    held, free = videos
    with av.open(str(held)) as container:
        seconds = container.duration / av.time_base
    print(compare.picture(held, free, held.with_name(f"{held.stem}.compared.png")))
    print("", *compare.sentences(reports[0], reports[1], seconds), sep="\n")


@contextlib.contextmanager
def server_of(options: argparse.Namespace, comfyui: Path | None):
    """The running server of --server, or one of our own on a base directory that stays in the cache."""
    if options.server:
        yield comfy_server.Client(options.server)
        return
    assert comfyui, "host_of has found one, or left"
    for name, size in () if options.gpu else ALLOCATOR:
        os.environ.setdefault(name, str(size))
    base = environment.cache_folder() / "demo"
    with environment.only_one(base.with_suffix(".lock")):
        tiny = TINY in options.workflow.read_text(encoding="utf-8")
        comfy_server.prepare_base(base, environment.tiny_models(Path(sys.executable)) if tiny else None)
        started = time.monotonic()
        with comfy_server.start_server(comfyui, base, gpu=options.gpu) as server:
            print(f"ComfyUI {environment.comfyui_version(comfyui)} at {server.url}, "
                  f"started in {time.monotonic() - started:.0f} s")
            yield server


def positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no length: give a number of seconds above 0")
    return seconds


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=environment.existing_file, help="the picture; default: the bundled one")
    parser.add_argument("--audio", type=environment.existing_file, help="the speech; default: the bundled one")
    parser.add_argument("--seconds", type=positive_seconds, help="use only the first seconds of the speech")
    parser.add_argument("--workflow", type=environment.existing_file, default=WORKFLOW,
                        help="an API-format workflow (.json)")
    parser.add_argument("--server", metavar="URL", help="a running ComfyUI that has the pack and the models")
    parser.add_argument("--gpu", action="store_true", help="let the server use the GPU; default: CPU only")
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI folder; default: found, else cloned")
    parser.add_argument("--once", action="store_true", help="only the take with the anchor, with all its figures")
    parser.add_argument("--headless", action="store_true", help="the puppet's takes without any ComfyUI")
    return parser.parse_args(arguments)


def host_of(options: argparse.Namespace) -> Path | None:
    """The ComfyUI to start; None where somebody else's is used, or none. Without any, only the puppet can be had."""
    if options.server:
        return None
    if not options.headless:
        found = environment.own_comfyui(options.comfyui) or environment.find_comfyui(environment.NEWEST)
        if found:
            return found
        print("No ComfyUI can be had: the take is made without it.", flush=True)
        options.headless = True
        sys.argv.append("--headless")   # of this command, when it goes on in its environment
    if PUPPET not in options.workflow.read_text(encoding="utf-8"):
        sys.exit(f"{options.workflow.name} needs a ComfyUI: name one with --comfyui PATH, or a running one with "
                 "--server URL. Without any, only the puppet's takes can be made.")
    return None


def main() -> None:
    options = parse_options()
    environment.stop_on_signals()
    if not options.gpu:
        os.environ.setdefault("OMP_NUM_THREADS", "1")   # the models are tiny: threads would get in each other's way
    comfyui = host_of(options)
    wanted = environment.CLIENT if options.server else environment.requirements(comfyui)
    environment.enter(environment.make_environment(list(wanted)))
    started = time.monotonic()
    show = both_takes if PUPPET in options.workflow.read_text(encoding="utf-8") and not options.once else one_take
    try:
        if options.headless:
            show(fill_workflow(options, Here), take_here, options)
        else:
            with server_of(options, comfyui) as client:
                show(fill_workflow(options, client), lambda graph: take(client, graph), options)
        print(f"made in {time.monotonic() - started:.0f} s")
    except comfy_server.PromptRefused as error:
        sys.exit(f"ComfyUI refused the workflow before it ran:\n{error}")
    except comfy_server.PromptFailed as error:
        sys.exit(f"ComfyUI stopped the workflow:\n{error}")
    except (comfy_server.PromptCancelled, comfy_server.ServerGone, TimeoutError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
