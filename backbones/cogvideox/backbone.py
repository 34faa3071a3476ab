"""CogVideoX 2B and 5B, text and image to video, and CogVideoX 1.5 (Yang et al. 2024), on ComfyUI's own network.

Clean frames ride along with the step's own timestep, since the network takes one for all its frames. CogVideoX 1.5 has
two latents in a token frame: as in its training an odd chunk begins with its first latent twice, and a picture is a
token frame of itself twice. It has no audio conditioning; a take's speech is the sound of the video alone.
"""
from dataclasses import dataclass
from typing import ClassVar

import comfy.model_base
import comfy.samplers
import torch
from torch import Tensor

from ...techniques.layout import Layout
from ...techniques.technique import restricts_visibility
from ...techniques.timeline import frames_of
from ..backbone import Backbone, ChunkInputs, ChunkRequest, lay_out_call
from ..frame_conditions import Cut
from .call import CogVideoXCall, between_frames, doubled_first, table_size, token_frames

CHANNELS = 16


@dataclass(frozen=True)
class CogVideoX(Backbone):
    """`per_frame`: latents of a token frame. `picture_scale`: of a picture's channels, over what ComfyUI makes of them.
    `table_latents`: how many latents its table of positions has; 0 where there is none."""
    supported: ClassVar[str] = "CogVideoX 2B, 5B and 5B I2V, CogVideoX 1.5 5B and 5B I2V"
    frame_conditions: ClassVar = {"c_concat": Cut(2, per_latent=1, first=1, core_cuts=True)}
    name: str = "CogVideoX"
    fps: int = 8
    chunk_frames: int = 49
    overlap_frames: int = 9
    grid: int = 16
    size: tuple[int, int] = (720, 480)
    audio_shape: tuple[int, int] | None = None
    audio_condition: str | None = None
    with_picture: bool = False
    per_frame: int = 1
    picture_scale: float = 1.0
    table_latents: int = 0
    one_size: bool = False

    @classmethod
    def of(cls, model) -> "CogVideoX | None":
        base, network = model.model, model.model.diffusion_model
        if type(base) is not getattr(comfy.model_base, "CogVideoX", None):     # ComfyUI 0.33 has it, 0.7 has not
            return None
        if network.in_channels not in (CHANNELS, 2 * CHANNELS) or network.out_channels != CHANNELS:
            return None                                                        # inpainting has a mask, too
        picture = network.in_channels > CHANNELS
        if network.patch_size_t:
            # its pictures were divided in training by what latents are multiplied by
            scale = base.latent_format.scale_factor ** -2 if picture else 1.0
            return cls(f"CogVideoX 1.5{' I2V' if picture else ''}", fps=16, chunk_frames=81, overlap_frames=17,
                       size=(1360, 768), with_picture=picture, per_frame=network.patch_size_t, picture_scale=scale)
        rows = 0
        if network.patch_embed.use_learned_positional_embeddings:
            tokens = network.patch_embed.pos_embedding.shape[1] - network.patch_embed.max_text_seq_length
            height, width = table_size(network.patch_embed)
            rows = tokens // (height * width)
        return cls(f"CogVideoX{' I2V' if picture else ''}", with_picture=picture, table_latents=rows,
                   one_size=bool(rows))

    def text_width(self, base) -> int:
        return base.diffusion_model.patch_embed.text_proj.in_features

    def check_sampler(self, sampler) -> None:
        if isinstance(sampler, comfy.samplers.KSAMPLER):
            name = sampler.sampler_function.__name__.removeprefix("sample_")
            raise ValueError(f"got {name}, wanted VOID Sampler (VOIDSampler): ComfyUI hands {self.name} a sampler's "
                             "latents as they are, which its other samplers make thousands of times too large")

    def check_video_reference(self, audio: bool) -> None:
        raise ValueError(f"model: {self.name} has text and frames in one attention, so a video of the person would "
                         "not be seen alone. Use Lookahead Anchor with a picture")

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> CogVideoXCall:
        call = CogVideoXCall.bind(executor, args, kwargs)
        own = Layout.of_chunk(call.x.shape[2])
        layout, visibility = lay_out_call(own, techniques, position, call.transformer_options)
        if layout is own and not restricts_visibility(techniques):
            return call
        frames = token_frames(layout, call.per_frame)
        call = call.with_frames(layout, process_in, self.picture_scale)
        if restricts_visibility(techniques):
            call = call.with_visibility(between_frames(visibility, frames), len(frames))
        return call.with_positions([frame.time for frame in frames])

    def concat_latent(self, encode, picture, latents, height, width, padding=None) -> Tensor | None:
        """The picture, then nothing: zeros, as this model was trained (only for image-to-video)."""
        if not self.with_picture:
            return None
        ratio = self.spatial_ratio
        channels = torch.zeros(1, CHANNELS, latents, height // ratio, width // ratio)
        if padding is not None:
            channels[:] = encode(padding.expand(frames_of(latents, self.temporal_ratio), -1, -1, -1))
        if picture is not None:
            channels[:, :, :1] = encode(picture)
        return channels * self.picture_scale

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        self.check_table(request)
        return self.i2v_inputs(request) if self.with_picture else self.t2v_inputs(request)

    def check_table(self, request: ChunkRequest) -> None:
        """Raises ValueError for a chunk that the table of positions, where there is one, does not have."""
        _, height, width = request.latent_shape
        ratio, (columns, rows) = self.spatial_ratio, self.size
        if self.table_latents and (width * ratio, height * ratio) != self.size:
            raise ValueError(f"width, height: got {width * ratio}x{height * ratio}, but this {self.name} has its "
                             f"positions in a table for {columns}x{rows} alone. Set both to 0")
        if 0 < self.table_latents < request.latents:
            most = frames_of(self.table_latents, self.temporal_ratio)
            raise ValueError(f"chunk_frames: got {request.latents} latents, but this {self.name} has its positions in "
                             f"a table for {self.table_latents}. Make chunks of at most {most} frames")

    def t2v_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """Context as clean frames before the chunk; the sampler sees only what is new."""
        channels, height, width = request.latent_shape
        if request.context is None:
            before = -request.latents % self.per_frame
            return ChunkInputs(torch.zeros(1, channels, before + request.latents, height, width), before=before)
        new = request.latents - request.context.shape[2]
        behind = -new % self.per_frame
        return ChunkInputs(torch.zeros(1, channels, new + behind, height, width),
                           context=doubled_first(request.context, self.per_frame), behind=behind)

    def i2v_inputs(self, request: ChunkRequest) -> ChunkInputs:
        """What is known, the picture or the last chunk's latents, in the channels beside the noisy ones."""
        channels, height, width = request.latent_shape
        assert request.concat_latent is not None
        known = request.concat_latent[:, :, :request.latents].clone()
        if request.context is not None:
            known[:, :, :request.context.shape[2]] = request.context * self.picture_scale
        known = doubled_first(known, self.per_frame)
        return ChunkInputs(torch.zeros(1, channels, known.shape[2], height, width),
                           conditions={"concat_latent_image": known}, before=known.shape[2] - request.latents)
