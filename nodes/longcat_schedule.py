"""LongCat Schedule: the sigmas that LongCat-Video was trained and distilled with."""
from comfy_api.latest import io

from ..backbones import find
from ..backbones.longcat.model import LongCatVideo
from ..techniques.flow_schedules import KINDS, schedule
from .input_checks import check_inputs
from .sockets import search_words

MOST_STEPS = 1000


class LodestarLongCatSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLongCatSchedule",
            display_name="LongCat Schedule",
            category="Lodestar/sampling",
            description="LongCat's own noise schedules, which ComfyUI's schedulers do not have: 50 steps, 16 or 8 "
                        "distilled ones, finer last steps, refinement.",
            inputs=[
                io.Model.Input("model", tooltip="The LongCat model; its version decides the shift."),
                io.Combo.Input("kind", options=list(KINDS), default="normal",
                               tooltip="normal: any steps. distilled: with the 16-step LoRA. distilled 8: Avatar 1.5 "
                                       "with its LoRA. enhance-hf: normal with 10 even steps below 0.5, for "
                                       "continuations. refine: the part of normal below 0.5."),
                io.Int.Input("steps", default=50, min=1, max=MOST_STEPS,
                             tooltip="Steps of the whole schedule: 50 normal, 16 distilled, 8 for distilled 8. "
                                     "enhance-hf makes more of them, refine fewer."),
                io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.1,
                               tooltip="0: the model's own, which is 12 for LongCat-Video and Avatar 1.0, 7 for 1.5."),
            ],
            outputs=[io.Sigmas.Output(tooltip="For Long Take or SamplerCustomAdvanced, with the Euler sampler.")],
            **search_words("sigmas", "scheduler", "timesteps", "longcat"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, kind, steps, shift) -> io.NodeOutput:
        if not isinstance(model.model, LongCatVideo):
            raise ValueError(f"model: got {find(model).name}, wanted a LongCat model. Connect Load LongCat, "
                             "or use BasicScheduler for this one")
        return io.NodeOutput(schedule(kind, steps, shift or model.get_model_object("model_sampling").shift))
