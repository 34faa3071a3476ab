"""Style Anchor (AvatarForcing): the picture stands at one distance from whatever a rolling window sees."""
from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..techniques.style_anchor import StyleAnchor
from .input_checks import check_inputs, name_input
from .sockets import search_words


class LodestarStyleAnchor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarStyleAnchor",
            display_name="Style Anchor",
            category="Lodestar/techniques",
            description="Keeps the person the same in a stream: the picture moves along with the rolling window, "
                        "always at one distance (AvatarForcing).",
            inputs=[
                io.Model.Input("model", tooltip="A model that will be sampled with Rolling Window."),
                io.Float.Input("distance", default=-1.0, min=-1024.0, max=1024.0, step=1.0,
                               tooltip="Latents from the oldest frame the model sees: -1 stands just before it, 10 "
                                       "well ahead."),
                io.Boolean.Input("reindex", default=True,
                                 tooltip="Off: it stays where the take began and falls behind, for comparison."),
                io.Latent.Input("anchor", optional=True, tooltip="The picture; open: the take's own."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the picture attached, for a guider.")],
            **search_words("identity", "streaming", "attention sink", "avatarforcing", "reference"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, distance, reindex, anchor=None) -> io.NodeOutput:
        backbones.find(model)
        with name_input("anchor"):
            latents = backbones.anchor_latents(model, anchor)
        return io.NodeOutput(attach.with_technique(model, StyleAnchor(distance, reindex, latents=latents)))
