"""Latent Stitch (papers 001 and 003): how a chunk hands over to the next one."""
from comfy_api.latest import io

from ..backbones import attach
from ..techniques.latent_stitch import MODES, LatentStitch
from .input_checks import checked
from .sockets import search_words


class LodestarLatentStitch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLatentStitch",
            display_name="Latent Stitch",
            category="Lodestar/techniques",
            description="Says what opens the next chunk of a Long Take: the last latents as they were sampled, or "
                        "their frames encoded afresh. Without this node: what the model was trained with.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the guider of Long Take uses."),
                io.Combo.Input("mode", options=list(MODES), default="stitch",
                               tooltip="stitch: latents as sampled, no VAE round trip, no colour creep. re-encode: "
                                       "decode and encode the tail, for models trained that way."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the hand-over attached.")],
            **search_words("continue video", "seamless", "chunk transition", "overlap", "extend video"),
        )

    @classmethod
    @checked
    def execute(cls, model, mode) -> io.NodeOutput:
        return io.NodeOutput(attach.with_technique(model, LatentStitch(mode)))
