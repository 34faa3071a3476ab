"""InfiniteTalk Sampler: the solver and the schedule that InfiniteTalk's authors sample with."""
import comfy.samplers
from comfy_api.latest import io

from ..techniques.flow_schedules import schedule
from .input_checks import check_inputs
from .sockets import search_words

MOST_STEPS = 1000


class LodestarInfiniteTalkSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarInfiniteTalkSampler",
            display_name="InfiniteTalk Sampler",
            category="Lodestar/sampling",
            description="Euler on the schedule of InfiniteTalk and MultiTalk, which ComfyUI's schedulers do not have: "
                        "even timesteps from 1000 to 1, shifted. Any other sampler and schedule work with them, too.",
            inputs=[
                io.Int.Input("steps", default=40, min=1, max=MOST_STEPS,
                             tooltip="40 as its authors have it, 8 with a step-distilled LoRA."),
                io.Float.Input("shift", default=7.0, min=0.01, max=100.0, step=0.1, round=0.01,
                               tooltip="More spends more steps where there is much noise. 7 for 480p, 11 for 720p, 2 "
                                       "with a step-distilled LoRA, as its authors have it."),
            ],
            outputs=[io.Sampler.Output(tooltip="For Long Take or SamplerCustomAdvanced."),
                     io.Sigmas.Output(tooltip="The schedule, for the same node.")],
            **search_words("sigmas", "scheduler", "timesteps", "infinitetalk", "multitalk", "euler"),
        )

    @classmethod
    @check_inputs
    def execute(cls, steps, shift) -> io.NodeOutput:
        return io.NodeOutput(comfy.samplers.sampler_object("euler"), schedule("normal", steps, shift))
