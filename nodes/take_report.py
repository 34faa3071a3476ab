"""Take Report: a finished video measured from its first to its last frame, as a picture and as JSON."""
import json
from pathlib import Path

from comfy_api.latest import io, ui

from ..host.measured_video import file_in_output, measure_video, open_video, place_of
from ..pipelines.metrics.report_files import as_json, save_report
from ..pipelines.metrics.report_picture import report_picture
from ..pipelines.metrics.verdict import Thumbnails, judge, worst_of
from ..pipelines.metrics.verdict_picture import verdict_picture
from ..pipelines.metrics.video_reader import VideoReader
from .input_checks import check_inputs, name_input
from .sockets import PLAN, search_words


class LodestarTakeReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarTakeReport",
            display_name="Take Report",
            category="Lodestar",
            description="Measures a video from its first to its last frame: colour drift, sharpness, flicker, seams, "
                        "freezes, repetition, motion, likeness to the reference, identity and lip sync, with SyncNet's "
                        "scores where its file is present. A picture and JSON, also written beside the video.",
            inputs=[
                io.Video.Input("video", tooltip="The finished take, or any video. It is read as a stream."),
                io.Image.Input("reference", optional=True,
                               tooltip="The person's picture: what likeness and identity are measured against. Cropped "
                                       "as Long Take does."),
                PLAN.Input("plan", optional=True,
                           tooltip="The plan that made the video: it has the chunk borders, for the seam score, and "
                                   "the speech."),
                io.String.Input("mouth_box", default="",
                                tooltip="Where the mouth is, for lip sync: left, top, right, bottom, each from 0 to 1 "
                                        "of the picture, such as 0.42, 0.5, 0.58, 0.65. Empty: found with OpenCV's "
                                        "face files where they are present, as the face is for SyncNet."),
            ],
            outputs=[io.Image.Output(display_name="report", tooltip="The full report as a picture; the node itself "
                                                                    "shows its five figures."),
                     io.String.Output(display_name="json", tooltip="All values and curves.")],
            is_output_node=True,
            **search_words("metrics", "evaluate", "identity", "lip sync", "drift", "quality", "syncnet"),
        )

    @classmethod
    @check_inputs
    def execute(cls, video, mouth_box, reference=None, plan=None) -> io.NodeOutput:
        with name_input("video"):
            reader, sound = open_video(video)
        small = Thumbnails()
        report = measure_video(reader, sound, reference, plan, mouth_box, small)
        picture = report_picture(report)
        _, saved = save_report(report, picture, place_of(reader))
        return io.NodeOutput(picture[None], as_json(report), ui=page_values(cls, report, small, saved, reader))


def page_values(cls, report: dict, small: Thumbnails, saved: Path, reader: VideoReader) -> dict[str, list]:
    """What the page gets: the verdict as the node's picture, where the full report is, and the worst moment's time."""
    figures = judge(report)
    worst, source = worst_of(figures), getattr(reader, "source", None)
    opens = {"picture": file_in_output(saved), "video": file_in_output(source) if isinstance(source, str) else None,
             "worst": worst and worst.seconds}
    shown = ui.PreviewImage(verdict_picture(report, figures, small)[None], cls=cls).as_dict()
    return {**shown, "lodestar_report": [json.dumps(opens)]}
