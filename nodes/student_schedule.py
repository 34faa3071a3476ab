"""Student Schedule (AvatarForcing): the noise levels of a rolling window."""
from comfy_api.latest import io

from ..techniques.flow_schedules import STUDENTS, student_levels
from .input_checks import check_inputs
from .sockets import search_words


class LodestarStudentSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarStudentSchedule",
            display_name="Student Schedule",
            category="Lodestar/sampling",
            description="The noise levels that a rolling window's blocks stand at, as a distilled student knows "
                        "them, or spread evenly for any other model.",
            inputs=[
                io.Combo.Input("student", options=list(STUDENTS), default="AvatarForcing",
                               tooltip="Whose noise levels. even: spread evenly, then shifted."),
                io.Int.Input("blocks", default=4, min=1, max=16,
                             tooltip="Blocks in the window: how far the model looks ahead. More cost as much more."),
                io.Int.Input("passes", default=1, min=1, max=8, tooltip="As in Rolling Window."),
                io.Float.Input("shift", default=5.0, min=0.1, max=20.0, step=0.1,
                               tooltip="Of the levels, as the student was trained."),
            ],
            outputs=[io.Sigmas.Output(tooltip="For Long Take or SamplerCustomAdvanced, with Rolling Window.")],
            **search_words("sigmas", "scheduler", "streaming", "self forcing", "causal", "avatarforcing"),
        )

    @classmethod
    @check_inputs
    def execute(cls, student, blocks, passes, shift) -> io.NodeOutput:
        return io.NodeOutput(student_levels(student, blocks, passes, shift))
