"""Reference Skip Attention (LongCat-Video-Avatar): frames near the reference's own time do not attend to it."""
from comfy_api.latest import io

from ..backbones import attach
from ..techniques.reference_skip import MODES, ReferenceSkip
from .input_checks import check_inputs
from .sockets import search_words


class LodestarReferenceSkip(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarReferenceSkip",
            display_name="Reference Skip",
            category="Lodestar/techniques",
            description="Stops the copy-paste look of a reference that stands inside the chunk: the frames next to it "
                        "do not attend to it (Reference Skip Attention). The log says when it has no effect.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with a Lookahead Anchor placed 'in chunk'."),
                io.Combo.Input("mode", options=list(MODES), default="hard",
                               tooltip="hard: frames within radius do not attend to the reference. soft: only its own "
                                       "frame does not, its neighbours do so less. upstream: hard, but only if all "
                                       "these frames lie in the chunk, as LongCat's own code does it."),
                io.Int.Input("radius", default=1, min=0, max=64,
                             tooltip="How many latent frames on either side skip the reference (the paper: 1)."),
                io.Float.Input("factor", default=0.5, min=0.0, max=1.0, step=0.05,
                               tooltip="Only for soft: the neighbours' attention weight of the reference is multiplied "
                                       "by this, 0 to 1."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the skip attached.")],
            **search_words("copy paste", "reference attention", "attention mask", "identity", "stiff"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, mode, radius, factor) -> io.NodeOutput:
        return io.NodeOutput(attach.with_technique(model, ReferenceSkip(mode, radius, factor)))
