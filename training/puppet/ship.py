"""Finished runs as the files that ship: `python -m training.puppet.ship RUNS`, where vae/, puppet/ and the others are.

The puppet and its VAE in fp16, in the folders that ComfyUI has for them; the inferior variants, which only the claims
need, with official int8 rows; beside each in `models/puppet`, as JSON, how it was made. What has no run is left alone.
"""
import argparse
import json
import subprocess
from pathlib import Path

import torch
from lodestar.backbones.longcat.int8 import quantized
from safetensors.torch import load_file, save_file
from torch import Tensor

from .network import CONFIG
from .train import Config

PACK = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).with_name("configs")
LOGGED = 60     # points of a loss curve that are kept


def shipped(name: str, models: Path = PACK / "models") -> Path:
    """Where the weights called `name` are: "vae", "puppet", "looker" or a variant's config."""
    places = {"vae": "vae/lodestar_puppet_vae", "puppet": "diffusion_models/lodestar_puppet"}
    return models / f"{places.get(name, f'puppet/{name}')}.safetensors"


def int8(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights in the official int8 layout, with scales in fp16 instead of float32: 55 kB less."""
    found = {}
    for name, weight in weights.items():
        if weight.ndim == 2 and name != "final_layer.linear.weight":
            found[f"{name}_int8"], scale = quantized(weight)
            found[f"{name}_scale"] = scale.half()
        else:
            found[name] = weight
    return found


def told(run: Path, **more) -> dict:
    """How a run was made: the commit that its code was last changed in, its length and its loss."""
    commit = subprocess.run(["git", "log", "-1", "--format=%H", "--", "training/puppet"], cwd=PACK, text=True,
                            capture_output=True, check=True).stdout.strip()
    log = json.loads((run / "log.json").read_text(encoding="utf-8"))
    every = max(len(log) // LOGGED, 1)
    return {**more, "commit": commit, "steps": log[-1][0],
            "loss": [[step, round(loss, 4)] for step, loss in log[every - 1::every]]}


def ship(runs: Path, models: Path) -> list[Path]:
    """The files written."""
    written = []
    for name in ("vae", *(path.stem for path in sorted(CONFIGS.glob("*.json")) if path.stem != "puppet_stem")):
        made, target = runs / name / f"{name}.safetensors", shipped(name, models)
        if not made.is_file():
            continue
        (models / "puppet").mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        how = {"command": f"python -m training.puppet.vae {name}"}
        weights, metadata = load_file(made), None
        if name != "vae":
            config = Config.read(CONFIGS / f"{name}.json")
            how = {"config": f"training/puppet/configs/{name}.json", "seed": config.seed,
                   "stem": told(runs / config.stem, config=f"training/puppet/configs/{config.stem}.json")}
            weights, metadata = weights if name == "puppet" else int8(weights), {"config": json.dumps(CONFIG)}
        save_file(weights, target, metadata)
        how = told(runs / name, **how, parameters=sum(weight.numel() for weight in load_file(made).values()))
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in how.items())
        (models / "puppet" / f"{name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
        written.append(target)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="holds the folders of the runs: vae, puppet_stem, puppet, …")
    parser.add_argument("--models", type=Path, default=PACK / "models", help="where to; the pack's own")
    options = parser.parse_args()
    with torch.no_grad():
        for path in ship(options.runs, options.models):
            print(f"{path} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
