"""Load OmniAvatar: its published file and the Wan 2.1 T2V that it was trained on, as one MODEL."""
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..backbones.omniavatar.loader import load_omniavatar
from ..backbones.weight_loading import WEIGHT_DTYPES
from .input_checks import check_inputs
from .sockets import search_words

BASES, FOLDERS = "diffusion_models", ("diffusion_models", "loras")


def file_names() -> list[str]:
    """What may be OmniAvatar's file, those whose path says so first."""
    names = {name for folder in FOLDERS for name in folder_paths.get_filename_list(folder)}
    return sorted(names, key=lambda name: ("omniavatar" not in name.lower(), name))


def file_path(name: str) -> Path:
    found = next(filter(None, (folder_paths.get_full_path(folder, name) for folder in FOLDERS)), None)
    if found is None:
        raise ValueError(f"omniavatar_name: {name} is neither in models/diffusion_models nor in models/loras any more; "
                         "reload the page and choose another")
    return Path(found)


class LodestarLoadOmniAvatar(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLoadOmniAvatar",
            display_name="Load OmniAvatar",
            category="Lodestar/loaders",
            description="Loads OmniAvatar 14B or 1.3B as an ordinary MODEL: the file its authors publish, and Wan 2.1 "
                        "text-to-video of the same size beneath it. The LoRA in it gets the scale it was trained with, "
                        "which the file itself does not hold.",
            inputs=[
                io.Combo.Input("base_name", options=folder_paths.get_filename_list(BASES),
                               tooltip="Wan 2.1 text-to-video from models/diffusion_models: 14B for OmniAvatar-14B, "
                                       "1.3B for OmniAvatar-1.3B."),
                io.Combo.Input("omniavatar_name", options=file_names(),
                               tooltip="OmniAvatar's pytorch_model.pt, or the same as safetensors, from "
                                       "models/diffusion_models or models/loras. Give it a name of its own, such as "
                                       "OmniAvatar-14B.pt."),
                io.Float.Input("strength", default=1.0, min=0.0, max=2.0, step=0.05,
                               tooltip="Of OmniAvatar's LoRA: 1 is as it was trained."),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), default="default",
                               tooltip="default: as the base file is. fp8: half the memory of bf16, a little coarser; "
                                       "fast multiplies in fp8 too, on cards that can."),
            ],
            outputs=[io.Model.Output(tooltip="For any sampler. CLIP is umt5-xxl (type wan), VAE is Wan 2.1's.")],
            **search_words("omniavatar", "talking head", "avatar", "talking avatar", "diffusion model", "lip sync"),
        )

    @classmethod
    @check_inputs
    def execute(cls, base_name, omniavatar_name, strength, weight_dtype) -> io.NodeOutput:
        base = Path(folder_paths.get_full_path_or_raise(BASES, base_name))
        return io.NodeOutput(load_omniavatar(base, file_path(omniavatar_name), strength, weight_dtype))
