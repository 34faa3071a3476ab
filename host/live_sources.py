"""What the text in Live Take's `source` means: the plan's speech, a file that may still grow, or a channel."""
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths

from ..backbones.socket_values import name_input
from ..pipelines.safe_files import remove
from ..pipelines.take.folder_lock import FolderLock
from ..pipelines.take.live_sound import LiveSound, SoundSource, WholeSound
from ..pipelines.take.live_source import NAME, Channel, GrowingWav, read_sound

CHANNEL = "live:"
EXAMPLE = "leave it empty for the plan's speech, name a sound file in ComfyUI's input folder, or write live:talk"
logger = logging.getLogger("lodestar")


def problem_of_source(source: str | None) -> str | None:
    """Why `source` is none, as far as its text says; None where it may be one."""
    if isinstance(source, str) and source.startswith(CHANNEL) and not NAME.fullmatch(source.removeprefix(CHANNEL)):
        return f"source: {source!r} is no channel; write {CHANNEL} and up to 64 letters, digits, _ or -"
    return None


@contextmanager
def open_source(source: str, speech: Mapping[str, Any] | None) -> Iterator[SoundSource]:
    """Where a live take's speech comes from. `speech`: the plan's. Raises ValueError for what is none."""
    if problem := problem_of_source(source):
        raise ValueError(problem)
    with ExitStack() as until_over:
        with name_input("source"):
            if source.startswith(CHANNEL):
                found: SoundSource = until_over.enter_context(open_channel(source.removeprefix(CHANNEL)))
            elif source.strip():
                found = open_sound_file(source.strip())
            elif speech is not None:
                found = WholeSound(speech)
            else:
                raise ValueError(f"it is empty, and the plan was made without speech; {EXAMPLE}")
        yield found


class NamedSound(LiveSound):
    """What goes wrong with the source is said of the input."""

    def wait_until(self, seconds: Fraction) -> bool:
        with name_input("source"):
            return super().wait_until(seconds)


def open_sound_file(name: str) -> SoundSource:
    """A file below one of ComfyUI's own folders: of a WAV what is there and what follows, of another all there is."""
    outside = f"{name} is outside ComfyUI's input, output and temp folders; {EXAMPLE}"
    if ".." in Path(name).parts or os.path.isabs(name):
        raise ValueError(outside)
    path = Path(os.path.realpath(folder_paths.get_annotated_filepath(name)))
    folders = [Path(os.path.realpath(folder)) for folder in (
        folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())]
    if not any(path.is_relative_to(folder) for folder in folders):     # by a link
        raise ValueError(outside)
    if not path.is_file():
        raise ValueError(f"{name} is not in ComfyUI's input folder; {EXAMPLE}")
    return GrowingWav(path) if path.suffix.lower() == ".wav" else WholeSound(read_sound(path))


def channel_file(name: str) -> Path:
    """Where what is sent to a channel is put while a take has it open."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a channel; write letters, digits, _ or -")
    return Path(folder_paths.get_temp_directory()) / "lodestar_live" / name / "speech"


@contextmanager
def open_channel(name: str) -> Iterator[Channel]:
    """A channel that others can send to for as long as this lasts. Raises FolderBusy where another take has it."""
    path = channel_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(path.parent)
    path.write_bytes(b"")
    logger.info("live: waiting for speech at /lodestar/live/%s", name)
    try:
        yield Channel(path, CHANNEL + name)
    finally:
        remove(path)
        lock.release(delete=True)
