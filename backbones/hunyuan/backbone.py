"""HunyuanVideo 1.0 text-to-video, its two ways of image-to-video, SkyReels V1, and HunyuanVideo 1.5.

Clean frames (anchors, stitched context) are tokens with their own RoPE time and timestep 0, as the network knows the
first frame of its "replace" image-to-video. Its other way, and 1.5, know frames by channels beside the noisy ones. It
has no audio conditioning: a take's speech is the sound of the video alone.
"""
import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.ldm.hunyuan_video.model
import torch
from torch import Tensor

from ...techniques.layout import Layout
from ...techniques.technique import restricts_visibility
from ...techniques.timeline import frames_of
from ..backbone import Backbone, ChunkInputs, ChunkRequest, lay_out_call
from ..frame_conditions import Cut, window_of
from .call import HunyuanCall
from .levels import level_vector, with_levels

logger = logging.getLogger("lodestar")

GUIDING = "guiding_frame_index"     # in CONDITIONING: the first frame is known


@dataclass(frozen=True)
class HunyuanVideo(Backbone):
    """`opened_by`: values of CONDITIONING, any of which says that the picture opens the video; none: it always does."""
    supported: ClassVar[str] = "HunyuanVideo T2V and I2V (concat and replace), SkyReels V1 I2V, HunyuanVideo 1.5"
    frame_conditions: ClassVar = {"c_concat": Cut(2, per_latent=1, first=1, core_cuts=True)}
    opened_by: ClassVar[frozenset[str]] = frozenset({GUIDING})
    name: str = "HunyuanVideo"
    fps: int = 24
    chunk_frames: int = 129
    overlap_frames: int = 13
    grid: int = 16
    size: tuple[int, int] = (848, 480)
    audio_shape: tuple[int, int] | None = None
    audio_condition: str | None = None

    @classmethod
    def of(cls, model) -> "HunyuanVideo | None":
        base, module = model.model, model.model.diffusion_model
        if type(module) is not comfy.ldm.hunyuan_video.model.HunyuanVideo:
            return None
        kinds: dict[tuple[str, int, int], type[HunyuanVideo]] = {
            ("HunyuanVideo", 16, 16): cls, ("HunyuanVideoI2V", 33, 16): WithChannels,
            ("HunyuanVideoSkyreelsI2V", 32, 16): SkyReels, ("HunyuanVideo15", 65, 32): HunyuanVideo15}
        kind = kinds.get((type(base).__name__, module.in_channels, module.out_channels))
        return None if kind is None else kind()

    def text_width(self, base) -> int:
        return base.diffusion_model.params.context_in_dim

    def vision_encoder(self, base) -> tuple[int, str] | None:
        reader = base.diffusion_model.vision_in
        return None if reader is None else (reader.proj[0].normalized_shape[0], "sigclip_vision_patch14_384")

    def prompt_values(self, base) -> dict[str, Any]:
        width = base.diffusion_model.params.vec_in_dim
        return {} if width is None else {"pooled_output": torch.zeros(1, width)}

    def check_video_reference(self, audio: bool) -> None:
        raise ValueError(f"model: {self.name} has text and frames in one attention, so a video of the person would "
                         "not be seen alone. Use Lookahead Anchor with a picture")

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> HunyuanCall:
        call = HunyuanCall.bind(executor, args, kwargs)
        window = window_of(call.transformer_options)
        if window is not None and window.latents[0] != 0:     # the known frame is another window's
            call = call.change(guiding_frame_index=None)
        own = Layout.of_chunk(call.x.shape[2])
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        if layout is not own or restricts_visibility(techniques):
            refuse_others(call, layout)
            frames = [time for span in layout.spans for time in span.times]
            call = call.with_frames(layout, process_in).with_positions(frames).with_visibility(visibility, len(frames))
        return with_clean_levels(call, layout)

    def opens(self, request: ChunkRequest) -> bool:
        """Whether the picture is the first frame: where the model was trained for one, as its conditioning says."""
        if request.reference is None:
            return False
        if not self.opened_by or self.opened_by & request.given:
            return True
        if request.context is None:
            logger.info("%s makes video from text with this conditioning: the reference is for anchors alone. Where "
                        "it should open the video, put the prompt through core's image-to-video node, which sets %s",
                        self.name, " or ".join(sorted(self.opened_by)))
        return False

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """The picture opens the first chunk, masked out, and the conditioning says that it is known; context is
        clean tokens before the chunk, and the sampler sees only what is new."""
        channels, height, width = request.latent_shape
        if request.context is not None:
            new = request.latents - request.context.shape[2]
            return ChunkInputs(torch.zeros(1, channels, new, height, width), conditions={GUIDING: None},
                               context=request.context)
        known = request.reference if self.opens(request) else None
        samples, mask = request.open_with(known, comfy.latent_formats.LatentFormat())
        return ChunkInputs(samples, mask, {} if mask is None else {GUIDING: 0})


@dataclass(frozen=True)
class WithChannels(HunyuanVideo):
    """Known frames stand in channels beside the noisy ones, zeros where nothing is known."""
    opened_by: ClassVar[frozenset[str]] = frozenset()
    channels: ClassVar[int] = 16
    name: str = "HunyuanVideo I2V"

    def concat_latent(self, encode, picture, latents, height, width, padding=None) -> Tensor:
        ratio = self.spatial_ratio
        beside = torch.zeros(1, self.channels, latents, height // ratio, width // ratio)
        if padding is not None:
            beside[:] = encode(padding.expand(frames_of(latents, self.temporal_ratio), -1, -1, -1))
        if picture is not None:
            beside[:, :, :1] = encode(picture)
        return beside

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """What is known, the picture or the last chunk's latents, beside the noise; the mask is 0 there."""
        channels, height, width = request.latent_shape
        samples, opens = torch.zeros(1, channels, request.latents, height, width), self.opens(request)
        mask = torch.ones_like(samples[:, :1])
        assert request.concat_latent is not None
        beside = request.concat_latent[:, :, :request.latents].clone()
        if request.context is not None:
            beside[:, :, :request.context.shape[2]] = request.context
            mask[:, :, :request.context.shape[2]] = 0
        elif opens:
            mask[:, :, :1] = 0
        elif not request.padded:
            beside.zero_()
        return ChunkInputs(samples, conditions={"concat_latent_image": beside, "concat_mask": mask})


@dataclass(frozen=True)
class SkyReels(WithChannels):
    """As the one with channels, without one for the mask."""
    name: str = "SkyReels V1 I2V"
    chunk_frames: int = 97


@dataclass(frozen=True)
class HunyuanVideo15(WithChannels):
    """Its tokens are one latent wide, its VAE's latents 16 pixels."""
    opened_by: ClassVar[frozenset[str]] = frozenset({"clip_vision_output", "concat_latent_image"})
    channels: ClassVar[int] = 32
    name: str = "HunyuanVideo 1.5"
    chunk_frames: int = 121

    @property
    def spatial_ratio(self) -> int:
        return self.grid


def with_clean_levels(call: HunyuanCall, layout: Layout) -> HunyuanCall:
    """Clean frames at timestep 0, and a first frame that is known at its own."""
    levels = [int(span.clean) for span in layout.spans for _ in span.times]
    vectors = [level_vector(call, call.timestep.new_zeros(1))] if any(levels) else []
    if call.guiding_frame_index is not None:
        vectors.append(level_vector(call, call.guiding_frame_index))
        levels[0] = len(vectors)
    return with_levels(call, levels, vectors) if vectors else call


def refuse_others(call: HunyuanCall, layout: Layout) -> None:
    """ValueError where another node added tokens or features that know nothing of the layout."""
    if call.ref_latent is not None:
        raise ValueError("conditioning: this one brings a reference latent of its own (HunyuanImageToVideo with "
                         "guidance_type custom), whose tokens Lodestar cannot lay out beside an anchor. Remove that "
                         "node, or the Lodestar nodes")
    if call.control is not None and any(span.latents is not None for span in layout.spans):
        raise ValueError("conditioning: a ControlNet adds to every token of the video, and there is none of it for an "
                         "anchor. Remove the ControlNet, or the Lodestar nodes")
