"""What a take survives, at length: `python scripts/soak.py kills|streams|queue|long|fleet|joint`, tiny models.

`kills --count 50`: kill -9 at random moments of its work and start again until the take is finished; its latents must
be those of a take that nothing happened to. `streams --each 1`: a stream of a causal student, killed at each of its
writes: of journal, memory, VAE and video; the same bytes. `queue --count 1000`: short takes one after another; memory,
open and temporary files must stay flat. `long --seconds 600`: one long take; to the frame, its sound in step at the end
to 1 ms.
`joint --family ltx --seconds 600`: one take of given speech on a model that makes sound itself, killed once on the way:
the recording is in the file and in step, RAM does not grow.
`fleet --count 20 --workers 3`: jobs through fleet.py, a worker killed twice, and through render.py: equal bytes, once.
Each ends with a line of figures, and exit code 1 where something is not as it must be. Needs the tests (a clone).
"""
from lib import environment  # isort: skip - first, because it refuses a Python that is too old

import argparse
import json
import os
import random
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from lib import comfy_server

STEPS = 12
SHORT = {"width": 32, "height": 32, "chunk_frames": 9, "max_seconds": 0.5}     # a take of the queue
# ComfyUI collects garbage every ten seconds, which costs more than the takes; what its start made stays in any case
FREEZE = "import gc\n\ngc.freeze()\nNODE_CLASS_MAPPINGS = {}\n"
LOOK_SECONDS = 0.01
X264 = 0.5                # of 255, on average: on rare occasions it does not repeat itself
LISTEN_SECONDS = 0.25     # around the mark at the end of the sound


def open_rig():
    """The tests' rig, which needs torch and the pack; (served_takes)."""
    runpy.run_path(str(environment.rig().parent / "conftest.py"))
    import served_takes
    return served_takes


class Soak:
    """A base folder, and servers on it one after another."""

    def __init__(self, comfyui: Path, base: Path):
        self.comfyui, self.rig = comfyui, open_rig()
        self.base = comfy_server.prepare_base(base, environment.tiny_models(Path(sys.executable)))

    def server(self):
        return comfy_server.start_server(self.comfyui, self.base)

    def forked_server(self):
        """The same, begun in a fifth of the time."""
        import forked_server
        return comfy_server.start_server(self.comfyui, self.base, begin=forked_server.fork)

    def folder(self) -> Path:
        """The one take's."""
        folder, = (path for path in (self.base / "output" / "lodestar_takes").iterdir() if path.is_dir())
        return folder


def kill_takes(soak: Soak, options: argparse.Namespace) -> list[str]:
    """What is wrong after `count` kills."""
    import torch
    chance, problems, killed, runs = random.Random(options.seed), [], 0, 0
    with soak.forked_server() as server:
        graph = soak.rig.tiny_take(server, "soak/take", steps=options.steps, keep_chunks=True)
        if options.puppet:
            graph = puppet_stream(soak, server, options.puppet)
        elif options.mode:
            graph.having("mode").set(mode=options.mode)
            graph.the("UNETLoader").set(unet_name="lodestar_tiny_wan21_t2v.safetensors")
            soak.rig.without_speech(graph)
        since = work_of(server)
        server.run(graph.prompt())
        seconds = work_of(server) - since
    latents, frames = made_by(soak)
    soak.folder().rename(soak.base / "calm")
    while killed < options.count:
        runs, finished = runs + 1, False
        while not finished:
            allowed = chance.uniform(0, 1.1 * seconds) if killed < options.count else float("inf")
            finished = run_until_killed(soak, graph.prompt(), allowed)
            killed += not finished
            print("f" if finished else "k", end="", flush=True)
        found = made_by(soak)
        if len(found[0]) != len(latents) or not all(map(torch.equal, found[0], latents)):
            problems.append(f"take {runs} has other latents after {killed} kills in all")
        if found[1].shape != frames.shape or abs(found[1].astype(int) - frames).mean() > X264:
            problems.append(f"take {runs} has other frames after {killed} kills in all")
        shutil.rmtree(soak.folder())
        print(f"\n{killed} kills, {runs} takes, {len(problems)} differ", flush=True)
    left = [path.name for path in (soak.base / "output").rglob("*.part")]
    videos = len(list((soak.base / "output" / "soak").glob("*.mp4")))
    if left or videos != runs + 1:
        problems.append(f"{videos} videos of {runs + 1} takes, left over: {left}")
    return problems


def puppet_stream(soak: Soak, server, seconds: int):
    """The pack's own stream of the puppet, so long."""
    import joint_runs
    graph, sound = soak.rig.workflow("streaming_puppet"), soak.base / "speech.wav"
    joint_runs.write_sound(sound, seconds)
    graph.replace(graph.the("LodestarSamplePerson")[1], graph.add("LoadAudio", audio=server.upload(sound))[0])
    graph.the("LodestarLongTake").set(filename_prefix="soak/take", keep_chunks=True)
    graph.remove(graph.the("LodestarTakeReport"))
    return graph


def made_by(soak: Soak) -> tuple:
    """(the latents of each chunk, the frames of the newest video)."""
    videos = (soak.base / "output" / "soak").glob("*.mp4")
    return soak.rig.latents_of(soak.folder()), soak.rig.frames_of(max(videos))


def run_until_killed(soak: Soak, prompt: dict, seconds: float) -> bool:
    """One server, killed when it has worked for `seconds`; whether the take came to its end before that."""
    with soak.forked_server() as server:
        until, ended = work_of(server) + seconds, threading.Event()

        def kill() -> None:
            while not ended.wait(LOOK_SECONDS):
                if work_of(server) >= until:
                    server.kill()
                    return

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            server.run(prompt)
            return True
        except comfy_server.ServerGone:
            return False
        finally:
            ended.set()
            killer.join()


def work_of(server) -> float:
    """Seconds that its process has computed: a moment in a take is the same on a machine that others work on, too."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def kill_streams(soak: Soak, options: argparse.Namespace) -> list[str]:
    """At which writes a kill changes what the stream ends in; at every `each`th of them."""
    script = environment.rig() / "killed_streams.py"
    variables = {**os.environ, "COMFYUI_PATH": str(soak.comfyui), "PYTHONPATH": str(script.parent),
                 "OMP_NUM_THREADS": "1"}
    problems, cases = [], 0
    with subprocess.Popen([sys.executable, str(script), str(soak.base / "streams"), "--each", str(options.each)],
                          stdout=subprocess.PIPE, text=True, env=variables) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                case, cases = json.loads(line), cases + 1
                print("." if case["same"] else "x", end="", flush=True)
                problems += [] if case["same"] else [f"other bytes after a kill before write {case['number']}, of "
                                                     f"{case['before']}"]
    print(f"\n{cases} kills, {len(problems)} differ")
    return problems if cases and not process.returncode else [*problems, "it broke off"]


def queue_takes(soak: Soak, options: argparse.Namespace) -> list[str]:
    """What grew over `count` takes, or as many as fit into `minutes`, after the first fifth."""
    figures: list[dict[str, float]] = []
    until, done, last = time.monotonic() + options.minutes * 60, 0, False
    try:
        (soak.base / "custom_nodes" / "zz_freeze.py").write_text(FREEZE, encoding="utf-8")
        with soak.server() as server:
            graph = soak.rig.tiny_take(server, "queue/take", steps=1)
            graph.the("LodestarPlanTake").set(**SHORT)
            while not last:
                graph.the("RandomNoise").set(noise_seed=done)
                graph.the("LodestarLongTake").set(filename_prefix=f"queue/take{done % 7}")
                server.run(graph.prompt())
                done += 1
                last = done == options.count or time.monotonic() > until
                if last or (done - 1) % max(options.count // 100, 1) == 0:
                    figures.append({"takes": done, **figures_of(server)})
                    print(", ".join(f"{name} {value:g}" for name, value in figures[-1].items()), flush=True)
    finally:
        if not last:
            print(f"broken off after {done} of {options.count} takes", flush=True)
    early, late = figures[len(figures) // 5], figures[-1]
    print(f"{late['takes']} takes; {(late['MB'] - early['MB']) / max(late['takes'] - early['takes'], 1) * 100:+.2f} MB "
          f"per 100 takes after the first {early['takes']}")
    allowed = {"MB": 1.1 * early["MB"] + 20, "open files": early["open files"] + 3, "temporary files": early[
        "temporary files"] + 3, "take folders": early["take folders"]}
    return [f"{name} grew from {early[name]:g} to {late[name]:g}" for name, most in allowed.items()
            if late[name] > most]


def figures_of(server) -> dict[str, float]:
    process = Path(f"/proc/{server.process.pid}")
    status = (process / "status").read_text()
    return {"MB": int(status.split("VmRSS:")[1].split()[0]) // 1024, "open files": len(os.listdir(process / "fd")),
            "temporary files": sum(path.is_file() for path in (server.base / "temp").rglob("*")),
            "take folders": sum(path.is_dir() for path in (server.base / "output" / "lodestar_takes").glob("*"))}


def long_take(soak: Soak, options: argparse.Namespace) -> list[str]:
    """What is wrong with one take of `seconds`."""
    import av
    import numpy as np
    sound = soak.base / "marks.wav"
    rate, samples = 16000, round(options.seconds * 16000)
    clicks = (np.random.default_rng(0).standard_normal(samples) * 300).astype(np.int16)
    mark = samples - rate     # a click a second before the end
    clicks[mark:mark + 40] = 30000
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(clicks[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with soak.server() as server:
        graph = soak.rig.tiny_take(server, "long/take", steps=1, chunk_frames=81, max_seconds=0.0)
        graph.the("LoadAudio").set(audio=server.upload(sound))
        video = soak.rig.video_of(server, server.run(graph.prompt()))
    with av.open(str(video)) as container:
        frames, fps = container.streams.video[0].frames, container.streams.video[0].average_rate
    with av.open(str(video)) as container:
        found = np.concatenate([part.to_ndarray()[0] for part in container.decode(audio=0)])
    near = slice(mark - int(LISTEN_SECONDS * rate), mark + int(LISTEN_SECONDS * rate))
    off = (int(np.abs(found[near]).argmax()) - int(LISTEN_SECONDS * rate) - 20) / rate
    print(f"{frames} frames of {options.seconds} s, sound {off * 1000:+.2f} ms at the end")
    return [*([f"{frames} frames"] if frames != round(options.seconds * fps) else []),
            *([f"sound is {off * 1000:.2f} ms off"] if abs(off) > 0.001 else [])]


def fleet_takes(soak: Soak, options: argparse.Namespace) -> list[str]:
    """What is wrong after `count` jobs on `workers` workers, one of which is killed twice."""
    import fleet_runs
    table = fleet_runs.write_table(soak.base / "jobs", options.count, seconds=2, steps=STEPS)
    if fleet_runs.run_serial(table, soak.comfyui, soak.base / "serial"):
        return ["the serial run failed"]
    wanted = fleet_runs.sums_of(soak.base / "serial" / "videos")
    lines, killed = fleet_runs.run_fleet(table, soak.comfyui, soak.base / "fleet", options.workers, kills=2)
    problems = fleet_runs.problems_of(lines, soak.base / "fleet", wanted)
    finished = sum(line["event"] == "finished" for line in lines)
    print(f"{len(wanted)} jobs on {options.workers} workers, {len(killed)} kills: {finished} finished, "
          f"{len(wanted)} compared byte for byte, {len(problems)} problems")
    return [*problems, *(["too few jobs for two kills"] if len(killed) < 2 else [])]


def joint_take(soak: Soak, options: argparse.Namespace) -> list[str]:
    """What is wrong with one take of `seconds` on `family`."""
    import joint_runs
    joint_runs.place_models(soak.comfyui, soak.base)
    sound = soak.base / "speech.wav"
    wanted = joint_runs.write_sound(sound, options.seconds)
    chunk, overlap = joint_runs.CHUNKS[options.family]
    chunks = options.seconds * 24 // (chunk - overlap)
    with soak.server() as server:
        graph = joint_runs.take_of(options.family, server.upload(sound))
        _, video = joint_runs.run_watched(server, graph, kill_at=chunks // 4)
    problems = ["it was finished before it was killed"] if video else []
    with soak.server() as server:
        watch, video = joint_runs.run_watched(server, graph)
    assert video is not None
    line, wrong = joint_runs.check_video(video, wanted, options.seconds)
    if watch.seen[0][0] < chunks // 4:
        problems.append("it did not go on, but started at the beginning")
    early, late = (watch.most(*part) for part in ((0, chunks // 2), (chunks * 3 // 4, chunks + 1)))
    print(f"{options.family}: {line}; killed in chunk {chunks // 4 + 1} of about {chunks}; {early:.0f} MB in its first "
          f"half, {late:.0f} MB in its last quarter")
    if late > early * joint_runs.ALLOWED:
        problems.append(f"RAM grew from {early:.0f} to {late:.0f} MB")
    return [*problems, *wrong]


TASKS: dict[str, Callable[[Soak, argparse.Namespace], list[str]]] = {
    "kills": kill_takes, "streams": kill_streams, "queue": queue_takes, "long": long_take, "fleet": fleet_takes,
    "joint": joint_take}


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--each", type=int, default=1, help="of the writes at which a stream is killed, every so many")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--family", choices=("ltx", "minimax_h3"), default="ltx")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of the queue, whatever its count")
    parser.add_argument("--mode", choices=("stitch", "re-encode"), help="hand-over of the takes that are killed, on a "
                        "Wan T2V; default: S2V's own")
    parser.add_argument("--puppet", type=int, default=0, metavar="SECONDS", help="of the pack's stream of the puppet, "
                        "which is killed instead of a tiny model's take")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each chunk of the takes that are killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--comfyui", type=Path, help="a ComfyUI folder; default: yours, else the tested one")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse_options()
    environment.stop_on_signals()
    environment.rig()       # before anything is cloned for nothing
    comfyui = environment.own_comfyui(options.comfyui) or environment.find_comfyui(environment.NEWEST)
    if comfyui is None:
        sys.exit("No ComfyUI: name one with --comfyui PATH.")
    tested = environment.find_comfyui(environment.NEWEST)     # the tests' environment serves every version
    environment.enter(environment.make_environment(environment.requirements(tested or comfyui)))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lodestar-soak-", ignore_cleanup_errors=True) as folder:
        problems = TASKS[options.task](Soak(comfyui, Path(folder)), options)
    print(*problems, sep="\n", end="\n" * bool(problems))
    print(f"{options.task} on ComfyUI {environment.comfyui_version(comfyui)}: {len(problems)} problems, "
          f"{time.monotonic() - started:.0f} s")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
