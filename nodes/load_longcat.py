"""Load LongCat: LongCat-Video and LongCat-Video-Avatar from models/diffusion_models and models/longcat."""
import os
import re
from pathlib import Path, PurePath

import folder_paths
from comfy_api.latest import io

from ..backbones import attach
from ..backbones.longcat.loader import GGUF, load_longcat
from ..backbones.weight_loading import WEIGHT_DTYPES
from ..techniques.conditioning_cache import OFFLOADS, ConditioningCache
from ..techniques.technique import ChunkPosition
from .input_checks import check_inputs
from .sockets import search_words

OFF = "off"
FOLDERS = ("diffusion_models", "longcat")
SUFFIXES = (".safetensors", ".sft", GGUF)
SHARD = re.compile(r".+-\d{5}-of-\d{5}\.safetensors")


def model_names() -> list[str]:
    """Files, and every folder of shards as one entry."""
    folder_paths.add_model_folder_path("longcat", os.path.join(folder_paths.models_dir, "longcat"))
    files = [PurePath(name) for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    files += [PurePath(name) for root in folder_paths.get_folder_paths(FOLDERS[0])     # ComfyUI lists no GGUF there
              for name in folder_paths.recursive_search(root)[0] if name.endswith(GGUF)]
    whole = (file.parent if SHARD.fullmatch(file.name) and file.parent != PurePath() else file
             for file in files if file.suffix in SUFFIXES)
    return sorted(set(map(str, whole)))


def model_path(name: str) -> str:
    places = (Path(root) / name for folder in FOLDERS for root in folder_paths.get_folder_paths(folder))
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise ValueError(f"model_name: {name} is neither in models/diffusion_models nor in models/longcat any more; "
                         "reload the page and choose another")
    return str(found)


class LodestarLoadLongCat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLoadLongCat",
            display_name="Load LongCat",
            category="Lodestar/loaders",
            description="Loads LongCat-Video, LongCat-Video-Avatar 1.0 or 1.5 as an ordinary MODEL: one safetensors "
                        "or GGUF file, or an official folder of shards; bf16, fp8, scaled fp8 and int8. The weights "
                        "say which it is.",
            inputs=[
                io.Combo.Input("model_name", options=model_names(),
                               tooltip="From models/diffusion_models or models/longcat: a file, or a folder with "
                                       "shards, their index and config.json."),
                io.Combo.Input("weight_dtype", options=list(WEIGHT_DTYPES), default="default",
                               tooltip="default: as the file is. fp8: half the memory of bf16, a little coarser; "
                                       "fast multiplies in fp8 too, on cards that can. What is quantised already "
                                       "(int8, scaled fp8, GGUF) stays as it is."),
                io.Combo.Input("kv_cache", options=[*OFFLOADS, OFF], default=OFFLOADS[0],
                               tooltip="Caches the keys and values of the reference and the conditioning frames, once "
                                       "per chunk for all steps: saves about a tenth of the time, with the same "
                                       "result. 5 latents at 480x832 take 6.1 GB in bf16: in VRAM, or offloaded to "
                                       "RAM, where each block's part is copied while the block before it runs (0.3 GB "
                                       "of VRAM)."),
            ],
            outputs=[io.Model.Output(tooltip="For any sampler. CLIP is umt5-xxl (type wan), VAE is Wan 2.1's.")],
            **search_words("longcat", "talking head", "avatar", "talking avatar", "diffusion model", "lip sync"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model_name, weight_dtype, kv_cache) -> io.NodeOutput:
        model = load_longcat(model_path(model_name), weight_dtype)
        techniques = () if kv_cache == OFF else (ConditioningCache(kv_cache),)
        return io.NodeOutput(attach.install_techniques(model, techniques, ChunkPosition()))
