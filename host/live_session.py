"""Live Take's session: speech that is still arriving, a video that grows, and one complete file however it ends."""
import logging
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import folder_paths
from comfy.model_management import InterruptProcessingException

from ..backbones.socket_values import name_input
from ..pipelines.safe_files import SUFFIX, place, remove, writing
from ..pipelines.take.live_file import HlsFolder, LiveFile, remux
from ..pipelines.take.live_sound import LiveEnding, LiveSound
from ..pipelines.take.live_take import ENDLESS, LiveTake, delay_seconds
from ..pipelines.take.plan import Take
from ..techniques.temporal_anchor import count_recents
from .chunk_sampler import Sampling
from .live_inputs import HISTORY, LiveInputs
from .live_progress import LiveProgress
from .live_sources import NamedSound, open_source
from .metadata import graph_tags
from .output_names import fill_in, free_paths, problem_of, subfolder_of
from .rolling_sampler import RollingSampler
from .stream_chunk_sampler import StreamChunkSampler, check_stream

logger = logging.getLogger("lodestar")

PREVIEW, FOLDER, FILE = "preview", "HLS folder", "file"
PREVIEW_BLOCKS = 128     # fragments that a preview keeps
GROWING = ".live.mp4"


@dataclass(frozen=True)
class LivePaths:
    """`final`: the complete video. `growing`: the one that is being made. `hls`: None where nobody watches."""
    final: Path
    growing: Path
    hls: Path | None
    playlist: dict[str, str] | None


@dataclass(frozen=True, eq=False)
class LiveSession:
    """`hidden`: the node's unique_id, prompt and extra_pnginfo. `source`, `show`: of the node."""
    inputs: LiveInputs
    sampling: Sampling
    take: Take
    hidden: Any
    source: str = ""
    show: str = PREVIEW
    after_silence: float = 0.0
    idle: bool = True

    def make(self, prefix: str) -> Path:
        """Make the take to its end; the complete video. Raises ValueError for inputs that do not fit together; whatever
        is raised once a block is written, the video so far is complete."""
        self.check()
        paths = self.choose_paths(prefix)
        plan, length = self.take.plan, self.sampling.sampler.rolling(self.sampling.sigmas).length
        progress = LiveProgress(self.hidden.unique_id, plan.timeline.fps, delay_seconds(plan, length), paths.playlist)
        ending = LiveEnding(plan.seconds, self.after_silence, self.idle)
        with open_source(self.source, self.take.speech or self.take.audio) as source:
            sound = NamedSound(source, ending, progress.check_cancelled)
            inputs = replace(self.inputs, sound=sound)
            progress.say_delay()
            with Finishing(self, paths, progress), self.open_file(paths) as file:
                self.assemble(inputs, sound, file, progress, length).make()
        progress.say_end(f"Finished: {file.frames} frames, {float(file.frames / plan.timeline.fps):.1f} s")
        return paths.final

    def assemble(self, inputs: LiveInputs, sound: LiveSound, file: LiveFile, progress: LiveProgress, length: int
                 ) -> LiveTake:
        sampler = StreamChunkSampler(inputs, self.sampling, progress)
        sampler.blocks = ENDLESS

        def end_window(blocks: int) -> None:
            sampler.blocks = blocks

        return LiveTake(self.take.plan, length, sound, sampler, inputs.open_stream(), file, end_window, progress,
                        count_recents(inputs.techniques), HISTORY)

    def check(self) -> None:
        """Refuse what cannot be live, and what does not fit together, before any sound is waited for."""
        plan, sampler = self.take.plan, self.sampling.sampler
        self.sampling.check()
        if not isinstance(sampler, RollingSampler):
            raise ValueError("sampler: a live take is made by a Rolling Window, block by block, and another sampler "
                             "came. Connect Rolling Window, and to sigmas Student Schedule")
        if not plan.block_latents:
            raise ValueError("plan: it has chunks, and a live take is a stream of blocks. Set block_latents of Plan "
                             f"Take to {sampler.block_latents}, as Rolling Window has it")
        self.inputs.check_plan()
        check_stream(self.inputs, self.sampling)
        self.inputs.check(None)

    def choose_paths(self, prefix: str) -> LivePaths:
        """Where everything goes; the number of the video is taken by the growing one."""
        plan = self.take.plan
        name = fill_in(prefix, plan.width, plan.height, self.hidden.prompt or {}, time.localtime())
        if problem := problem_of(prefix) or problem_of(name):
            raise ValueError(problem)
        final, growing = next((path, path.with_name(path.stem + GROWING)) for path in
                              free_paths(name, plan.width, plan.height)
                              if not path.exists() and not path.with_name(path.stem + GROWING).exists())
        if self.show == FILE:
            return LivePaths(final, growing, None, None)
        if self.show == FOLDER:
            hls = final.with_name(final.stem + "live")
            return LivePaths(final, growing, hls, view_of(hls, folder_paths.get_output_directory(), "output"))
        hls = Path(folder_paths.get_temp_directory()) / "lodestar_live" / f"preview_{uuid.uuid4().hex[:12]}"
        return LivePaths(final, growing, hls, view_of(hls, folder_paths.get_temp_directory(), "temp"))

    def open_file(self, paths: LivePaths) -> LiveFile:
        plan, hls = self.take.plan, None
        if paths.hls is not None and paths.playlist is not None:
            address = "view?" + urlencode({name: value for name, value in paths.playlist.items() if name != "filename"})
            hls = HlsFolder(paths.hls, f"{address}&filename=", None if self.show == FOLDER else PREVIEW_BLOCKS)
        return LiveFile(plan.width, plan.height, plan.timeline.fps, paths.growing, hls)

    def publish(self, paths: LivePaths) -> None:
        """Give the complete video its name; the growing one goes then. Raises NotWritten, and the growing one stays."""
        draft = paths.final.with_name(paths.final.name + SUFFIX)
        try:
            remux(paths.growing, graph_tags(self.hidden.prompt, self.hidden.extra_pnginfo), draft)
            with writing(paths.final), name_input("filename_prefix"):
                if not place(draft, paths.final):
                    raise ValueError(f"{paths.final} was written by another run; the video is {paths.growing}")
        finally:
            remove(draft)
        remove(paths.growing)


@dataclass(frozen=True)
class Finishing:
    """Use in `with` around the making: afterwards what was written is one complete video, whatever ended the take."""
    session: LiveSession
    paths: LivePaths
    progress: LiveProgress

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            return self.session.publish(self.paths)
        how = "Cancelled" if issubclass(kind, InterruptProcessingException) else "Stopped by an error"
        text = f"{how}: {self.keep()}"
        self.progress.say_end(text)
        logger.info("%s (%s)", text, self.paths.final.parent)


    def keep(self) -> str:
        """Complete what was written. Which video that is, in words; what ended the take is not hidden by another error.
        """
        if not self.paths.growing.exists():
            return "no block was finished"
        try:
            self.session.publish(self.paths)
        except (OSError, ValueError) as error:
            return f"the video so far is {self.paths.growing.name}; it could not be completed ({error})"
        return f"the video so far is {self.paths.final.name}"


def view_of(folder: Path, root: str, kind: str) -> dict[str, str]:
    """What /view is asked for to get the playlist for pages."""
    return {"filename": "served.m3u8", "subfolder": subfolder_of(folder / "x") if kind == "output" else
            folder.relative_to(root).as_posix(), "type": kind}
