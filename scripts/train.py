"""Train a recipe on a folder of clips: `python scripts/train.py "flexible anchor" CLIPS OUT --base FILE --steps 1000`.

OUT gets checkpoint.safetensors and lora.safetensors, which ComfyUI's own LoRA loader reads. End it at any moment and
begin it again with the same words: it goes on where it was.
"""
from lib import environment, pack  # isort: skip - first, because it refuses a Python that is too old

import argparse
import logging
import tempfile
from pathlib import Path

CORE = "core"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="such as: flexible anchor, stitching, disentangled silence, restorative flow")
    parser.add_argument("clips", type=Path, help="the folder that Make Training Clips filled")
    parser.add_argument("out", type=Path, help="the folder of the run")
    parser.add_argument("--base", type=Path, required=True, help="the diffusion model's file")
    parser.add_argument("--loader", choices=(CORE, "longcat"), default=CORE, help="longcat: LongCat and its avatars")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1, help="examples that one step adds up")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--shelf", default="clips", help="which pairs or preferences, where the clips have several")
    parser.add_argument("--comfyui", type=Path, default=None, help="$COMFYUI_PATH, or the newest that is found")
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="lodestar-train-", ignore_cleanup_errors=True) as base:
        environment.bring_comfyui(options.comfyui or environment.newest_comfyui(), base, options.cpu)
        import utils.extra_config  # noqa: F401 - as main.py does: ComfyUI's nodes.py puts a folder with utils.py first
        pack.load_pack()
        from lodestar.host.recipe_choice import train_by_name
        from lodestar.pipelines.training.run import LossNotFinite, Settings
        try:
            settings = Settings(options.steps, options.rank, options.batch, options.rate, options.seed)
            trained = train_by_name(load_base(options), options.recipe, options.clips, options.out, settings,
                                    dtype=options.dtype, shelf=options.shelf)
        except (ValueError, OSError, LossNotFinite) as error:
            raise SystemExit(str(error)) from error
        print(f"{trained.file}: {len(trained.losses)} steps, loss {trained.losses[-1]:.4f}")


def load_base(options: argparse.Namespace):
    """The MODEL of the base's file."""
    if not options.base.is_file():
        raise ValueError(f"--base: {options.base} is no file")
    if options.loader == CORE:
        import comfy.sd
        return comfy.sd.load_diffusion_model(str(options.base))
    from lodestar.backbones.longcat.loader import load_longcat
    return load_longcat(str(options.base))


if __name__ == "__main__":
    main()
