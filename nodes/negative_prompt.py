"""Negative Prompt (normalized attention guidance): for LongCat models that are distilled to one prediction a step."""
from comfy_api.latest import io

from ..backbones import attach, find
from ..backbones.longcat.model import LongCatVideo
from ..backbones.take_checks import check_prompt, check_single
from ..techniques.attention_guidance import AttentionGuidance
from ..techniques.negative_text import NegativeText
from .input_checks import check_inputs, name_input
from .sockets import search_words


class LodestarNegativePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarNegativePrompt",
            display_name="Negative Prompt (NAG)",
            category="Lodestar/sampling",
            description="A negative prompt for distilled LongCat models, which know no CFG: normalized attention "
                        "guidance in the text cross-attention, for one more text attention a block instead of a second "
                        "prediction.",
            inputs=[
                io.Model.Input("model", tooltip="LongCat-Video or an avatar from Load LongCat, with its LoRA."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Float.Input("nag_scale", default=11.0, min=1.0, max=50.0, step=0.1,
                               tooltip="How far the text is guided away from the negative prompt. 1: not at all."),
                io.Float.Input("nag_tau", default=2.5, min=1.0, max=10.0, step=0.01,
                               tooltip="How much larger than without guidance an output may become."),
                io.Float.Input("nag_alpha", default=0.25, min=0.0, max=1.0, step=0.01,
                               tooltip="How much of the guided output is taken. 0: nothing, 1: all of it."),
            ],
            outputs=[io.Model.Output(tooltip="For Basic Guider, or any guider at a scale of 1.")],
            **search_words("nag", "normalized attention guidance", "negative prompt", "distilled", "cfg 1", "longcat"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, negative, nag_scale, nag_tau, nag_alpha) -> io.NodeOutput:
        if not isinstance(model.model, LongCatVideo):
            raise ValueError(f"model: got {find(model).name}, wanted a LongCat model. Remove this node, or use CFG")
        with name_input("negative"):
            check_prompt(model, [text for text, _ in negative])
            check_single(negative)
        guidance = AttentionGuidance(nag_scale, nag_tau, nag_alpha)
        text = model.model.pad_text(negative[0][0])
        return io.NodeOutput(attach.with_technique(model, NegativeText(text, guidance)))
