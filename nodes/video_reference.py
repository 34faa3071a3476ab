"""Video Reference (TAVR): a video of the person, filmed anywhere, beside every chunk."""
from comfy_api.latest import io

from ..backbones import attach
from ..host.video_reference import ReferenceVideo
from ..techniques.closed_span import OFFLOADS
from ..techniques.lookahead_anchor import FARTHEST
from ..techniques.reference_tokens import CHOOSE, WHEN_EMPTY
from ..techniques.video_reference import MOST_FRAMES, PLACEMENTS
from .input_checks import check_inputs
from .sockets import BOUNDING_BOX, LARGEST_SIDE, PLAN, SIDE_STEP, search_words, size_of


class LodestarVideoReference(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarVideoReference",
            display_name="Video Reference",
            category="Lodestar/techniques",
            description="Keeps the person the same with a video of them, filmed anywhere: every frame attends to what "
                        "a few dozen of its frames show of the person, not to where they were (TAVR).",
            inputs=[
                io.Model.Input("model", tooltip="A model that takes videos of the person: Wan, LongCat, and what is "
                                                "built on them. Others say why not."),
                io.Vae.Input("vae", tooltip="The video VAE of the model that makes the take."),
                io.MultiType.Input("video", types=[io.Video, io.Image],
                                   tooltip="The person speaking, anywhere. Pictures count as frames of the model's own "
                                           "rate."),
                io.Int.Input("frames", default=20, min=1, max=MOST_FRAMES,
                             tooltip="How many are looked at; more keep the person better and cost more. contiguous "
                                     "takes 1, 5, 9 and so on, the next below."),
                io.Combo.Input("choose", options=list(CHOOSE), default=CHOOSE[0],
                               tooltip="contiguous: the sharpest piece, as it was trained. spread: different poses and "
                                       "mouths, sharp ones first. even: all over the video. The last two cost four "
                                       "times the tokens a frame."),
                io.MultiType.Input("regions", types=[io.Mask, BOUNDING_BOX], optional=True,
                                   tooltip="Where the person is, one for all frames or several spread over the video; "
                                           "open: faces are found, with core's face landmarker or OpenCV's files."),
                io.Float.Input("grow", default=0.15, min=0.0, max=1.0, step=0.05,
                               tooltip="Regions and faces are enlarged by this share of their size on each side."),
                io.Combo.Input("when_empty", options=list(WHEN_EMPTY), default=WHEN_EMPTY[0],
                               tooltip="Frames without a face or region: whole, or left out."),
                io.AudioEncoderOutput.Input("audio_features", optional=True,
                                            tooltip="What is said in the video, for models that can use it. "
                                                    "Experimental: no public model was trained so."),
                io.Combo.Input("placement", options=list(PLACEMENTS), default=PLACEMENTS[0],
                               tooltip="Where it stands in time. ahead: behind the chunk's last frame, for models that "
                                       "were not trained so. before: in front of its first. own: from its first on."),
                io.Float.Input("distance", default=3.0, min=1.0, max=FARTHEST, step=1.0,
                               tooltip="How far ahead, in latent frames."),
                io.Combo.Input("keep", options=list(OFFLOADS), default=OFFLOADS[0],
                               tooltip="Where its keys and values are kept. RAM frees the card."),
                PLAN.Input("plan", optional=True,
                           tooltip="From Plan Take, whose model must then come from before this node: the video gets "
                                   "the take's size."),
                io.Int.Input("width", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP, optional=True,
                             tooltip="The take's width, where no plan is connected. 0: the plan's, or the video's."),
                io.Int.Input("height", default=0, min=0, max=LARGEST_SIDE, step=SIDE_STEP, optional=True,
                             tooltip="The take's height, where no plan is connected. 0: the plan's, or the video's."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the video attached, for Plan Take and a guider."),
                     io.String.Output(display_name="tokens", tooltip="How many tokens are kept, of how many, and "
                                                                     "what they add to each call.")],
            **search_words("identity", "reference video", "tavr", "consistent character", "cross scene", "face",
                           "drift", "ip adapter"),
        )

    @classmethod
    @check_inputs
    def execute(cls, model, vae, video, frames, choose, grow, when_empty, placement, distance, keep, regions=None,
                audio_features=None, plan=None, width=0, height=0) -> io.NodeOutput:
        size = size_of(plan, width, height) if plan is not None or width or height else None
        reference = ReferenceVideo(model, vae, video, frames, choose, regions, grow, when_empty, audio_features, size)
        technique, tokens = reference.make(placement, distance, keep)
        return io.NodeOutput(attach.with_technique(model, technique), tokens, ui={"text": [tokens]})
