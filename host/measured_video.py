"""A VIDEO that is measured: opened as a stream, with its plan's borders, and where its report goes."""
import io as python_io
import json
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl
from torch import Tensor

from ..backbones.images import fit_picture
from ..backbones.socket_values import name_input
from ..pipelines.metrics.report import evaluate
from ..pipelines.metrics.report_files import beside
from ..pipelines.metrics.verdict import Thumbnails
from ..pipelines.metrics.video_reader import Clip, VideoFile, VideoReader
from ..pipelines.take.plan import Take
from .driving_sources import with_alpha
from .who_stands_where import TAG, read_references


def measure_video(reader: VideoReader, sound: dict | None, reference: Tensor | None, plan: Take | None,
                  mouth_box: str = "", thumbnails: Thumbnails | None = None) -> dict[str, Any]:
    """The report of what `open_video` gave. `reference`: an IMAGE, fitted as Long Take does."""
    person = None
    if reference is not None:
        with name_input("reference"):
            person = fit_picture(reference, reader.width, reader.height)[0]
    report = evaluate(reader, speech=plan.audio if plan and not plan.clip_frames else sound,
                      borders=borders_of(plan, reader), reference=person, mouth_box=mouth_box, models=face_folders(),
                      on_frames=progress(reader), thumbnails=thumbnails, drawn="puppet" in loaded_models(
                          tag_of(reader, "prompt")))
    return {**report, "references": read_references(tag_of(reader, TAG))}


def open_video(video) -> tuple[VideoReader, dict | None]:
    """A VIDEO's frames and, where they are no file, its sound; one that was trimmed or cropped on the way here is made
    a file of its own first."""
    if not isinstance(video, InputImpl.VideoFromFile):
        parts = video.get_components()
        return Clip(with_alpha(parts), parts.frame_rate, "the video"), parts.audio
    whole = VideoFile(video.get_stream_source())
    trimmed = getattr(video, "get_active_trim_window", None)    # not in ComfyUI 0.7.0
    if (trimmed is None or trimmed() == (0, 0)) and video.get_dimensions() == whole.size:
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


def file_in_output(path: str | Path) -> dict[str, str] | None:
    """As ComfyUI's page asks for it; None for a file elsewhere."""
    output, path = Path(folder_paths.get_output_directory()).resolve(), Path(path).resolve()
    if not path.is_relative_to(output):
        return None
    return {"filename": path.name, "subfolder": path.parent.relative_to(output).as_posix().removeprefix("."),
            "type": "output"}


def tag_of(video: VideoReader, name: str) -> str:
    """What the file's metadata have under a name: of its own graph, where the pack's puppet made it, that it is a
    drawing, in which nobody finds a face."""
    media = getattr(video, "media", None)
    if media is None:
        return ""
    with media.open_container() as container:
        return str(container.metadata.get(name, ""))


def loaded_models(prompt: str) -> str:
    """The files that the Load Diffusion Model nodes of a graph name, in one text."""
    try:
        nodes = json.loads(prompt).values() if prompt else ()
        return " ".join(str(node["inputs"]["unet_name"]) for node in nodes if "unet_name" in node.get("inputs", {}))
    except (ValueError, AttributeError, TypeError):
        return ""
