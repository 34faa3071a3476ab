"""Export finished runs as the pack's weights: `python -m training.puppet.export RUNS`, the folder of all runs.

The puppet and its VAE in fp16, in the folders that ComfyUI has for them; the inferior variants, which only the claims
need, as LoRAs; beside each in `models/puppet`, as JSON, how it was made. What has no finished run is left alone.
"""
import argparse
import json
import subprocess
from pathlib import Path

from safetensors.torch import load_file, save_file

from .layouts import Config
from .network import CONFIG

PACK = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).with_name("configs")
LOGGED = 60     # points of a loss curve that are kept


def weights_file(name: str, models: Path = PACK / "models") -> Path:
    """Where the weights called `name` are: "vae", "puppet", "face_probe" or a variant's config."""
    places = {"vae": "vae/lodestar_puppet_vae", "puppet": "diffusion_models/lodestar_puppet"}
    return models / f"{places.get(name, f'puppet/{name}')}.safetensors"


def provenance(run: Path, **more) -> dict:
    """How a run was made: the commit that its code was last changed in, its length, its loss, in which precision."""
    commit = subprocess.run(["git", "log", "-1", "--format=%H", "--", "training/puppet"], cwd=PACK, text=True,
                            capture_output=True, check=True).stdout.strip()
    log = json.loads((run / "log.json").read_text(encoding="utf-8"))
    every = max(len(log["loss"]) // LOGGED, 1)
    return {**more, "commit": commit, "steps": log["loss"][-1][0], "precisions": log["precisions"],
            "loss": [[step, round(loss, 4)] for step, loss in log["loss"][every - 1::every]]}


def history(runs: Path, name: str) -> dict:
    if name == "vae":
        return {"command": "python -m training.puppet.vae vae", **provenance(runs / "vae" / "decoder", **{
            stage: provenance(runs / "vae" / stage) for stage in ("stills", "clips")})}
    config = Config.read(CONFIGS / f"{name}.json")
    return provenance(runs / name, config=f"training/puppet/configs/{name}.json", seed=config.seed,
                **({"base": config.base} if config.base else {}))


def export(runs: Path, models: Path) -> list[Path]:
    """The files written."""
    written = []
    for name in ("vae", *(path.stem for path in sorted(CONFIGS.glob("*.json")))):
        made, target = runs / name / f"{'decoder' if name == 'vae' else name}.safetensors", weights_file(name, models)
        if not made.is_file():
            continue
        weights = load_file(made)
        (models / "puppet").mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, target, None if name == "vae" else {"config": json.dumps(CONFIG)})
        how = {"parameters": sum(weight.numel() for weight in weights.values()), **history(runs, name)}
        lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in how.items())
        (models / "puppet" / f"{name}.json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
        written.append(target)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="holds the folders of the runs: vae, puppet, puppet_unstitched, …")
    parser.add_argument("--models", type=Path, default=PACK / "models", help="where to; the pack's own")
    options = parser.parse_args()
    for path in export(options.runs, options.models):
        print(f"{path} {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
