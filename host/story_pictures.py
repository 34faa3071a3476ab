"""The pictures that a story names: files of ComfyUI's input folder, found and read before anything is sampled."""
import hashlib
import os
from fractions import Fraction
from pathlib import Path

import folder_paths
from torch import Tensor

from ..pipelines.picture_file import read_picture
from ..pipelines.take.story import Keyframe, Story, parse_story


def check_script(text: str) -> Story:
    """The story of a script whose pictures are all there. Raises ValueError."""
    story = parse_story(text)
    for keyframe in story.keyframes:
        find_picture(keyframe)
    return story


def read_keyframes(story: Story) -> tuple[tuple[Fraction, Tensor], ...]:
    """The time in seconds and the picture (1, H, W, 3) of each keyframe. Raises ValueError."""
    return tuple((keyframe.seconds, _read(keyframe)) for keyframe in story.keyframes)


def digest_pictures(text: str) -> str:
    """Another one where a picture changed under its name; of a script that cannot be read, its text."""
    try:
        paths = [find_picture(keyframe) for keyframe in parse_story(text).keyframes]
    except ValueError:
        return text
    return " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def find_picture(keyframe: Keyframe) -> Path:
    """Below the input folder. Raises ValueError."""
    folder = Path(os.path.realpath(folder_paths.get_input_directory()))
    path = Path(os.path.realpath(folder / keyframe.picture))
    if not path.is_relative_to(folder):
        raise ValueError(f"{keyframe.where}: it leaves ComfyUI's input folder; name a picture in it")
    if not path.is_file():
        raise ValueError(f"{keyframe.where}: ComfyUI's input folder has no such file. Put it there (Load Image uploads "
                         "one), or name another")
    return path


def _read(keyframe: Keyframe) -> Tensor:
    try:
        return read_picture(find_picture(keyframe))[None]
    except OSError as error:
        raise ValueError(f"{keyframe.where}: it cannot be read ({error})") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("script") else f"{keyframe.where}: it is no picture that "
                         "can be read") from error
