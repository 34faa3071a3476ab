"""Blank Prompt: a CONDITIONING that says nothing, for a take that runs without a text encoder."""
import torch
from comfy_api.latest import io


class LodestarBlankPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarBlankPrompt",
            display_name="Blank Prompt",
            category="Lodestar",
            description="A prompt of zeros where no text encoder is loaded: for trying things out, for tiny models, "
                        "for audio-driven models at CFG 1. A real take is better with a real prompt.",
            inputs=[
                io.Int.Input("tokens", default=16, min=1, max=512,
                             tooltip="Rows of zeros. Wan answers the same for any number of them: they are all alike."),
                io.Int.Input("width", default=4096, min=1, max=16384,
                             tooltip="How wide the text encoder of the model is. 4096 is umt5-xxl, which Wan uses."),
            ],
            outputs=[io.Conditioning.Output(tooltip="In place of CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, tokens, width) -> io.NodeOutput:
        return io.NodeOutput([[torch.zeros(1, tokens, width), {}]])
