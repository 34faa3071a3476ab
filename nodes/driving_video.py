"""Driving Video: what the person in a take is to do, from videos that are read frame by frame."""
from comfy_api.latest import io

from ..host.driving_sources import open_driving
from ..pipelines.take.driving import AT_END
from .input_checks import check_inputs
from .sockets import DRIVING, search_words


class LodestarDrivingVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LodestarDrivingVideo",
            display_name="Driving Video",
            category="Lodestar",
            description="Drives the person of a take with videos of any length and frame rate: poses, the face, and "
                        "the scene to stand in. Files are read frame by frame when a chunk is made, in constant "
                        "memory.",
            inputs=[
                io.Video.Input("pose", tooltip="Wan-Animate: the skeletons that a pose preprocessor draws. Wan-Animate "
                                               "2: the video of the moving person itself. Its length is the driving "
                                               "video's."),
                io.Video.Input("face", optional=True,
                               tooltip="Wan-Animate: the face cut out of the same video, square, for the expression "
                                       "and the lips."),
                io.Video.Input("background", optional=True,
                               tooltip="Wan-Animate: the scene whose person is replaced. Without it the scene is the "
                                       "reference's."),
                io.MultiType.Input("mask", types=[io.Mask, io.Video], optional=True,
                                   tooltip="White where the person is in the background: one mask for all frames, one "
                                           "for each frame of the pose video, or a video."),
                io.Combo.Input("at_end", options=list(AT_END), default="refuse",
                               tooltip="Where the take is longer than the driving video. refuse: one error before "
                                       "anything is sampled. hold: its last frame stays. loop: from the beginning. "
                                       "back and forth: it runs backwards, then forwards again."),
            ],
            outputs=[DRIVING.Output(display_name="driving", tooltip="For Plan Take, or One Chunk.")],
            **search_words("pose", "motion transfer", "wan animate", "character replacement", "control video",
                           "face video", "dance", "performance"),
        )

    @classmethod
    @check_inputs
    def execute(cls, pose, at_end, face=None, background=None, mask=None) -> io.NodeOutput:
        return io.NodeOutput(open_driving(pose, face, background, mask, at_end))
