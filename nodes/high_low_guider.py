"""High/Low Noise Guider: the two models of Wan 2.2 A14B in one run of the sampler, each for its part of the noise."""
from comfy_api.latest import io

from ..backbones.high_low_guider import HighLowGuider, check_apart
from ..backbones.take_checks import check_prompt
from .input_checks import check_inputs, name_input
from .sockets import search_words


class LodestarHighLowGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        scale = {"default": 3.5, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}
        return io.Schema(
            node_id="LodestarHighLowGuider",
            display_name="High/Low Noise Guider",
            category="Lodestar/sampling",
            description="Wan 2.2 A14B has two models, one for high noise and one for low. This guider goes through "
                        "both in one run of the sampler, so that Long Take makes each chunk with the pair. Each keeps "
                        "its own LoRAs and scale; only the one at work has to be on the card.",
            inputs=[
                io.Model.Input("high_noise", tooltip="The high-noise model, which makes the first steps. Lodestar's "
                                                     "nodes need to be on one of the two only: the other gets the "
                                                     "same."),
                io.Model.Input("low_noise", tooltip="The low-noise model of the same pair, which makes the rest."),
                io.Conditioning.Input("positive", tooltip="The prompt, for both."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, for both."),
                io.Float.Input("cfg_high", **scale, tooltip="Guidance scale of the high-noise model. The authors use 4 "
                                                            "for text-to-video, 3.5 for image-to-video; 1 with a "
                                                            "distilled LoRA."),
                io.Float.Input("cfg_low", **scale, tooltip="Guidance scale of the low-noise model. The authors use 3 "
                                                           "for text-to-video, 3.5 for image-to-video; 1 with a "
                                                           "distilled LoRA."),
                io.Float.Input("boundary", default=0.0, min=0.0, max=1.0, step=0.005, round=0.0001,
                               tooltip="The sigma below which the low-noise model takes over. 0: as the authors have "
                                       "it, 0.875 for text-to-video, 0.9 for image-to-video."),
            ],
            outputs=[io.Guider.Output(tooltip="For Long Take or SamplerCustomAdvanced.")],
            **search_words("wan 2.2", "high noise", "low noise", "two models", "expert", "moe", "boundary",
                           "two stage"),
        )

    @classmethod
    @check_inputs
    def execute(cls, high_noise, low_noise, positive, negative, cfg_high, cfg_low, boundary) -> io.NodeOutput:
        guider = HighLowGuider(high_noise, low_noise, positive, negative, cfg_high, cfg_low, boundary or None)
        check_apart(high_noise, low_noise)
        for name, prompt in (("positive", positive), ("negative", negative)):
            with name_input(name):
                check_prompt(high_noise, [text for text, _ in prompt])
        return io.NodeOutput(guider)
