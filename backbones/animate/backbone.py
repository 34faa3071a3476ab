"""Wan-Animate (Wan 2.2 Animate 14B) on ComfyUI's AnimateWanModel: a picture moved by the poses and the face of a video.

Its reference is a slot before the video's latents: sampled along with them, with the picture in its concat channels.
Anchor techniques move its time, further anchors are clean tokens behind the video. Chunks continue through the concat
channels, from re-encoded frames as trained or from latents; each reads the driving frames beside its own. With
Persistent Latents N pictures stand in the reference's place, and each chunk is a clip that is decoded on its own.
"""
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import ClassVar

import comfy.model_base
import torch
from torch import Tensor

from ...techniques.layout import Layout, Span
from ...techniques.persistent_latents import Memory, PersistentLatents
from ..backbone import ChunkInputs, ChunkRequest
from ..frame_conditions import window_of
from ..wan.base import WanI2V, persistent_inputs
from ..wan.call import WanCall
from .conditioning import face_pixels, known_latents, pose_latents, unknown_mask
from .slots import SLOTS, with_slots

REPEATED = 4        # pixel frames, those of a clip's last latent, that EverAnimate's next clip makes again
LATENTS = 16        # channels of a latent; the model's call has them, 4 of the mask and those of what is known


@dataclass(frozen=True)
class WanAnimate(WanI2V):
    memory: ClassVar[str] = ""           # its reference stands before every call's latents, which a window has not
    supported: ClassVar[str] = "Wan-Animate (Wan 2.2 Animate 14B)"
    frame_conditions: ClassVar = {}
    parts: ClassVar[tuple[str, ...]] = ("pose", "face", "background", "mask")     # of a driving video
    name: str = "Wan-Animate"
    fps: int = 30
    chunk_frames: int = 77
    overlap_frames: int = 5
    handover: str = "re-encode"

    @classmethod
    def of(cls, model) -> "WanAnimate | None":
        return cls() if type(model.model) is comfy.model_base.WAN22_Animate else None

    def check_driving(self, names: Collection[str]) -> None:
        if not names:
            raise ValueError(f"driving: {self.name} follows a driving video, and none came. Connect Driving Video to "
                             "Plan Take")
        if over := [name for name in names if name not in self.parts]:
            raise ValueError(f"driving: {self.name} has no use for {' and '.join(over)}. Disconnect it from Driving "
                             "Video")

    def check_video_reference(self, audio: bool) -> None:
        raise ValueError(f"model: {self.name} has slots for pictures of the person and attends to no video of them. "
                         "Use Persistent Latents, or Lookahead Anchor")

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> WanCall:
        call = WanCall.bind(executor, args, kwargs)
        if window_of(call.transformer_options) is not None:
            raise ValueError(f"context windows: {self.name} has its reference before the first latent, where no window "
                             "but the first would have it. Remove the context windows; Long Take makes takes of any "
                             "length")
        persistent = next((each for each in techniques if isinstance(each, PersistentLatents)), None)
        if persistent is None:
            return super().prepare(executor, args, kwargs, techniques, position, process_in)
        self.memory_in_channels()
        slots, poses = persistent.count, call.extra.get("pose_latents")
        if poses is not None and call.x.shape[2] - poses.shape[2] != slots:
            raise ValueError(f"persistent latents: got {call.x.shape[2] - poses.shape[2]} latents before the poses', "
                             f"wanted {slots} pictures. Make the clip with One Chunk or Long Take")
        call = call.change(transformer_options={**call.transformer_options, SLOTS: slots})
        call = super().prepare(executor, call.arguments, call.extra, techniques, position, process_in)
        return with_slots(call, slots)

    @staticmethod
    def own_layout(call: WanCall) -> Layout:
        """The reference, then the video's latents."""
        frames, slots = call.x.shape[2], call.transformer_options.get(SLOTS, 1)
        layout = Layout((Span("reference", tuple(range(slots)), clean=False),
                         Span("chunk", tuple(range(slots, frames)), clean=False)))
        if call.time_dim_concat is None:
            return layout
        added = call.time_dim_concat.shape[2]
        return layout.append(Span("concat", tuple(range(frames, frames + added)), clean=False))

    @staticmethod
    def with_clean_frames(call: WanCall, layout: Layout, process_in) -> WanCall:
        """Anchors as clean tokens; a keyframe that takes the reference's place stands in its concat channels."""
        reference = layout["reference"]
        if reference.latents is not None:
            if (slots := call.x.shape[2] - len(layout["chunk"].times)) > 1:
                raise ValueError(f"keyframe: it takes the reference's place, where Persistent Latents has {slots} "
                                 "pictures. Remove Lookahead Anchor, which moves them ahead, or Persistent Latents")
            x = call.x.clone()
            x[:, -LATENTS:, :1] = call.latents(reference, process_in)
            call, layout = call.change(x=x), layout.change("reference", latents=None)
        return WanI2V.with_clean_frames(call, layout, process_in)

    def concat_latent(self, encode, picture, latents, height, width, padding=None) -> Tensor | None:
        """Nothing known: of a chunk that no frames open and that has no background."""
        if padding is not None:
            raise ValueError(f"anchor: placement 'padding' fills channels for known frames, which in {self.name} hold "
                             "the background alone. Choose another placement in Lookahead Anchor, such as lookahead")
        return super().concat_latent(encode, None, latents, height, width)

    def reference_of(self, request: ChunkRequest) -> Tensor:
        """(1, 16, slots, h, w). Raises ValueError where the chunk has no picture or no driving video."""
        self.check_driving(request.driving)
        if request.reference is None:
            raise ValueError(f"reference: {self.name} moves the person of a picture, and none came. Connect one")
        return request.reference

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        reference = self.reference_of(request)
        if request.persistent is not None:
            return self.persistent_clip(request, request.persistent)
        channels, height, width = request.latent_shape
        slots = reference.shape[2]
        mask = unknown_mask(request)
        conditions = {"concat_latent_image": torch.cat([reference, known_latents(request)], 2),
                      "concat_mask": torch.cat([torch.zeros_like(mask[:, :, :slots]), mask], 2),
                      "pose_video_latent": pose_latents(request)}
        uncond = {}
        if (face := face_pixels(request)) is not None:
            conditions["face_video_pixels"], uncond["face_video_pixels"] = face, torch.full_like(face, -1)
        samples = torch.zeros(1, channels, request.latents + slots, height, width)
        return ChunkInputs(samples, conditions=conditions, uncond=uncond, before=slots)

    def repeated_frames(self) -> int:
        return REPEATED

    def persistent_clip(self, request: ChunkRequest, memory: Memory) -> ChunkInputs:
        """A clip as EverAnimate was trained. Raises ValueError for a background, whose channels the memory takes."""
        if "background" in request.driving:
            raise ValueError("driving: Persistent Latents fills the channels that would hold the background. "
                             "Disconnect background and mask from Driving Video, or remove Persistent Latents")
        inputs = persistent_inputs(request, memory, {"pose_video_latent": pose_latents(request)})
        face = face_pixels(request)
        if face is None:
            return inputs
        return replace(inputs, conditions={**inputs.conditions, "face_video_pixels": face},
                       uncond={"face_video_pixels": torch.full_like(face, -1)})
