"""Temporal Anchor (AvatarForcing): the last finished latents stay in sight of a rolling window."""
from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..techniques.temporal_anchor import OFFLOADS, PRECISIONS, TemporalAnchor
from .input_checks import check_inputs
from .sockets import search_words


class LodestarTemporalAnchor(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarTemporalAnchor",
            display_name="Temporal Anchor",
            category="Lodestar/techniques",
            description="Keeps a stream smooth: the last finished latents stay in sight of the rolling window, clean "
                        "(AvatarForcing).",
            inputs=[
                io.Model.Input("model", tooltip="A model that will be sampled with Rolling Window."),
                io.Int.Input("latents", default=2, min=0, max=64,
                             tooltip="Finished latents that stay in sight. 0: none."),
                io.Combo.Input("keep", options=list(OFFLOADS), default="VRAM", optional=True,
                               tooltip="Where a model that remembers keeps their keys and values. RAM frees the card: "
                                       "each block's part comes over when it is its turn."),
                io.Combo.Input("precision", options=list(PRECISIONS), default="model", optional=True,
                               tooltip="What they are kept in: fp8 halves them and rounds."),
            ],
            outputs=[io.Model.Output(tooltip="The model that sees them, for a guider.")],
            **search_words("streaming", "context", "kv cache", "avatarforcing", "smooth"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, latents, keep="VRAM", precision="model") -> io.NodeOutput:
        backbones.find(model)
        return io.NodeOutput(attach.with_technique(model, TemporalAnchor(latents, keep, precision)))
