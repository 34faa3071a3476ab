"""Load LongCat LoRA: official LongCat LoRA files, and ordinary ones, on bf16, fp8 and quantised weights alike."""
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..backbones.longcat.lora import with_lora
from ..backbones.weight_loading import load_weights
from .input_checks import check_inputs
from .sockets import search_words


class LodestarLoadLongCatLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarLoadLongCatLora",
            display_name="Load LongCat LoRA",
            category="Lodestar/loaders",
            description="Puts a LoRA on a LongCat model: the official files (the 8-step LoRA of Avatar 1.5, the "
                        "16-step and the refinement LoRA) as they are, and ordinary ones. On int8, scaled "
                        "fp8 and GGUF weights it stays exact.",
            inputs=[
                io.Model.Input("model", tooltip="From Load LongCat. Several of these nodes may follow each other."),
                io.Combo.Input("lora_name", options=folder_paths.get_filename_list("loras"),
                               tooltip="From models/loras, for example dmd_lora.safetensors."),
                io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.01,
                               tooltip="1 is what the file was trained for: its own alpha is used."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRA; the one that came in is unchanged.")],
            **search_words("lora", "longcat lora", "distilled", "few steps"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise("loras", lora_name))
        return io.NodeOutput(with_lora(model, load_weights(path, "lora_name")[0], strength, lora_name))
