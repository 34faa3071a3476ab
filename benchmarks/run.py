"""Runs every benchmark and writes what it found into README.md beside it: `python benchmarks/run.py`.

Each runs in a process of its own, with the environment and the ComfyUI that scripts/test.py uses.
"""
import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "scripts"))

from lib import environment  # noqa: E402

SECTIONS = {
    "Counted: the same on every machine, held by tests/comfy/in_process/test_counts.py and test_steps.py":
        ("flops", "humo_flops", "longcat_flops", "stream_flops", "video_flops", "take_calls", "live_bytes", "plans",
         "steps", "fingerprints"),
    "Timed: ratios of CPU time as min / **median** / max of 9 interleaved rounds, no goal is enforced":
        ("speed", "longcat_speed", "stream_speed", "live_take", "start_up"),
    "Sampled from outside a real server": ("memory",),
    "On a GPU": ("gpu", "longcat_gpu", "stream_gpu"),
}
BEGIN, END = "<!-- begin: written by run.py -->\n", "<!-- end -->"


def rows_of(module: str, comfyui: Path) -> list[str]:
    """The table lines that benchmarks/<module>.py prints."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "COMFYUI_PATH": str(comfyui), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, str(HERE / f"{module}.py")], env=variables, stdout=subprocess.PIPE,
                          text=True, encoding="utf-8", check=True)
    print(done.stdout, end="", flush=True)
    return [line for line in done.stdout.splitlines() if line.startswith("| ")]


def machine(comfyui: Path) -> str:
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return (f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{load}; Python "
            f"{platform.python_version()}, torch {version('torch')}, ComfyUI {environment.comfyui_version(comfyui)}; "
            f"{time.strftime('%Y-%m-%d')}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    comfyui = environment.find_comfyui(environment.NEWEST, environment.own_comfyui())
    if comfyui is None:
        sys.exit(f"the benchmarks need a ComfyUI {environment.NEWEST}: set COMFYUI_PATH to one")
    environment.enter(environment.make_environment(environment.requirements(comfyui)))
    parts = []
    for title, modules in SECTIONS.items():
        lines = [line for module in modules for line in rows_of(module, comfyui)]
        parts.append("\n".join([f"### {title}", "", "| what | measured | goal | met |", "|---|---|---|---|", *lines]))
    page = HERE / "README.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    text = "\n\n".join([f"`python benchmarks/run.py` on {machine(comfyui)}.", *parts])
    page.write_text(f"{before}{BEGIN}{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
