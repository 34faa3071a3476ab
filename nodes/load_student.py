"""Load Student: a causal student as its authors publish it, as one MODEL."""
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..backbones.omniavatar import student as omniavatar
from ..backbones.student_files import StudentFiles
from ..backbones.wan import live_avatar
from ..backbones.wan import student as wan
from ..backbones.weight_loading import WEIGHT_DTYPES
from .input_checks import check_inputs
from .sockets import search_words

BASES, FOLDERS = "diffusion_models", ("diffusion_models", "loras")
WORDS = ("forcing", "student", "causal", "liveavatar", "live-avatar")
LOADERS = {"omniavatar": omniavatar.load_student, "wan": wan.load_student, "s2v": live_avatar.load_student}


def file_names() -> list[str]:
    """What may be a student's file, those whose path says so first."""
    names = {name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)}
    return sorted(names, key=lambda name: (not any(word in name.lower() for word in WORDS), name))


def file_path(name: str) -> Path:
    found = next(filter(None, (folder_paths.get_full_path(folder, name) for folder in FOLDERS)), None)
    if found is None:
        raise ValueError(f"student_name: {name} is neither in models/diffusion_models nor in models/loras any more; "
                         "reload the page and choose another")
    return Path(found)


class LodestarLoadStudent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLoadStudent",
            display_name="Load Student",
            category="Lodestar/loaders",
            description="Loads a causal student as an ordinary MODEL, from the file its authors publish: "
                        "AvatarForcing, Self-Forcing, Causal-Forcing, or LiveAvatar's LoRA on Wan 2.2 S2V. A LoRA in "
                        "it gets the scale it was trained with.",
            inputs=[
                io.Combo.Input("student_name", options=file_names(),
                               tooltip="The student's file, .pt or .safetensors, from models/diffusion_models or "
                                       "models/loras; of a file in shards any one of them. Read as weights only, so no "
                                       "code in it runs."),
                io.Combo.Input("weights", options=["ema", "plain"], default="ema",
                               tooltip="Which of two sets in one file: ema is the averaged one (generator_ema), plain "
                                       "the trained one itself (generator). Where the file has one alone, it is that."),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), default="default",
                               tooltip="default: as the file is. fp8: half the memory of bf16, a little coarser; "
                                       "fast multiplies in fp8 too, on cards that can."),
                io.Combo.Input("base_name", options=folder_paths.get_filename_list(BASES), optional=True,
                               tooltip="From models/diffusion_models, for a file that holds changes of a network "
                                       "alone: Wan 2.2 S2V for LiveAvatar, Wan 2.1 text-to-video 1.3B for others."),
            ],
            outputs=[io.Model.Output(tooltip="For Rolling Window; LiveAvatar for any sampler. CLIP is umt5-xxl (type "
                                             "wan), VAE is Wan 2.1's.")],
            **search_words("self forcing", "causal forcing", "avatarforcing", "liveavatar", "streaming", "few step",
                           "diffusion model"),
        )

    @classmethod
    @check_inputs
    def execute(cls, student_name, weights, weight_dtype, base_name=None) -> io.NodeOutput:
        base = Path(folder_paths.get_full_path_or_raise(BASES, base_name)) if base_name else None
        files = StudentFiles(file_path(student_name), weights, base)
        return io.NodeOutput(LOADERS[files.kind()](files, weight_dtype))
