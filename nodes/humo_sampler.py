"""HuMo Sampler: the solver, the schedule and the whole timesteps that HuMo's authors sample with."""
from comfy_api.latest import io

from ..backbones import find
from ..backbones.humo.backbone import HuMo
from ..backbones.humo.sampler import make_sampler
from ..techniques.flow_schedules import humo_schedule
from .input_checks import check_inputs
from .sockets import search_words

MOST_STEPS = 1000


class LodestarHuMoSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarHuMoSampler",
            display_name="HuMo Sampler",
            category="Lodestar/sampling",
            description="HuMo's own solver (UniPC, second order) and noise schedule, which ComfyUI's samplers and "
                        "schedulers do not have. Any other sampler and schedule work with HuMo, too.",
            inputs=[
                io.Model.Input("model", tooltip="HuMo 17B or 1.7B."),
                io.Int.Input("steps", default=50, min=1, max=MOST_STEPS,
                             tooltip="50 as its authors have it; 30 to 40 are faster."),
                io.Float.Input("shift", default=5.0, min=0.01, max=100.0, step=0.1, round=0.01,
                               tooltip="More spends more steps where there is much noise. 5 as its authors have it."),
                io.Boolean.Input("whole_timesteps", default=True,
                                 tooltip="The model is given 999, 995, ... in place of 999.8, 995.9, ...: as it was "
                                         "trained."),
            ],
            outputs=[io.Sampler.Output(tooltip="For Long Take or SamplerCustomAdvanced."),
                     io.Sigmas.Output(tooltip="The schedule, for the same node.")],
            **search_words("unipc", "uni_pc", "sigmas", "scheduler", "timesteps", "humo"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, steps, shift, whole_timesteps) -> io.NodeOutput:
        if not isinstance(find(model), HuMo):
            raise ValueError(f"model: got {find(model).name}, wanted HuMo. Connect it, or use KSamplerSelect and "
                             "BasicScheduler for this one")
        return io.NodeOutput(make_sampler(whole_timesteps), humo_schedule(steps, shift))
