"""The pictures and videos that a story names: files of ComfyUI's input folder, found before anything is sampled."""
import hashlib
import os
from fractions import Fraction
from pathlib import Path

import folder_paths
from torch import Tensor

from ..pipelines.frames_at_times import FileFrames
from ..pipelines.picture_file import read_picture
from ..pipelines.take.driving import DrivingVideo, check_mask
from ..pipelines.take.driving_story import Driving, DrivingClip, DrivingStory
from ..pipelines.take.story import DrivingLine, Keyframe, Story, parse_story


def check_script(text: str) -> Story:
    """The story of a script whose files are all there. Raises ValueError."""
    story = parse_story(text)
    for keyframe in story.keyframes:
        find_picture(keyframe)
    for driving in story.drivings:
        find_videos(driving)
    return story


def drive_by_script(text: str, driving: DrivingVideo | None) -> Driving | None:
    """What drives the take: `driving` until the script's first driving line, from there on what the lines say.

    Raises ValueError for a file that cannot be read, or lines that do not go together.
    """
    lines = parse_story(text or "").drivings
    if not lines:
        return driving
    if driving is not None and not lines[0].seconds:
        raise ValueError(f"{lines[0].where}: it drives the take from its beginning, and so would the Driving Video "
                         "that is connected. Disconnect that, or let the line begin later")
    clips = [DrivingClip(line.seconds, _open(line), line.where) for line in lines]
    if driving is not None:
        clips.insert(0, DrivingClip(Fraction(0), driving, "driving"))
    return DrivingStory(tuple(clips))


def read_keyframes(story: Story) -> tuple[tuple[Fraction, Tensor], ...]:
    """The time in seconds and the picture (1, H, W, 3) of each keyframe. Raises ValueError."""
    return tuple((keyframe.seconds, _read(keyframe)) for keyframe in story.keyframes)


def digest_pictures(text: str) -> str:
    """Another one where a file changed under its name; of a script that cannot be read, its text."""
    try:
        story = parse_story(text)
        pictures = [find_picture(keyframe) for keyframe in story.keyframes]
        videos = [path.stat() for line in story.drivings for path in find_videos(line).values()]
    except ValueError:
        return text
    return " ".join((*(hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures),
                     *(f"{file.st_size} {file.st_mtime_ns}" for file in videos)))


def find_picture(keyframe: Keyframe) -> Path:
    """Below the input folder. Raises ValueError."""
    return _find(keyframe.picture, keyframe.where, "picture", "Load Image")


def find_videos(line: DrivingLine) -> dict[str, Path]:
    """By part, below the input folder. Raises ValueError."""
    return {part: _find(name, line.where if part == "pose" else f"{line.where}, {part} {name}", "video", "Load Video")
            for part, name in line.parts}


def _find(name: str, where: str, kind: str, loader: str) -> Path:
    folder = Path(os.path.realpath(folder_paths.get_input_directory()))
    path = Path(os.path.realpath(folder / name))
    if not path.is_relative_to(folder):
        raise ValueError(f"{where}: it leaves ComfyUI's input folder; name a {kind} in it")
    if not path.is_file():
        raise ValueError(f"{where}: ComfyUI's input folder has no such file. Put it there ({loader} uploads one), or "
                         "name another")
    return path


def _open(line: DrivingLine) -> DrivingVideo:
    try:
        video = DrivingVideo({part: FileFrames(path) for part, path in find_videos(line).items()}, line.at_end)
        if "mask" in video.sources:
            fps = video.sources["pose"].fps
            check_mask(video.sources["mask"], [frame / fps for frame in range(video.frames_at(fps))])
        return video
    except (OSError, ValueError) as error:
        raise ValueError(str(error) if str(error).startswith("script") else f"{line.where}: {error}") from error


def _read(keyframe: Keyframe) -> Tensor:
    try:
        return read_picture(find_picture(keyframe))[None]
    except OSError as error:
        raise ValueError(f"{keyframe.where}: it cannot be read ({error})") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("script") else f"{keyframe.where}: it is no picture that "
                         "can be read") from error
