"""Wan-Animate 2 on ComfyUI's WanAnimate2Model (0.33): a picture moved by the video of another person itself.

A branch of the network reads the video and gives each latent frame the keys of its own pose frame, so attention runs
frame by frame: anchor techniques move the reference and change its picture, but nothing can stand beside it, and
every frame sees it. Chunks continue from one re-encoded frame.
"""
from dataclasses import dataclass
from typing import ClassVar

import comfy.model_base
import torch

from ...techniques.technique import restricts_visibility
from ..backbone import ChunkInputs, ChunkRequest
from ..wan.call import WanCall
from .backbone import WanAnimate
from .conditioning import known_latents, pose_latents


@dataclass(frozen=True)
class WanAnimate2(WanAnimate):
    supported: ClassVar[str] = "Wan-Animate 2 (ComfyUI 0.33)"
    parts: ClassVar[tuple[str, ...]] = ("pose",)
    name: str = "Wan-Animate 2"
    fps: int = 16                # of the Wan 2.1 below it
    chunk_frames: int = 81
    overlap_frames: int = 1

    @classmethod
    def of(cls, model) -> "WanAnimate2 | None":
        return cls() if type(model.model) is getattr(comfy.model_base, "WAN_Animate2", None) else None

    def prepare(self, executor, args, kwargs, techniques, position, process_in) -> WanCall:
        if restricts_visibility(techniques):
            raise ValueError(f"reference skip: {self.name} attends frame by frame, each with a pose of its own, and "
                             "every frame sees the reference. Remove Reference Skip")
        return super().prepare(executor, args, kwargs, techniques, position, process_in)

    @staticmethod
    def with_clean_frames(call: WanCall, layout, process_in) -> WanCall:
        if any(span.latents is not None for span in layout.spans if span.name != "reference"):
            raise ValueError("anchor: Wan-Animate 2 has room for its reference alone, and none for another picture "
                             "beside it. Empty the anchor input of Lookahead Anchor, which then moves the reference; "
                             "keyframes need one with the placement lookahead, whose place they take")
        return WanAnimate.with_clean_frames(call, layout, process_in)

    def check_video_reference(self, audio: bool) -> None:
        raise ValueError(f"model: {self.name} has room for its reference alone, and none for a video of the person. "
                         "Remove Video Reference")

    def memory_in_channels(self) -> bool:
        raise ValueError(f"persistent latents: {self.name} has room for its reference alone, and none for further "
                         "pictures of the person. Remove Persistent Latents, or use Wan-Animate")

    def chunk_inputs(self, request: ChunkRequest) -> ChunkInputs:
        reference = self.reference_of(request)
        channels, height, width = request.latent_shape
        slots, opened = reference.shape[2], 0 if request.context is None else request.context.shape[2]
        mask = torch.ones(1, 1, request.latents + slots, height, width)
        mask[:, :, :slots + opened] = 0
        conditions = {"concat_latent_image": torch.cat([reference, known_latents(request)], 2), "concat_mask": mask,
                      "pose_video_latent": pose_latents(request)}
        samples = torch.zeros(1, channels, request.latents + slots, height, width)
        return ChunkInputs(samples, conditions=conditions, before=slots, text_for="cross_attn_pose")
