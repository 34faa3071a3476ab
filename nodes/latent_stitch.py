"""Latent Stitch (LongCat-Video-Avatar, EverAnimate): from what the next chunk continues."""
from comfy_api.latest import io

from ..backbones import attach
from ..techniques.latent_stitch import MODES, LatentStitch
from .input_checks import check_inputs
from .sockets import search_words


class LodestarLatentStitch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLatentStitch",
            display_name="Latent Stitch",
            category="Lodestar/techniques",
            description="Says from what the next chunk of a Long Take continues: the last latents as they were "
                        "sampled, or their frames, re-encoded. Without this node: what the model was trained with.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the guider of Long Take uses."),
                io.Combo.Input("mode", options=list(MODES), default="stitch",
                               tooltip="stitch: latents as sampled, no VAE round trip, no colour drift from it. "
                                       "re-encode: the last frames, encoded again, for models trained that way."),
            ],
            outputs=[io.Model.Output(tooltip="The model with this choice attached.")],
            **search_words("continue video", "seamless", "chunk transition", "overlap", "extend video"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, mode) -> io.NodeOutput:
        return io.NodeOutput(attach.with_technique(model, LatentStitch(mode)))
