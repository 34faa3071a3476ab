"""Blank Prompt: a CONDITIONING of zeros, for a take without a text encoder."""
import torch
from comfy_api.latest import io

from ..backbones import find
from .input_checks import check_inputs
from .sockets import search_words

UMT5_WIDTH = 4096


class LodestarBlankPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarBlankPrompt",
            display_name="Blank Prompt",
            category="Lodestar/sampling",
            description="A prompt of zeros where no text encoder is loaded: for trying things out, for tiny models, "
                        "for audio-driven models at CFG 1. A real take is better with a real prompt.",
            inputs=[
                io.Int.Input("tokens", default=16, min=1, max=512,
                             tooltip="How many tokens of zeros. Wan gives the same result for any number: all are "
                                     "alike."),
                io.Int.Input("width", default=0, min=0, max=16384,
                             tooltip="Width of the model's text encoder. 0: that of the connected model, else 4096, "
                                     "which is umt5-xxl, of Wan and LongCat."),
                io.Model.Input("model", optional=True,
                               tooltip="The model that the prompt is for. Needed by models whose text encoder is not "
                                       "umt5-xxl, such as the puppet, and by HunyuanVideo, which reads more of a "
                                       "prompt than its tokens."),
            ],
            outputs=[io.Conditioning.Output(tooltip="In place of CLIP Text Encode.")],
            **search_words("empty conditioning", "no text encoder", "zero prompt"),
        )

    @classmethod
    @check_inputs
    def execute(cls, tokens, width, model=None) -> io.NodeOutput:
        if model is None:
            return io.NodeOutput([[torch.zeros(1, tokens, width or UMT5_WIDTH), {}]])
        backbone = find(model)
        text = torch.zeros(1, tokens, width or backbone.text_width(model.model))
        return io.NodeOutput([[text, backbone.prompt_values(model.model)]])
