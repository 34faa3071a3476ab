"""A video of the person becomes a technique: frames chosen, fitted, encoded, and the tokens of the person selected."""
import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .. import backbones
from ..backbones.audio.speech import Speech
from ..backbones.backbone import Backbone
from ..backbones.images import fit_picture
from ..backbones.socket_values import name_input
from ..backbones.vae import encode_frames
from ..pipelines.frames_at_times import ClipFrames, FrameSource
from ..pipelines.take.reference_frames import ReferenceFrames, choose_frames
from ..techniques.reference_tokens import CHOOSE, Tokens, latent_frames
from ..techniques.timeline import Timeline
from ..techniques.video_reference import VideoReference
from .driving_sources import open_video
from .reference_regions import Fit, Regions

logger = logging.getLogger("lodestar")


@dataclass(frozen=True, eq=False)
class ReferenceVideo:
    """What the node was given. `size`: width and height in pixels, None for the video's own, no larger than the
    model's."""
    model: Any
    vae: Any
    video: Any
    frames: int
    choose: str
    regions: Any
    grow: float
    when_empty: str
    features: dict | None
    size: tuple[int, int] | None

    @property
    def backbone(self) -> Backbone:
        return backbones.find(self.model)

    @property
    def clock(self) -> Timeline:
        return self.backbone.timeline(Fraction(self.backbone.fps))

    def make(self, placement: str, distance: float, offload: str) -> tuple[VideoReference, str]:
        """The technique, and what it keeps and costs in words."""
        self.backbone.check_video_reference(self.features is not None)
        clock = self.clock
        regions = Regions.of(self.regions, self.when_empty)
        if self.features is not None and self.choose != CHOOSE[0]:
            raise ValueError("audio_features: they are of a piece of video as it runs, and these are single frames. "
                             f"Set choose to {CHOOSE[0]}, or disconnect them")
        with name_input("video"):
            source = self.open(clock)
            chosen = choose_frames(source, self.frames, self.choose, clock, regions.describe)
            fit = self.fit(chosen.frames)
            pictures = torch.cat([fit_picture(frame[None], fit.width, fit.height) for frame in chosen.frames])
        latents = self.encode(pictures, chosen.stream)
        tokens = self.select(chosen, regions, fit, source, clock)
        technique = VideoReference(latents, tokens, placement, distance, self.audio(chosen, clock, len(tokens.keep)),
                                   offload)
        return technique, self.describe(technique, chosen, regions, fit)

    def open(self, clock: Timeline) -> FrameSource:
        """A VIDEO, or pictures as if filmed at the model's rate."""
        if isinstance(self.video, Tensor):
            return ClipFrames(self.video, clock.fps, "the video", moving=len(self.video) > 1)
        return open_video(self.video, "the video")

    def fit(self, frames: Tensor) -> Fit:
        """Of the take's size; of the video's own where that is not known."""
        return fit_of(self.size, frames, self.backbone)

    def encode(self, pictures: Tensor, stream: bool) -> Tensor:
        """(1, C, R, h, w): of a piece of video as one, of single pictures each alone."""
        check_vae(self.model, self.vae, self.backbone)
        with name_input("vae"):
            parts = [pictures] if stream else pictures.split(1)
            return torch.cat([encode_frames(self.vae, part).float().cpu() for part in parts], 2)

    def select(self, chosen: ReferenceFrames, regions: Regions, fit: Fit, source: FrameSource, clock: Timeline
               ) -> Tokens:
        """Of each latent the tokens that any of its frames has."""
        total = (source.seconds or Fraction(1)) * clock.fps
        shares = [Fraction(number) / total for number in chosen.numbers]
        keep = regions.tokens(chosen.frames, shares, fit, self.grow, self.when_empty)
        if chosen.stream:
            latents = clock.latents_for_frames(len(keep))
            keep = latent_frames(keep, [range(clock.first_frame(latent), clock.last_frame(latent) + 1)
                                        for latent in range(latents)])
        return Tokens(keep)

    def audio(self, chosen: ReferenceFrames, clock: Timeline, latents: int) -> Tensor | None:
        """What is said in it, as the family has a chunk's."""
        if self.features is None:
            return None
        speech = Speech.of(self.features)
        self.backbone.check_speech(speech, clock)
        return self.backbone.audio_for(speech, clock, chosen.numbers[0] // clock.temporal_ratio, latents)

    def describe(self, technique: VideoReference, chosen: ReferenceFrames, regions: Regions, fit: Fit) -> str:
        """What is kept, of how much, what it adds to each call, and what the user should know."""
        tokens, clock = technique.tokens, self.clock
        rows, columns = fit.grid
        own = clock.latents_within_frames(self.backbone.chunk_frames) * rows * columns
        lines = [f"{tokens.count:,} of {tokens.total:,} tokens kept ({tokens.count / tokens.total:.0%}): "
                 f"{tokens.frames} latents of {len(chosen.numbers)} frames, {fit.width}x{fit.height}",
                 f"added to each call: {tokens.count / own:.1%} more keys for the {own:,} tokens of a chunk of "
                 f"{self.backbone.chunk_frames} frames at that size", *chosen.notes, *regions.notes]
        for note in (*chosen.notes, *regions.notes):
            logger.warning("video reference: %s", note)
        return "\n".join(f"{line[:1].upper()}{line[1:].rstrip('.')}." for line in lines)


def fit_of(size: tuple[int, int] | None, frames: Tensor, backbone: Backbone) -> Fit:
    """How frames (T, H, W, C) are cropped to `size`, or to what is near their own. Raises ValueError for a size that
    the family does not have."""
    width, height = size or fitting_size(frames.shape[2], frames.shape[1], backbone)
    step = backbone.grid
    if width % step or height % step:
        raise ValueError(f"width, height: got {width}x{height}, wanted multiples of {step}")
    return Fit(width, height, (height // step, width // step))


def check_vae(model, vae, backbone: Backbone) -> None:
    """Raises ValueError for another model's VAE."""
    wanted = backbone.latent_channels(model.model)
    if vae.latent_channels != wanted:
        raise ValueError(f"vae: it makes latents of {vae.latent_channels} channels, {backbone.name} wants {wanted}. "
                         "Load the VAE that belongs to the model")


def fitting_size(width: int, height: int, backbone: Backbone) -> tuple[int, int]:
    """The video's proportions, with no more pixels than a good picture of the family has, in its steps."""
    pixels, step = backbone.size[0] * backbone.size[1], backbone.grid
    scale = min(1.0, (pixels / (width * height)) ** 0.5)
    return tuple(max(int(side * scale) // step, 1) * step for side in (width, height))  # type: ignore[return-value]
