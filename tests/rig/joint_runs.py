"""One long take of given speech on a tiny LTX-2 or MiniMax H3, on a real server that is killed once, for soak.py."""
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import small_h3
import stand_ins
from lib import comfy_server, environment
from lib.graph import Graph
from served_takes import video_of, without_text_encoder, workflow

RATE = 16_000
NEAR = RATE // 4                # samples: how far the sound is looked for
CHUNKS = {"ltx": (121, 17), "minimax_h3": (124, 22)}    # frames, of which so many repeat: the families' own
ALLOWED = 1.03                  # RAM at the end of a take, by that of its first half


def place_models(comfyui: Path, base: Path) -> None:
    """Tiny files of official names, written by the ComfyUI that is to load them."""
    stand_ins.place(base / "models")
    environment.link_or_copy(Path(small_h3.__file__), base / "custom_nodes" / "small_h3.py")
    rig, scripts = Path(__file__).parent, environment.PACK / "scripts"
    command = ("import pathlib, sys; from comfy.cli_args import args; args.cpu = True; import joint_models; "
               "joint_models.write_official(pathlib.Path(sys.argv[1]))")
    subprocess.run([sys.executable, "-c", command, str(base / "models")], check=True, cwd=base, env={
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, (comfyui, rig, scripts)))})


def write_sound(path: Path, seconds: int) -> np.ndarray:
    """Noise in bursts, (samples,), and its WAV file."""
    chance = np.random.default_rng(seconds)
    noise = np.convolve(chance.standard_normal(seconds * RATE), np.ones(8) / 8, "same")
    loud: np.ndarray = np.repeat(chance.uniform(0.1, 1, seconds * 4), RATE // 4)
    sound = (noise * loud * 8000).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return sound.astype(np.float64)


def take_of(family: str, sound: str, steps: int = 1) -> Graph:
    """The family's workflow as it is, but small and with that sound; `sound`: in the server's input folder."""
    graph, (chunk, overlap) = without_text_encoder(workflow(family)), CHUNKS[family]
    person = graph.the("LodestarSamplePerson")
    graph.replace(person[1], graph.add("LoadAudio", audio=sound)[0])
    graph.the("LodestarPlanTake").set(width=64, height=64, chunk_frames=chunk, overlap_frames=overlap)
    for schedule in graph.all("ManualSigmas"):
        schedule.set(sigmas=", ".join(str(1 - step / steps) for step in range(steps + 1)))
    for schedule in graph.all("BasicScheduler"):
        schedule.set(steps=steps)
    graph.the("LodestarLongTake").set(filename_prefix=f"joint/{family}", keep_chunks=True)
    return graph


@dataclass
class Watch:
    """Looks at a server twice a second: how much RAM it has, how many chunks its take. Kills it at `kill_at` chunks."""
    server: comfy_server.Server
    kill_at: int | None = None
    seen: list[tuple[int, float]] = field(default_factory=list)     # (chunks, MB)
    ended: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        takes, status = self.server.base / "output" / "lodestar_takes", Path(f"/proc/{self.server.process.pid}/status")
        while not self.ended.wait(0.5):
            made = sum(1 for _ in takes.glob("*/chunk_*.mp4"))
            self.seen.append((made, int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024))
            if self.kill_at is not None and made >= self.kill_at:
                return self.server.kill()

    def most(self, first: int, last: int) -> float:
        """MB, while the take had first..last chunks."""
        return max(megabytes for made, megabytes in self.seen if first <= made <= last)


def run_watched(server, graph: Graph, kill_at: int | None = None) -> tuple[Watch, Path | None]:
    """A server's take to its end, or until it is killed; the video."""
    watch = Watch(server, kill_at)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return watch, video_of(server, server.run(graph.prompt()))
    except comfy_server.ServerGone:
        if kill_at is None:
            raise
        return watch, None
    finally:
        watch.ended.set()
        thread.join()


def sound_of(path: Path) -> np.ndarray:
    """A file's sound as one channel at RATE."""
    resampler, parts = av.AudioResampler("flt", "mono", RATE), []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
    return np.concatenate([*parts, *(part.to_ndarray()[0] for part in resampler.resample(None))]).astype(np.float64)


def offset(wanted: np.ndarray, found: np.ndarray, at: int) -> float:
    """How many seconds after where it should be the sound around sample `at` is."""
    piece = wanted[at - RATE:at]
    window = found[at - RATE - NEAR:at + NEAR]
    size = 1 << (len(window) + len(piece)).bit_length()
    match = np.fft.irfft(np.fft.rfft(window, size) * np.fft.rfft(piece, size).conj(), size)[:len(window) - len(piece)]
    return (int(match.argmax()) - NEAR) / RATE


def likeness(wanted: np.ndarray, found: np.ndarray) -> float:
    """The correlation of the whole."""
    length = min(len(wanted), len(found))
    return float(np.corrcoef(wanted[:length], found[:length])[0, 1])


def check_video(path: Path, wanted: np.ndarray, seconds: int, fps: int = 24) -> tuple[str, list[str]]:
    """A line of figures, and what is wrong with a take of `wanted`."""
    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.demux(video=0)) - 1      # the last packet is empty
    found = sound_of(path)
    off, alike = offset(wanted, found, len(wanted) - NEAR), likeness(wanted, found)
    return (f"{frames} frames, sound {off * 1000:+.2f} ms at the end, {alike:.3f} like the recording",
            [*([f"{frames} frames"] if frames != seconds * fps else []),
             *([f"sound is {off * 1000:.2f} ms off"] if abs(off) > 0.001 else []),
             *([f"the sound is another: {alike:.3f}"] if alike < 0.9 else [])])
