"""Style Anchor (AvatarForcing): the picture stands at one distance from whatever a rolling window sees."""
from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..techniques.style_anchor import AUDIO, IN_WRITE, StyleAnchor
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
                io.Combo.Input("anchor_audio", options=list(AUDIO), default="nothing", optional=True,
                               tooltip="Audio features of the picture, on causal students. nothing: zeros, as they are "
                                       "trained; window: the window's first, for comparison."),
                io.Combo.Input("in_write", options=list(IN_WRITE), default="same", optional=True,
                               tooltip="Where it stands while finished latents are remembered, on causal students. "
                                       "upstream: left behind there, as in the authors' code."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the picture attached, for a guider.")],
            **search_words("identity", "streaming", "attention sink", "avatarforcing", "reference"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, distance, reindex, anchor=None, anchor_audio="nothing", in_write="same"
                ) -> io.NodeOutput:
        backbones.find(model)
        with name_input("anchor"):
            latents = backbones.anchor_latents(model, anchor)
        technique = StyleAnchor(distance, reindex, anchor_audio == "window", in_write, latents)
        return io.NodeOutput(attach.with_technique(model, technique))
