"""Sample Video: videos that come with the pack, so that a template which follows or refines one runs as it opens."""
from comfy_api.latest import InputImpl, io

from ..host.sample_people import VIDEOS, find_video
from .input_checks import check_inputs
from .sockets import search_words


class LodestarSampleVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = list(VIDEOS)
        return io.Schema(
            node_id="LodestarSampleVideo",
            display_name="Sample Video",
            category="Lodestar",
            description="A video of 4 s from the pack, to try things out: nothing has to be uploaded. For your own, "
                        "put Load Video in its place.",
            inputs=[io.Combo.Input("video", options=names, default=names[0],
                                   tooltip="talking character: drawn, 384x384, with its voice, for Refine Take. poses "
                                           "and face: the skeletons and the face of the same 4 s, for Driving Video.")],
            outputs=[io.Video.Output(display_name="video", tooltip="As Load Video gives one, read from its file.")],
            **search_words("example", "demo", "test video", "sample clip", "pose video", "face video"),
        )

    @classmethod
    @check_inputs
    def execute(cls, video) -> io.NodeOutput:
        return io.NodeOutput(InputImpl.VideoFromFile(str(find_video(video))))
