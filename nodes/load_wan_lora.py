"""Load Wan LoRA: LoRA files without the prefix that ComfyUI's own loader looks for, such as EverAnimate's."""
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from .. import backbones
from ..backbones.wan.lora import with_plain_lora
from ..backbones.weight_loading import load_weights
from .input_checks import check_inputs
from .sockets import search_words


class LodestarLoadWanLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLoadWanLora",
            display_name="Load Wan LoRA",
            category="Lodestar/loaders",
            description="Puts a LoRA on a Wan model whose file names its layers as their authors do, without a prefix: "
                        "EverAnimate's and Stable Video Infinity's, of which ComfyUI's own loader finds no layer. "
                        "Ordinary files are taken, too.",
            inputs=[
                io.Model.Input("model", tooltip="For EverAnimate Wan-Animate, for Stable Video Infinity Wan "
                                                "image-to-video. Several of these nodes may follow each other."),
                io.Combo.Input("lora_name", options=folder_paths.get_filename_list("loras"),
                               tooltip="From models/loras, for example EverAnimate's stage2_480p.safetensors."),
                io.Float.Input("strength", default=1.0, min=-100.0, max=100.0, step=0.01,
                               tooltip="1 is what the file was trained for: without an alpha it is the rank."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the LoRA; the one that came in is unchanged.")],
            **search_words("lora", "everanimate", "stable video infinity", "svi", "diffsynth"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, lora_name, strength) -> io.NodeOutput:
        backbones.find(model)
        path = Path(folder_paths.get_full_path_or_raise("loras", lora_name))
        return io.NodeOutput(with_plain_lora(model, load_weights(path, "lora_name")[0], strength, lora_name))
