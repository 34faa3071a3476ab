"""Colour Match (Reinhard et al. 2001): a take keeps the colours of its picture, chunk after chunk."""
from comfy_api.latest import io

from ..backbones import attach
from ..techniques.colour_match import ColourMatch
from .input_checks import check_inputs
from .sockets import search_words


class LodestarColourMatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarColourMatch",
            display_name="Colour Match",
            category="Lodestar/techniques",
            description="Brings each frame of a Long Take to the colours of its picture, where chunks that are encoded "
                        "again drift: the mean and the spread of lightness and colour. The next chunk continues from "
                        "what was matched.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the guider of Long Take uses. Any that is supported."),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05, round=0.01,
                               tooltip="How much of the way to the picture's colours. 0: none, also where the "
                                       "InfiniteTalk node has it on. Lower it where the light is to "
                                       "change in the take."),
            ],
            outputs=[io.Model.Output(tooltip="The model with this choice attached.")],
            **search_words("color match", "color correction", "colour drift", "saturation", "long video"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, strength) -> io.NodeOutput:
        return io.NodeOutput(attach.with_technique(model, ColourMatch(strength)))
