"""Preference Pairs: two takes of one place of a clip and which of them is the better, for masked DPO (TAVR)."""
from comfy_api.latest import io, ui

from ..host.teacher import JUDGES, Teacher, prefer
from .input_checks import check_inputs
from .sockets import CLIPS, search_words


class LodestarPreferencePairs(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarPreferencePairs",
            display_name="Preference Pairs",
            category="Lodestar/training",
            description="Makes two takes of the same speech and picture and keeps those pairs of which one is clearly "
                        "better, with the mask of the face: what the recipe preference trains on. Cancel at any time; "
                        "the next run makes what is missing.",
            inputs=[
                io.Guider.Input("guider", tooltip="The model that is to be trained, with its prompt and guidance."),
                io.Sampler.Input("sampler", tooltip="As it will be used."),
                io.Sigmas.Input("sigmas", tooltip="As they will be used, from noise to nothing."),
                io.Vae.Input("vae", tooltip="The model's own: faces are looked for in the decoded takes."),
                CLIPS.Input("clips", tooltip="Of Make Training Clips: speech, pictures and places come from them."),
                io.Combo.Input("judge", options=list(JUDGES), default=JUDGES[0],
                               tooltip="face identity: whose face is more that of the clip's picture; needs OpenCV's "
                                       "face files. nearness to the clip: what is nearer to the real video, in the "
                                       "face where the clips have a mask."),
                io.Float.Input("margin", default=0.2, min=0.0, max=2.0, step=0.01,
                               tooltip="How far apart two takes must be; nearer ones are left out."),
                io.Int.Input("pairs", default=800, min=1, max=1_000_000,
                             tooltip="How many places are tried in all, spread over the clips. More later keeps those "
                                     "that are there."),
                io.Int.Input("seed", default=0, min=0, max=2 ** 31 - 1, tooltip="Of places and noise."),
            ],
            outputs=[CLIPS.Output(display_name="clips", tooltip="For Train Recipe with preference.")],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            **search_words("dpo", "preference", "reward", "identity", "reinforcement", "winner loser"),
        )

    @classmethod
    @check_inputs
    def execute(cls, guider, sampler, sigmas, vae, clips, judge, margin, pairs, seed) -> io.NodeOutput:
        shelf, said = prefer(clips, Teacher.of(guider, sampler, sigmas, seed), vae, judge, margin, pairs, seed,
                             getattr(cls.hidden, "unique_id", None))
        return io.NodeOutput(shelf, ui=ui.PreviewText(said))
