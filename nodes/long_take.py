"""Long Take: the plan, chunk by chunk, through ComfyUI's own sampler, to one video on disk.

`TakeSession` gives pipelines/take/take.py the functions it asks for: ComfyUI's sampler, its VAE, its server.
"""
import copy
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import InputImpl, io, ui
from torch import Tensor

from .. import backbones
from ..backbones import attach
from ..backbones.allocator import give_back
from ..backbones.audio.speech import Speech
from ..backbones.backbone import ChunkRequest
from ..backbones.images import encode_picture, fit_picture
from ..backbones.take_checks import check_guider, check_pictures, check_prompt, check_schedule, log_unused
from ..backbones.vae import encode_frames, open_stream
from ..host.metadata import graph_tags
from ..host.output_names import fill_in, free_paths, problem_of, subfolder_of
from ..host.progress import TakeProgress
from ..host.take_fingerprints import take_fingerprints
from ..pipelines.take.final_file import find_published, publish
from ..pipelines.take.fingerprint import Fingerprints
from ..pipelines.take.journal import Journal, unfinished_beside
from ..pipelines.take.plan import Chunk
from ..pipelines.take.reusable_chunks import copy_kept_chunks, take_folder
from ..pipelines.take.take import ChunkDone, Tail, make_take
from ..pipelines.take.video_writer import VideoWriter
from ..techniques.latent_stitch import LatentStitch
from ..techniques.technique import ChunkPosition, Technique
from .input_checks import checked, named
from .sockets import PLAN, Take, search_words

logger = logging.getLogger("lodestar")


@dataclass(frozen=True)
class Made:
    path: Path
    subfolder: str     # below the output folder
    tail: Tensor       # the last chunk's latents (1, C, t, h, w)


@dataclass(frozen=True, eq=False)
class TakeSession:
    noise: Any
    guider: Any
    sampler: Any
    sigmas: Tensor
    vae: Any
    take: Take
    features: dict | None
    picture: Tensor | None
    clip: Any
    hidden: Any        # the node's unique_id, prompt and extra_pnginfo

    @cached_property
    def backbone(self):
        return backbones.find(self.guider.model_patcher)

    @property
    def plan(self):
        return self.take.plan

    @property
    def model(self):
        return self.guider.model_patcher.model

    @cached_property
    def stitch(self) -> Technique:
        own = LatentStitch(self.backbone.handover)
        return attach.handover_of(self.guider.model_patcher) or own

    @cached_property
    def techniques(self):
        others = (other for other in attach.techniques_of(self.guider.model_patcher) if other is not self.stitch)
        return (self.stitch, *others)

    @cached_property
    def fitted_picture(self) -> Tensor | None:
        if self.picture is None:
            return None
        with named("reference"):
            return fit_picture(self.picture, self.plan.width, self.plan.height)

    @cached_property
    def reference(self) -> Tensor | None:
        return None if self.fitted_picture is None else encode_picture(self.vae, self.fitted_picture)

    @cached_property
    def latent_shape(self) -> tuple[int, int, int]:
        ratio = self.backbone.spatial_ratio
        return self.model.latent_format.latent_channels, self.plan.height // ratio, self.plan.width // ratio

    @cached_property
    def progress(self) -> TakeProgress:
        return TakeProgress(self.hidden.unique_id, self.plan, self.sigmas.shape[-1] - 1)

    def make(self, prefix: str, keep_chunks: bool) -> Made:
        """Make or resume the take and write the video. Raises ValueError for inputs that do not fit together."""
        with self.progress:
            name = self.named(prefix)
            self.check()
            writer = VideoWriter(self.plan.width, self.plan.height, self.plan.timeline.fps)
            with self.journal(prefix, keep_chunks, writer) as journal:
                made_of = Fingerprints().of([prefix, folder_paths.get_output_directory(), self.take.audio], "audio")
                path = find_published(journal, made_of) or self.write_video(prefix, name, journal, writer, made_of)
                tail = journal.latents(journal.finished_latents - self.plan.chunks[-1].new_latents,
                                       journal.finished_latents)
            self.progress.finished()
        return Made(path, subfolder_of(path), tail)

    @contextmanager
    def journal(self, prefix: str, keep_chunks: bool, writer: VideoWriter) -> Iterator[Journal]:
        """The take's journal, with the chunks that it may use again; afterwards what is to be kept of it is kept.

        Of a take without a fingerprint nothing is used again, and what was kept under another name stays.
        """
        contracts, unreadable = take_fingerprints(self.guider, self.values(writer),
                                                  map(self.values_of, self.plan.chunks))
        takes = Path(folder_paths.get_output_directory()) / "lodestar_takes"
        folder = take_folder(takes, folder_name(prefix), contracts)
        if unreadable:
            logger.warning("this take starts from its first chunk and cannot be resumed: these have no fingerprint, so "
                           "they may differ another time: %s", "; ".join(dict.fromkeys(unreadable)))
        elif kept := copy_kept_chunks(folder, contracts, prefix):
            logger.info(kept)
        with Journal.open(folder, contracts, prefix) as journal, ExitStack() as unless_kept:
            if unreadable and not keep_chunks:
                unless_kept.callback(journal.discard)
            yield journal
            if not keep_chunks and journal.take == prefix:
                journal.discard()

    def values(self, writer: VideoWriter) -> dict[str, Any]:
        """What determines every chunk alike, beside model and guider, by the name that a user knows it by."""
        return {"techniques": self.techniques, "sampler": self.sampler, "sigmas": self.sigmas, "noise": self.noise,
                "vae": self.vae, "reference": self.fitted_picture, "people": self.people, "writer": writer.contract}

    def values_of(self, chunk: Chunk) -> dict[str, Any]:
        """What determines one chunk."""
        return {**self.plan.contract_of(chunk), "prompt": self.prompts.get(chunk.prompt),
                "speech": self.audio_of(chunk)}

    def named(self, prefix: str) -> str:
        """The file name that was asked for, with its tokens filled in, before anything is made. Raises ValueError."""
        name = fill_in(prefix, self.plan.width, self.plan.height, self.hidden.prompt or {}, time.localtime())
        if problem := problem_of(prefix) or problem_of(name):   # one that came by a link was not seen before
            raise ValueError(problem)
        return name

    def write_video(self, prefix: str, name: str, journal: Journal, writer: VideoWriter, made_of: str) -> Path:
        """Make the chunks that are missing and join all of them under the next free number of `name`."""
        tags = graph_tags(self.hidden.prompt, self.hidden.extra_pnginfo)
        self.progress.opened(journal)
        if not journal.finished and (other := unfinished_beside(journal.folder, prefix, journal.contracts[0])):
            logger.info(other)
        result = make_take(self.plan, partial(self.sample_chunk, journal=journal), lambda: open_stream(self.vae),
                           journal, writer, context_of=self.context_of if self.handed_latents else None,
                           tail_frames=self.tail_frames, on_chunk=self.on_chunk, on_frames=self.progress.decoded,
                           on_replay=self.progress.replayed,
                           check_cancelled=comfy.model_management.throw_exception_if_processing_interrupted)
        self.progress.joining()
        return publish(journal, made_of, lambda path: writer.finish(result.segments, self.take.audio, tags, path),
                       lambda: free_paths(name, self.plan.width, self.plan.height))

    def check(self) -> None:
        """Refuse what does not fit together before any sampling."""
        self.check_plan()
        channels = self.vae.latent_channels
        if channels != self.latent_shape[0]:
            raise ValueError(f"vae: it makes latents of {channels} channels, {self.backbone.name} wants "
                             f"{self.latent_shape[0]}. Load the VAE that belongs to the model")
        with named("sigmas"):
            check_schedule(self.guider.model_patcher, self.sigmas)
        with named("guider"):
            check_guider(self.guider)
        check_pictures(self.techniques, *self.latent_shape[1:])
        log_unused(self.techniques, self.plan.seconds)
        if any(chunk.prompt for chunk in self.plan.chunks) and self.clip is None:
            raise ValueError("clip: the plan has a script of prompts and no text encoder to read it. Connect clip, or "
                             "empty the script of Plan Take")
        if self.features is not None and self.backbone.audio_shape is None:
            logger.warning("audio_features: %s has no audio conditioning; they are not used", self.backbone.name)
        if self.backbone.audio_shape is not None:
            if self.speech is None:
                raise ValueError(f"audio_features: {self.backbone.name} is driven by speech. Connect Audio Features")
            self.backbone.check_speech(self.speech, self.plan.timeline)
            self.speech.check_length(float(self.plan.seconds))
            self.speech.check_recording(self.take.speech or self.take.audio)
            _ = self.people
        with named("clip"):
            for prompt in self.prompts.values():
                check_prompt(self.guider.model_patcher, [text for text, _ in prompt])

    def check_plan(self) -> None:
        plan, grid, repeated = self.plan, self.backbone.grid, self.plan.chunks[-1].context_latents
        if plan.width % grid or plan.height % grid or (repeated and not self.backbone.overlap_frames):
            raise ValueError(f"plan: {plan.width}x{plan.height}, chunks that repeat {repeated} latents, was made for "
                             f"another model than the guider's {self.backbone.name} (sizes in steps of {grid}, context "
                             f"{'in' if self.backbone.overlap_frames else 'out'}side the chunk). Connect that model to "
                             "Plan Take")

    @cached_property
    def prompts(self) -> dict[str, list]:
        """CONDITIONING of each distinct prompt of the script, encoded once, before the first chunk."""
        texts = dict.fromkeys(chunk.prompt for chunk in self.plan.chunks if chunk.prompt)
        return {text: self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in texts}

    @cached_property
    def speech(self) -> Speech | None:
        return None if self.features is None else Speech.of(self.features)

    @cached_property
    def people(self) -> Tensor | None:
        """Masks (1, K, H, W) of the speakers, cut as the picture is."""
        return self.speech and self.speech.speakers_on(self.picture, self.plan.height, self.plan.width,
                                                     self.backbone.grid)

    def audio_of(self, chunk: Chunk) -> Tensor | None:
        """A chunk's audio features, as the backbone takes them."""
        if self.speech is None or self.backbone.audio_shape is None:
            return None
        return self.backbone.hear(self.speech, self.plan.timeline, chunk.first_latent, chunk.latents)

    @cached_property
    def canvases(self) -> tuple[Tensor | None, Tensor | None]:
        """The backbone's concat latent for the first chunk and for the others."""
        longest = max(chunk.latents for chunk in self.plan.chunks)
        return tuple(self.backbone.canvas(lambda frames: encode_frames(self.vae, frames), picture, longest,
                                          self.plan.height, self.plan.width) for picture in (self.fitted_picture, None))

    def context_of(self, tail: Tail) -> Tensor:
        return self.stitch.handover(tail, self.handed_latents, lambda frames: encode_frames(self.vae, frames),
                                    self.plan.timeline.temporal_ratio)

    @property
    def handed_latents(self) -> int:
        return self.backbone.context_latents(self.plan.chunks[-1].context_latents)

    @property
    def tail_frames(self) -> int:
        """How many decoded frames the hand-over needs."""
        return self.stitch.handover_frames(self.handed_latents, self.backbone.temporal_ratio)

    def reference_of(self, chunk: Chunk, journal: Journal | None) -> Tensor | None:
        """The take's picture; without one, for models that ask for it, the take's own first latent."""
        if self.reference is None and self.backbone.follows_itself and chunk.index and journal is not None:
            return journal.latents(0, 1)
        return self.reference

    def sample_chunk(self, chunk: Chunk, context: Tensor | None, journal: Journal | None = None) -> Tensor:
        """The whole chunk (1, C, n, h, w) through the guider, sampler and callbacks that core would use."""
        self.progress.begun(chunk)
        reference = self.reference_of(chunk, journal)
        inputs = self.backbone.chunk_inputs(ChunkRequest(
            chunk.latents, self.latent_shape, context, reference, self.audio_of(chunk),
            self.canvases[min(chunk.index, 1)], self.people))
        position = ChunkPosition(self.plan.seconds_of(chunk)[0], reference, inputs.context, chunk.index,
                        chunk.first_latent)
        guider = attach.guider_at(self.guider, self.techniques, position, inputs.conditions, inputs.silent,
                                  self.prompts.get(chunk.prompt))
        callback = self.progress.sampling(chunk, self.guider.model_patcher.load_device, self.model.latent_format)
        noise = copy.copy(self.noise)
        noise.seed = chunk.seed(self.noise.seed)
        sampled = guider.sample(noise.generate_noise({"samples": inputs.samples}), inputs.samples, self.sampler,
                                self.sigmas, denoise_mask=inputs.noise_mask, callback=callback,
                                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED, seed=noise.seed)
        self.progress.sampled()
        return inputs.window(sampled.float().cpu(), context if chunk.context_latents else None)

    def on_chunk(self, done: ChunkDone) -> None:
        give_back()
        logger.info("chunk %d of %d is safe on disk", done.chunk.index + 1, len(self.plan.chunks))


def folder_name(prefix: str) -> str:
    return re.sub(r"[^\w-]+", "_", prefix).strip("_")[:64]


class LodestarLongTake(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LodestarLongTake",
            display_name="Long Take",
            category="Lodestar",
            description="Makes the whole video: samples each chunk of the plan, passes its last latents to the next, "
                        "decodes and writes as it goes, in constant memory. Queue again after a crash or a cancel and "
                        "it resumes.",
            inputs=[
                io.Noise.Input("noise", tooltip="Seed of the take; later chunks' are mixed from it and the plan's "
                                                "seed step."),
                io.Guider.Input("guider", tooltip="Model with Lodestar's techniques, and its conditioning: Basic "
                                                  "Guider, CFG Guider or any other."),
                io.Sampler.Input("sampler", tooltip="Any sampler, as for SamplerCustomAdvanced."),
                io.Sigmas.Input("sigmas", tooltip="The schedule, used for every chunk."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model. Wan VAEs are decoded as one stream."),
                PLAN.Input("plan", tooltip="From Plan Take."),
                io.AudioEncoderOutput.Input("audio_features", optional=True,
                                            tooltip="From Audio Features for S2V, from LongCat Speech or Two Speakers "
                                                    "for LongCat Avatar."),
                io.Image.Input("reference", optional=True,
                               tooltip="The person's picture: S2V's reference, the first frame for image-to-video, "
                                       "and the picture of an anchor that has none of its own. Cropped to the take's "
                                       "size."),
                io.Clip.Input("clip", optional=True,
                              tooltip="The text encoder, only needed when the plan has a script of prompts."),
                io.String.Input("filename_prefix", default="lodestar/take",
                                tooltip="Name of the video below ComfyUI's output folder; takes ComfyUI's tokens, "
                                        "such as %date:yyyy-MM-dd%, %width% or %RandomNoise.noise_seed%."),
                io.Boolean.Input("keep_chunks", default=False,
                                 tooltip="Keep the chunks' latents and video segments after the video is finished, so "
                                         "that after a later change only the chunks it affects are made again."),
            ],
            outputs=[io.Video.Output(display_name="video",
                                     tooltip="The finished file, for Save Video, preview or further nodes."),
                     io.String.Output(display_name="path", tooltip="Where the video is."),
                     io.Latent.Output(display_name="tail", tooltip="The last chunk's latents, as they were sampled.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
            **search_words("talking", "talking head", "talking avatar", "avatar", "lip sync", "long video",
                           "audio to video", "speech to video", "minutes", "extend video"),
        )

    @classmethod
    @checked
    def execute(cls, noise, guider, sampler, sigmas, vae, plan, audio_features=None, reference=None, clip=None,
                filename_prefix="lodestar/take", keep_chunks=False) -> io.NodeOutput:
        session = TakeSession(noise, guider, sampler, sigmas, vae, plan, audio_features, reference, clip, cls.hidden)
        made = session.make(filename_prefix, keep_chunks)
        preview = ui.PreviewVideo([ui.SavedResult(made.path.name, made.subfolder, io.FolderType.output)])
        video, tail = InputImpl.VideoFromFile(str(made.path)), {"samples": made.tail}
        return io.NodeOutput(video, str(made.path), tail, ui=preview)

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return problem_of(filename_prefix) or True
