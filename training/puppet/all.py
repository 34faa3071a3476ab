"""Does what comes next for the puppet, for so many hours: `python -m training.puppet.all OUT --hours 3`.

Corpus, VAE, its gate, latents, the base, its variants, all in OUT. It may be ended at any moment and begun again with
the same words: it goes on from checkpoints that are two minutes old at most. --background gives the prompt back and
takes only what nobody else wants of the processor.
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

# glibc returns each large block to the system at once; a tenth to a third of a step would go into page faults.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": 2 ** 25, "MALLOC_TRIM_THRESHOLD_": 2 ** 33, "MALLOC_TOP_PAD_": 2 ** 28}
PACK = Path(__file__).resolve().parents[2]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder of all runs")
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--start", type=Path, help="VAE weights to begin with; default: the pack's own")
    parser.add_argument("--vae", type=Path, help="a finished VAE: none is trained")
    parser.add_argument("--anyway", action="store_true", help="go on with a VAE that its gate refuses")
    parser.add_argument("--background", action="store_true", help="in a process of its own, at the lowest priority")
    parser.add_argument("--threads", type=int, default=1, help="in the background more, when cores are idle")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(arguments)


def in_background(options: argparse.Namespace) -> int:
    """Start the same in a session of its own; its process id."""
    words = [word for word in sys.argv[1:] if word != "--background"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "LODESTAR_LOWEST": "1",
                   **{name: str(size) for name, size in ALLOCATOR.items()}}
    with open(options.out / "log.txt", "ab") as log:
        child = subprocess.Popen([sys.executable, "-m", "training.puppet.all", *words], cwd=PACK, env=environment,
                                 stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return child.pid


def step_back() -> None:
    """Take no processor time that anybody else wants: a session of its own is weighed as one against all others."""
    with contextlib.suppress(OSError, AttributeError):     # not every system has these
        os.nice(19)
        Path("/proc/self/autogroup").write_text("19", encoding="utf-8")


def take_idle_cores() -> None:
    """As many threads as there are cores that nobody else keeps busy, one at least."""
    import torch
    others = os.getloadavg()[0] - torch.get_num_threads()
    torch.set_num_threads(max(1, min(os.cpu_count() or 1, round((os.cpu_count() or 1) - others))))


def corpus(folder: Path) -> None:
    from .corpus import VOICES
    if len(list(folder.glob("*.npz"))) < len(VOICES):
        subprocess.run([sys.executable, "-m", "training.puppet.corpus", "--out", str(folder)], cwd=PACK, check=True)


def list_refusals(vae: Path, world, out: Path) -> list[str]:
    """What of the VAE's gate is missed; its figures and a picture are written."""
    from .face_probe import load_face_probe
    from .vae import load_vae
    from .vae_gate import gate, list_failures, sheet
    report = out / "vae_gate.json"
    if not report.is_file():
        found, shown = gate(load_vae(vae), world, load_face_probe())
        sheet(shown).save(out / "vae_gate.png")
        report.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return list_failures(json.loads(report.read_text(encoding="utf-8")))


def look(out: Path, vae: Path, weights: Path) -> None:
    """The base so far on held-out characters: a sheet and the figures, in a process of its own. What goes wrong there
    is in the log and ends no training."""
    words = ["--network", weights, "--vae", vae, "--sheet", weights.with_suffix(".png"), "--json",
             weights.with_suffix(".json")]
    subprocess.run([sys.executable, "-m", "experiments.claims.gate", *map(str, words)], cwd=PACK, check=False)


def go(options: argparse.Namespace) -> str:
    """Everything that is missing, as far as the hours reach; what there is to be done now."""
    from .corpus import corpus_folder
    from .export import CONFIGS, weights_file
    from .latents import load, make
    from .layouts import Config
    from .train import train
    from .vae import SIZE, in_turn, load_vae
    from .world import World
    out, device, end = options.out, options.device, time.monotonic() + 3600 * options.hours

    def minutes() -> float:
        return max(end - time.monotonic(), 0) / 60

    corpus(corpus_folder())
    world = World(size=SIZE)
    vae = options.vae
    if vae is None:
        finished = in_turn(out / "vae", world, minutes, options.start or weights_file("vae"), device)
        if len(finished) < 3:
            return "the VAE is in training"
        vae = finished[-1]
    if (missing := list_refusals(vae, world, out)) and not options.anyway:
        return "the VAE is not good enough to make latents of; --anyway goes on:\n" + "\n".join(missing)
    base = Config.read(CONFIGS / "puppet.json")
    if not make(load_vae(vae, device).eval(), world, out / "latents", base.clips, minutes(), device):
        return "latents are being made"
    clips, weights = load(out / "latents", base.clips), out / "puppet" / "puppet.safetensors"
    for config in (base, *(Config.read(path) for path in sorted(CONFIGS.glob("puppet_*.json")))):
        folder = out / config.name
        if not (folder / f"{config.name}.safetensors").is_file() and not train(
                config, clips, folder, weights if config.base else None, minutes(), device,
                (lambda found: None) if config.base else (lambda found: look(out, vae, found))):
            return f"{config.name} is in training"
    return f"all is made: python -m training.puppet.export {out}"


def main() -> None:
    options = parse_arguments()
    options.out = options.out.expanduser().resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.background:
        print(f"process {in_background(options)}; what it does is in {options.out / 'log.txt'}")
        return
    if lowest := bool(os.environ.get("LODESTAR_LOWEST")):
        step_back()
    import torch

    from . import run
    from .hosts import alone
    run.AT_REST += [take_idle_cores] if lowest else []
    torch.set_num_threads(options.threads)
    with alone(options.out / "all.lock"):
        print(go(options), flush=True)


if __name__ == "__main__":
    main()
