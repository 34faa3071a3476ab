"""Global Time: each of ComfyUI's context windows keeps its place on the timeline."""
from comfy_api.latest import io

from .. import backbones
from ..backbones import attach
from ..techniques.global_time import GlobalTime
from .input_checks import check_inputs
from .sockets import search_words


class LodestarGlobalTime(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarGlobalTime",
            display_name="Global Time",
            category="Lodestar/techniques",
            description="For ComfyUI's context windows: gives each window its place on the timeline of the whole "
                        "latent, so that not every window is made as the opening of the shot. Needs something that "
                        "stays put: an anchor, or Wan S2V's reference.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with core's Context Windows and a Lookahead Anchor on it "
                                                "(Wan S2V brings its own reference), in any order."),
            ],
            outputs=[io.Model.Output(tooltip="The model whose context windows keep their times.")],
            **search_words("context windows", "timeline", "rope offset", "long video", "flicker", "window position"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model) -> io.NodeOutput:
        backbones.find(model)
        return io.NodeOutput(attach.with_technique(model, GlobalTime()))
