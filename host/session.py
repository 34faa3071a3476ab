"""Long Take's session: the take's journal, the chunks that are missing, one video in ComfyUI's output folder."""
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from ..backbones.socket_values import name_input
from ..pipelines.take.final_file import find_published, publish, publish_part
from ..pipelines.take.fingerprint import Fingerprints
from ..pipelines.take.journal import Journal
from ..pipelines.take.manifest import unfinished_beside
from ..pipelines.take.plan import Chunk, Take
from ..pipelines.take.protocols import ChunkSampler
from ..pipelines.take.reusable_chunks import copy_reusable_chunks, take_folder
from ..pipelines.take.take import make_take
from ..pipelines.take.take_folders import CLIP, KEEP, STOP
from ..pipelines.take.video_writer import SoundTrack, VideoWriter
from .chunk_sampler import Sampling
from .metadata import graph_tags
from .output_names import fill_in, free_paths, problem_of, subfolder_of
from .progress import TakeProgress
from .remakes import Remakes, check_remakes
from .stream_chunk_sampler import choose_chunk_sampler, speech_chunk
from .take_fingerprints import take_fingerprints
from .take_inputs import TakeInputs
from .take_requests import add_stop, folder_name, takes_folder
from .who_stands_where import TAG, list_references

logger = logging.getLogger("lodestar")
LOOK_SECONDS = 10   # for how long another run may look into this take's folder for reusable chunks


@dataclass(frozen=True)
class FinishedTake:
    path: Path
    subfolder: str     # below the output folder
    tail: Tensor       # the last chunk's latents (1, C, t, h, w)


@dataclass(frozen=True, eq=False)
class TakeSession:
    """`hidden`: the node's unique_id, prompt and extra_pnginfo. `make_sampler` gives the take's ChunkSampler."""
    inputs: TakeInputs
    sampling: Sampling
    take: Take
    hidden: Any
    make_sampler: Callable[[TakeInputs, Sampling, TakeProgress], ChunkSampler] = choose_chunk_sampler

    def make(self, prefix: str, keep_chunks: bool) -> FinishedTake:
        """Make or resume the take and write the video. Raises ValueError for inputs that do not fit together."""
        plan, before = self.take.plan, self.inputs.before
        with TakeProgress(self.hidden.unique_id, plan, self.sampling.steps) as progress:
            name = self.file_name(prefix)
            self.check()
            writer = VideoWriter(plan.width, plan.height, plan.timeline.fps)
            with self.open_journal(prefix, keep_chunks, writer) as journal:
                made_of = Fingerprints().of([prefix, folder_paths.get_output_directory(), self.take.audio,
                                             *([] if before is None else [before.source.identity()]),
                                             *((chunk.index, chunk.again) for chunk in plan.remakes)], "audio")
                remakes = Remakes(self.inputs, self.sampling, writer, progress, journal)
                path = find_published(journal, made_of)
                if path is None:    # which may be a part, where somebody asked to stop
                    path = self.write_video(prefix, name, journal, writer, made_of, progress, remakes)
                stopped, kept = journal.finished < journal.chunks, keep_chunks or journal.has_request(KEEP)
                tail = remakes.tail()
            if stopped:
                add_stop(prefix)
                progress.say_stopped(path)
            else:
                progress.say_finished()
            if not stopped and not kept:
                remakes.discard()
        return FinishedTake(path, subfolder_of(path), tail)

    def file_name(self, prefix: str) -> str:
        """What was asked for, with its tokens filled in, before anything is made. Raises ValueError."""
        name = fill_in(prefix, self.take.plan.width, self.take.plan.height, self.hidden.prompt or {}, time.localtime())
        if problem := problem_of(prefix) or problem_of(name):   # one that came by a link was not seen before
            raise ValueError(problem)
        return name

    def check(self) -> None:
        """Refuse what does not fit together before any sampling."""
        self.inputs.check_plan()
        check_remakes(self.inputs)
        self.sampling.check()
        self.inputs.check(self.take.speech or self.take.audio)

    @contextmanager
    def open_journal(self, prefix: str, keep_chunks: bool, writer: VideoWriter) -> Iterator[Journal]:
        """The take's journal, with the chunks that it may use again; afterwards what is to be kept of it is kept.

        Of a take without a fingerprint nothing is used again, and what was kept under another name stays.
        """
        fingerprints, unreadable = self.fingerprints(writer)
        folder = take_folder(takes_folder(), folder_name(prefix), fingerprints)
        if unreadable:
            logger.warning("this take starts from its first chunk and cannot be resumed: these have no fingerprint, so "
                           "they may differ another time: %s", "; ".join(dict.fromkeys(unreadable)))
        elif copied := copy_reusable_chunks(folder, fingerprints, prefix):
            logger.info(copied)
        with Journal.open(folder, fingerprints, prefix, self.about(), LOOK_SECONDS) as journal, \
                ExitStack() as unless_kept:
            if unreadable and not keep_chunks:
                unless_kept.callback(journal.discard)
            journal.withdraw(STOP)
            yield journal
            journal.withdraw(STOP)
            if not keep_chunks and journal.take == prefix and journal.finished == journal.chunks and \
                    not journal.has_request(KEEP):
                journal.discard()

    def about(self) -> dict[str, Any]:
        """What the take's folder says of it to people, and the graph to queue again."""
        plan = self.take.plan
        return {"chunks": len(plan.chunks), "frames": plan.total_frames, "fps": str(plan.timeline.fps),
                "width": plan.width, "height": plan.height, "graph": graph_tags(self.hidden.prompt, None).get("prompt")}

    def fingerprints(self, writer: VideoWriter) -> tuple[list[dict[str, str]], list[str]]:
        """Per chunk what determines it, by the name that a user knows it by, and what of it has no fingerprint."""
        inputs, sampling = self.inputs, self.sampling
        common = {"techniques": inputs.techniques, "sampler": sampling.sampler, "sigmas": sampling.sigmas,
                  "noise": sampling.noise, "vae": inputs.vae, "reference": inputs.fitted_picture,
                  "speakers": inputs.speakers, "clip vision": inputs.vision_conditions, "writer": writer.fingerprint,
                  "driving video": inputs.driving and inputs.driving.identity()}
        if inputs.speech is not None and inputs.speech.encoder is not None:
            common["audio VAE"] = inputs.speech.encoder
        if inputs.before is not None:
            common["continue_from"] = inputs.clip_tail

        def own(chunk: Chunk) -> dict[str, Any]:
            picture = inputs.chunk_picture(chunk)
            return {**self.take.plan.fingerprint_of(chunk), "prompt": inputs.prompts.get(chunk.prompt),
                    "speech": inputs.audio_for(speech_chunk(sampling, inputs.plan, chunk)),
                    "chunk picture": None if picture is inputs.fitted_picture else picture,
                    "driving frames": inputs.driving_times(chunk), **inputs.story_of(chunk)}

        return take_fingerprints(sampling.guider, common, map(own, self.take.plan.chunks))

    def write_video(self, prefix: str, name: str, journal: Journal, writer: VideoWriter, made_of: str,
                    progress: TakeProgress, remakes: Remakes) -> Path:
        """Make the chunks that are missing and join all of them under the next free number of `name`."""
        plan = self.take.plan
        progress.open(journal)
        if not journal.finished and (other := unfinished_beside(journal.folder, prefix, journal.fingerprints[0])):
            logger.info(other)
        before = self.copy_clip(journal, writer, progress)
        make_take(plan, self.make_sampler(self.inputs, self.sampling, progress),
                  self.inputs.open_stream, journal, writer, progress, self.inputs.opening)
        whole = journal.finished == journal.chunks
        segments = remakes.segments() if whole else journal.segments()
        progress.say_joining()
        who = {TAG: list_references(self.inputs)}
        tags, sound = graph_tags(self.hidden.prompt, self.hidden.extra_pnginfo, **who), self.sound(
            journal.finished_frames)

        def join(path: Path) -> None:
            writer.finish([*before, *segments], sound, tags, path)

        def names() -> Iterator[Path]:
            return free_paths(name, plan.width, plan.height)

        return publish(journal, made_of, join, names) if whole else publish_part(journal, join, names)

    def sound(self, frames: int) -> SoundTrack | dict | None:
        """Of the video with so many of the take's own frames; all of it where none is missing."""
        audio, clip, plan = self.take.audio, self.inputs.before, self.take.plan
        if audio is not None and frames < plan.new_frames:
            samples = round((frames + bool(clip)) / plan.timeline.fps * audio["sample_rate"])
            audio = {**audio, "waveform": audio["waveform"][..., :samples]}
        return audio if clip is None else clip.with_sound(audio)

    def copy_clip(self, journal: Journal, writer: VideoWriter, progress: TakeProgress) -> list[Path]:
        """The clip that the take goes on from as a segment before its own. It is read before anything is sampled: what
        cannot be read is known then."""
        clip = self.inputs.before
        if clip is None:
            return []
        with name_input("continue_from"), writer.segment(journal.folder / CLIP) as segment:
            clip.write(segment, progress.check_cancelled)
        return [journal.folder / CLIP]
