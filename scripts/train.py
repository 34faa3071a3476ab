"""Train a recipe on a folder of clips: `python scripts/train.py RECIPE CLIPS OUT --base FILE --steps 1000`.

OUT gets checkpoint.safetensors and lora.safetensors, which ComfyUI's own LoRA loader reads. End it at any moment and
begin it again with the same words: it goes on where it was. Two words in place of a recipe make what it reads:

    train.py clips VIDEOS CLIPS --base FILE --vae FILE      clips of a folder of videos, or of one video
    train.py backfill CLIPS CLIPS --base FILE               paths of the base as a teacher, beside the clips
"""
from lib import environment, pack  # isort: skip - first, because it refuses a Python that is too old

import argparse
import logging
import tempfile
from pathlib import Path

from lib.base_model import LOG_MEL, add_base, load_base, load_encoder, load_vae


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="such as: flexible anchor, stitching, disentangled silence, restorative flow, "
                                       "student regression; or clips, backfill")
    parser.add_argument("clips", type=Path, help="the folder that Make Training Clips filled; for clips the videos")
    parser.add_argument("out", type=Path, help="the folder of the run, or of the clips")
    add_base(parser)
    parser.add_argument("--seed", type=int, default=0)
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=int, default=1000, help="of the training; the teacher's for backfill")
    training.add_argument("--rank", type=int, default=32)
    training.add_argument("--batch", type=int, default=1, help="examples that one step adds up")
    training.add_argument("--rate", type=float, default=1e-4)
    training.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto")
    training.add_argument("--shelf", default="clips", help="which pairs or preferences, where the clips have several")
    training.add_argument("--adaptation", type=int, help="steps of restorative flow before anything is restored; 4000")
    training.add_argument("--start", type=Path, help="a LoRA to begin with: student regression's, for student matching")
    training.add_argument("--plan", action="store_true", help="say the memory that a step takes, and end")
    student = parser.add_argument_group("student recipes and backfill")
    student.add_argument("--student", default="AvatarForcing", help="whose noise levels; even: spread evenly")
    for name, value in (("--blocks", 4), ("--block-latents", 4), ("--passes", 1)):
        student.add_argument(name, type=int, default=value, help="of its rolling window")
    student.add_argument("--shift", type=float, default=5.0)
    student.add_argument("--pairs", type=int, default=1000, help="paths in all")
    making = parser.add_argument_group("clips")
    making.add_argument("--vae", type=Path)
    making.add_argument("--audio-encoder", default="", help=f"its file, or {LOG_MEL}")
    making.add_argument("--clip-seconds", type=float, default=8.0)
    making.add_argument("--chunk-frames", type=int, default=0)
    making.add_argument("--faces", default="whole picture")
    making.add_argument("--width", type=int, default=0)
    making.add_argument("--height", type=int, default=0)
    making.add_argument("--perturbed", action="store_true")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory(prefix="lodestar-train-", ignore_cleanup_errors=True) as base:
        environment.bring_comfyui(options.comfyui or environment.newest_comfyui(), base, options.cpu)
        import utils.extra_config  # noqa: F401 - as main.py does: ComfyUI's nodes.py puts a folder with utils.py first
        pack.load_pack()
        from lodestar.pipelines.training.run import LossNotFinite
        try:
            print({"clips": make_clips, "backfill": make_paths}.get(options.recipe, train)(options))
        except (ValueError, OSError, LossNotFinite) as error:
            raise SystemExit(str(error)) from error


def train(options: argparse.Namespace) -> str:
    from lodestar.host.recipe_choice import RECIPES, plan_by_name, train_by_name
    from lodestar.pipelines.training.run import Settings
    settings = Settings(options.steps, options.rank, options.batch, options.rate, options.seed)
    choice = RECIPES.get(options.recipe)
    window = window_of(options) if choice is not None and choice.student else None
    asked = load_base(options), options.recipe, options.clips
    if options.plan:
        return str(plan_by_name(*asked, settings, shelf=options.shelf, window=window, dtype=options.dtype))
    import comfy.utils
    start = comfy.utils.load_torch_file(str(options.start)) if options.start else None
    made = train_by_name(*asked, options.out, settings, shelf=options.shelf, window=window, dtype=options.dtype,
                         start=start, adaptation=options.adaptation)
    return f"{made.file}: {len(made.losses)} steps, loss {made.losses[-1]:.4f}"


def window_of(options: argparse.Namespace):
    from lodestar.techniques.flow_schedules import student_levels
    from lodestar.techniques.rolling_window import Rolling
    levels = student_levels(options.student, options.blocks, options.passes, options.shift)
    return Rolling(tuple(levels.tolist()), options.block_latents, options.passes)


def make_clips(options: argparse.Namespace) -> str:
    from lodestar.host.training_clips import ClipProgress, ClipRequest, fill_store
    from lodestar.pipelines.training.clip_store import ClipStore
    if options.vae is None:
        raise ValueError("--vae: give the base's own VAE")
    request = ClipRequest(load_base(options), load_vae(options.vae), load_encoder(options.audio_encoder),
                          options.chunk_frames, options.clip_seconds, options.faces, options.width, options.height,
                          options.perturbed, options.seed)
    store = ClipStore.create(options.out, request.made_with())
    return f"{fill_store(options.clips, store, request, ClipProgress(None))}, in {options.out}"


def make_paths(options: argparse.Namespace) -> str:
    """With the base's blank prompt, unguided; a guided teacher is for the node."""
    import comfy.samplers
    import torch
    from lodestar.host.recipe_training import blank_prompt
    from lodestar.host.teacher import Teacher, backfill
    from lodestar.pipelines.training.clip_store import ClipStore
    from lodestar.techniques.flow_schedules import student_levels
    model = load_base(options)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(blank_prompt(model), blank_prompt(model))
    teacher = Teacher.of(guider, comfy.samplers.sampler_object("euler"),
                         student_levels("even", options.steps, 1, options.shift), options.seed)
    with torch.inference_mode():
        _, said = backfill(ClipStore.open(options.clips), teacher, torch.tensor(window_of(options).sigmas),
                           options.pairs, options.seed, None)
    return said


if __name__ == "__main__":
    main()
