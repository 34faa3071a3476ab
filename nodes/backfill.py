"""Backfill: the paths that a teacher takes from noise, for a student that is to see them (AvatarForcing)."""
from comfy_api.latest import io, ui

from ..host.teacher import Teacher, backfill
from .input_checks import check_inputs
from .sockets import CLIPS, search_words


class LodestarBackfill(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarBackfill",
            display_name="Backfill",
            category="Lodestar/training",
            description="Samples chunks with a teacher, as Long Take would, and keeps the states between noise and "
                        "picture: what the recipe student regression trains on. Cancel at any time; the next run "
                        "makes what is missing.",
            inputs=[
                io.Guider.Input("guider", tooltip="The teacher, with its prompt and guidance; techniques on its model "
                                                  "are used."),
                io.Sampler.Input("sampler", tooltip="euler: each of its steps is a state of the path."),
                io.Sigmas.Input("sigmas", tooltip="The teacher's schedule, from noise to nothing, such as 50 steps."),
                CLIPS.Input("clips", tooltip="Of Make Training Clips: speech, pictures and places come from them."),
                io.Int.Input("pairs", default=1000, min=1, max=1_000_000,
                             tooltip="How many paths in all, spread over the clips. More later keeps those that are "
                                     "there."),
                io.Int.Input("seed", default=0, min=0, max=2 ** 31 - 1, tooltip="Of places and noise."),
                io.Sigmas.Input("levels", optional=True,
                                tooltip="Student Schedule of the student: states are kept at its levels alone, on far "
                                        "less disk. Without it all states are kept."),
            ],
            outputs=[CLIPS.Output(display_name="clips", tooltip="For Train Recipe with student regression.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **search_words("ode pairs", "distillation", "teacher", "trajectory", "self forcing", "causvid"),
        )

    @classmethod
    @check_inputs
    def execute(cls, guider, sampler, sigmas, clips, pairs, seed, levels=None) -> io.NodeOutput:
        shelf, said = backfill(clips, Teacher.of(guider, sampler, sigmas, seed), levels, pairs, seed,
                               getattr(cls.hidden, "unique_id", None))
        return io.NodeOutput(shelf, ui=ui.PreviewText(said))
