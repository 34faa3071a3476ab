"""Compare Takes: two videos of the same story, with and without an anchor for instance, figure by figure."""
import json

from comfy_api.latest import io, ui

from ..host.measured_video import measure_video, open_video
from ..pipelines.metrics.verdict import as_dict, judge
from ..pipelines.metrics.verdict_picture import comparison_picture
from .input_checks import check_inputs, name_input
from .sockets import PLAN, search_words


class LodestarCompareTakes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarCompareTakes",
            display_name="Compare Takes",
            category="Lodestar",
            description="Measures two videos as Take Report does and sets their figures side by side: what an anchor, "
                        "a seed or a setting changed.",
            inputs=[
                io.Video.Input("first", tooltip="One take, or any video. It is read as a stream."),
                io.Video.Input("second", tooltip="The other one, of the same picture, speech and size."),
                io.String.Input("first_name", default="first", tooltip="What the first is called in the picture."),
                io.String.Input("second_name", default="second", tooltip="What the second is called in the picture."),
                io.Image.Input("reference", optional=True,
                               tooltip="The person's picture, for same face and copies. Cropped as Long Take does."),
                PLAN.Input("plan", optional=True, tooltip="The plan that made both, for the seams."),
            ],
            outputs=[io.Image.Output(display_name="comparison", tooltip="The figures that both have, side by side."),
                     io.String.Output(display_name="json", tooltip="Both verdicts.")],
            is_output_node=True,
            **search_words("compare", "a/b", "difference", "with and without anchor", "metrics", "quality"),
        )

    @classmethod
    @check_inputs
    def execute(cls, first, second, first_name="first", second_name="second", reference=None, plan=None
                ) -> io.NodeOutput:
        verdicts = []
        for name, video in (("first", first), ("second", second)):
            with name_input(name):
                verdicts.append(judge(measure_video(*open_video(video), reference, plan)))
        names = first_name or "first", second_name or "second"
        picture = comparison_picture(names, (verdicts[0], verdicts[1]))[None]
        text = json.dumps({"first": as_dict(verdicts[0]), "second": as_dict(verdicts[1])})
        return io.NodeOutput(picture, text, ui=ui.PreviewImage(picture, cls=cls))
