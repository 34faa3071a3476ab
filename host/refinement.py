"""Refine Take's session: a video enlarged, half noised and denoised chunk by chunk, with Long Take's journal."""
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch import Tensor

from .. import backbones
from ..backbones.backbone import ChunkInputs
from ..backbones.socket_values import name_input
from ..backbones.take_checks import check_guider, check_noise, check_refining_schedule
from ..pipelines.frames_at_times import FrameSource
from ..pipelines.take.fingerprint import Fingerprints
from ..pipelines.take.plan import Chunk, Take
from ..pipelines.take.refinement import FITS, EnlargedVideo, plan_refinement
from ..pipelines.take.video_writer import VideoWriter
from ..techniques.layout import Layout
from ..techniques.technique import ChunkPosition, finishing_frames
from .chunk_sampler import Sampling
from .session import TakeSession
from .take_inputs import TakeInputs

RATES = {"spatial and temporal": 2, "spatial": 1}      # frames that become of one


@dataclass(frozen=True, eq=False)
class NumberedFrames:
    """A video's frames by number, at its own rate."""
    source: FrameSource

    @property
    def fps(self) -> Fraction:
        return self.source.fps

    @property
    def count(self) -> int:
        return max(round((self.source.seconds or 0) * self.fps), 1)

    def between(self, first: int, end: int) -> list[Tensor]:
        return list(self.source.at([frame / self.fps for frame in range(first, end)]))

    @cached_property
    def proportion(self) -> float:
        """Height / width."""
        rows, columns = self.between(0, 1)[0].shape[:2]
        return rows / columns


@dataclass(frozen=True, eq=False)
class RefinementInputs(TakeInputs):
    """`video`: what the chunks begin from, of the plan's size and frames."""
    video: EnlargedVideo | None = None

    def check_techniques(self) -> None:
        """Here there is no picture of the person either."""
        if finishing_frames(self.techniques):
            raise ValueError("guider: its model has Colour Match, and a refined video keeps the colours that it has. "
                             "Leave Colour Match out")
        if self.pads:
            raise ValueError("guider: its model has an anchor of placement 'padding', which is the picture of a take, "
                             "and a video that is refined has none. Leave Lookahead Anchor out")
        for technique in self.techniques:
            technique.layout(Layout.of_chunk(self.plan.chunks[0].latents), ChunkPosition())
        super().check_techniques()

    def chunk_inputs(self, chunk: Chunk, context: Tensor | None = None, reference: Tensor | None = None,
                     context_frames: Tensor | None = None, identity: Tensor | None = None, seen: Tensor | None = None
                     ) -> ChunkInputs:
        """The latents of the enlarged video in place of nothing, behind the conditioning frames; encoded with those
        before them, as a causal VAE sees them."""
        assert self.video is not None
        given = super().chunk_inputs(chunk, context, reference, context_frames, identity, seen)
        clock = self.plan.timeline
        samples = self.encode(self.video.frames(clock.last_frame(chunk.first_latent),
                                                clock.frames_for_latents(chunk.latents)))
        samples[:, :, :chunk.context_latents] = given.samples[:, :, :chunk.context_latents]
        return replace(given, samples=samples)


class RefinementSampling(Sampling):
    def check(self) -> None:
        """Raises ValueError for a schedule that begins with noise alone or a guider with another model's prompts."""
        with name_input("noise"):
            check_noise(self.guider.model_patcher, self.noise)
        with name_input("sigmas"):
            check_refining_schedule(self.guider.model_patcher, self.sigmas)
        with name_input("guider"):
            check_guider(self.guider)


@dataclass(frozen=True, eq=False)
class RefinementSession(TakeSession):
    """`origin`: what tells the video that is refined, and how it is enlarged."""
    origin: str = ""

    def fingerprints(self, writer: VideoWriter) -> tuple[list[dict[str, str]], list[str]]:
        found, unreadable = super().fingerprints(writer)
        return [{**chunk, "video": self.origin} for chunk in found], unreadable


@dataclass(frozen=True)
class Asked:
    """What the user chose: `mode` of RATES; sizes and frames (of the source) that are 0, and an overlap of -1, are the
    model's own."""
    mode: str = "spatial and temporal"
    width: int = 0
    height: int = 0
    fit: str = "crop"
    chunk_frames: int = 0
    overlap_frames: int = -1


def open_refinement(sampling: Sampling, vae: Any, source: FrameSource, asked: Asked, hidden: Any) -> RefinementSession:
    """Raises ValueError for a model that refines nothing, and for sizes that it cannot have."""
    if asked.fit not in FITS:
        raise ValueError(f"fit: got {asked.fit!r}, wanted one of {', '.join(FITS)}")
    model = sampling.guider.model_patcher
    backbone, rate, frames = backbones.find(model), RATES[asked.mode], NumberedFrames(source)
    own = backbone.refined_size(frames.proportion)
    if own is None:
        raise ValueError(f"guider: got {backbone.name}, wanted LongCat-Video with its refinement LoRA, which refines "
                         "videos of any model. Connect Load LongCat with LongCat-Video/dit")
    if bool(asked.width) != bool(asked.height):
        raise ValueError(f"width, height: got {asked.width} and {asked.height}; give both, or 0 for both to take the "
                         f"nearest bucket, {own[0]}x{own[1]}")
    width, height = (asked.width, asked.height) if asked.width else own
    plan = plan_refinement(frames.count, frames.fps, rate, width, height,
                           asked.chunk_frames or backbone.chunk_frames,
                           asked.overlap_frames if asked.overlap_frames >= 0 else backbone.overlap_frames,
                           backbone.grid)
    inputs = RefinementInputs(model, vae, plan, video=EnlargedVideo(frames, rate, width, height, asked.fit))
    origin = Fingerprints().of([source.identity(), asked.fit], "video")
    return RefinementSession(inputs, sampling, Take(plan, source.sound()), hidden, origin=origin)
