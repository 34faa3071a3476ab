"""Load CogVideoX: its published transformers from models/diffusion_models, as an ordinary MODEL."""
from pathlib import Path, PurePath

import folder_paths
from comfy_api.latest import io

from ..backbones.cogvideox.loader import SHARD, load_cogvideox
from ..backbones.weight_loading import WEIGHT_DTYPES
from .input_checks import check_inputs
from .sockets import search_words

FOLDER = "diffusion_models"


def model_names() -> list[str]:
    """Files, and every folder of shards as one entry; those whose path says CogVideoX first."""
    files = map(PurePath, folder_paths.get_filename_list(FOLDER))
    names = {str(file.parent if SHARD.fullmatch(file.name) and file.parent != PurePath() else file) for file in files}
    return sorted(names, key=lambda name: ("cogvideo" not in name.lower(), name))


def model_path(name: str) -> Path:
    places = (Path(root) / name for root in folder_paths.get_folder_paths(FOLDER))
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise ValueError(f"model_name: {name} is not in models/diffusion_models any more; reload the page and choose "
                         "another")
    return found


class LodestarLoadCogVideoX(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLoadCogVideoX",
            display_name="Load CogVideoX",
            category="Lodestar/loaders",
            description="Loads CogVideoX 2B, 5B and 5B I2V, and CogVideoX 1.5, as they are published, for ComfyUI's "
                        "own network: one file, or a folder of shards. Needs ComfyUI 0.33.",
            inputs=[
                io.Combo.Input("model_name", options=model_names(),
                               tooltip="From models/diffusion_models: a file such as "
                                       "CogVideoX_1_5_5b_I2V_bf16.safetensors, or the folder transformer of the "
                                       "authors' repository under a name of its own."),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), default="default",
                               tooltip="default: as the file is. fp8: half the memory of bf16, a little coarser; "
                                       "fast multiplies in fp8 too, on cards that can."),
            ],
            outputs=[io.Model.Output(tooltip="For VOID Sampler. CLIP is t5xxl (type cogvideox), VAE is CogVideoX's.")],
            **search_words("cogvideo", "cogvideox", "diffusion model", "text to video", "image to video"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model_name, weight_dtype) -> io.NodeOutput:
        return io.NodeOutput(load_cogvideox(model_path(model_name), weight_dtype))
