"""Take Report: a finished video measured from its first to its last frame, as a picture and as JSON."""
import io as python_io
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl, io, ui

from ..backbones.images import fit_picture
from ..pipelines.metrics.report import evaluate
from ..pipelines.metrics.report_files import as_json, beside, save_report
from ..pipelines.metrics.report_picture import report_picture
from ..pipelines.metrics.video_reader import Clip, VideoFile, VideoReader
from ..pipelines.take.plan import Take
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
            outputs=[io.Image.Output(display_name="report", tooltip="The report as a picture."),
                     io.String.Output(display_name="json", tooltip="All values and curves.")],
            is_output_node=True,
            **search_words("metrics", "evaluate", "identity", "lip sync", "drift", "quality", "syncnet"),
        )

    @classmethod
    @check_inputs
    def execute(cls, video, mouth_box, reference=None, plan=None) -> io.NodeOutput:
        with name_input("video"):
            reader, sound = open_video(video)
        if reference is not None:
            with name_input("reference"):
                reference = fit_picture(reference, reader.width, reader.height)[0]
        report = evaluate(reader, speech=plan.audio if plan and not plan.clip_frames else sound,
                          borders=borders_of(plan, reader),
                          reference=reference, mouth_box=mouth_box, models=face_folders(),
                          on_frames=progress(reader))
        picture = report_picture(report)
        save_report(report, picture, place_of(reader))
        return io.NodeOutput(picture[None], as_json(report), ui=ui.PreviewImage(picture[None], cls=cls))


def open_video(video) -> tuple[VideoReader, dict | None]:
    """A VIDEO's frames and, where they are no file, its sound; one that was trimmed or cropped on the way here is made
    a file of its own first."""
    if not isinstance(video, InputImpl.VideoFromFile):
        parts = video.get_components()
        return Clip(parts.images[..., :3], parts.frame_rate, "the video"), parts.audio
    whole = VideoFile(video.get_stream_source())
    trimmed = getattr(video, "get_active_trim_window", None)    # not in ComfyUI 0.7.0
    if (trimmed is None or trimmed() == (0, 0)) and video.get_dimensions() == (whole.width, whole.height):
        return whole, None
    cut = python_io.BytesIO()
    video.save_to(cut)
    return VideoFile(cut), None


def borders_of(take: Take | None, video: VideoReader) -> list[int]:
    """The first frame of each chunk but the first. Raises ValueError for another video's plan."""
    if take is None:
        return []
    if video.stated_frames not in (0, take.video_frames):
        raise ValueError(f"plan: it is for {take.video_frames} frames, the video has {video.stated_frames}. "
                         "Connect the plan that made this video, or none")
    before = max(take.clip_frames - 1, 0)       # the clip's last frame is the take's frame 0
    first = 0 if take.clip_frames else 1
    return [before + take.plan.frames_of(chunk)[0] for chunk in take.plan.chunks[first:]]


def face_folders() -> list[Path]:
    return [Path(folder_paths.models_dir) / "lodestar", Path(folder_paths.models_dir)]


def progress(video: VideoReader):
    """A callback for finished frames: it moves the bar and lets a cancel through."""
    bar = comfy.utils.ProgressBar(video.stated_frames or 1)

    def on_frames(frames: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(min(frames, bar.total))

    return on_frames


def place_of(video: VideoReader) -> Path:
    """Beside a video in ComfyUI's output folder; for any other, a numbered name in output/lodestar."""
    output = folder_paths.get_output_directory()
    source = getattr(video, "source", None)
    if isinstance(source, str) and Path(source).resolve().is_relative_to(Path(output).resolve()):
        return beside(Path(source))
    folder, name, counter, _, _ = folder_paths.get_save_image_path("lodestar/report", output, video.width,
                                                                   video.height)
    return Path(folder) / f"{name}_{counter:05}_"
