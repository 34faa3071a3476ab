"""One call of ComfyUI's LTX-2 network, picture and sound side by side; clean frames stand behind the picture's.

Six attentions a block: the picture's own and to its text, the sound's own and to its text, picture to sound and sound
to picture. Which one is called shows in how many tokens it has.
"""
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...techniques.layout import Layout, Span
from ...techniques.visibility import take_tokens, token_ranges, without_tokens
from ..model_call import ModelCall, split_queries
from ..sampling_run import once, say
from ..span_latents import latents_of


@dataclass(frozen=True, eq=False, kw_only=True)
class LTXCall(ModelCall):
    """`x`: [picture (B, 128, F, h, w), sound (B, 8, A, 16)]. `timestep`: of the picture, (B,) or (B, tokens, 1);
    `keyframe_idxs` (B, 3, tokens, 2): places of the last tokens, in pixels: they must be whole."""
    names: ClassVar = ("x", "timestep", "context", "attention_mask", "frame_rate", "transformer_options",
                       "keyframe_idxs")
    timestep: Tensor
    context: Tensor
    attention_mask: Tensor | None
    frame_rate: float
    keyframe_idxs: Tensor | None

    @property
    def picture(self) -> Tensor:
        return self.x[0]

    @property
    def frame_tokens(self) -> int:
        return self.picture.shape[-2] * self.picture.shape[-1]

    @property
    def sound_tokens(self) -> int:
        reference = self.extra.get("ref_audio") or {"tokens": self.context[:, :0]}
        return (self.x[1].shape[2] if len(self.x) > 1 else 0) + reference["tokens"].shape[1]

    def with_frames(self, layout: Layout, places: list[tuple[int, int]], process_in: Callable[[Tensor], Tensor]
                    ) -> "LTXCall":
        """The layout's clean latents behind the picture's, at noise level 0; `places`: (begin, end) of each in pixel
        frames. The mask, which is 0 there, must be given with places."""
        parts = [latents_of(span, self.picture, self.picture.shape[1], process_in, self.transformer_options)
                 for span in layout.spans if span.latents is not None]
        batch, frames, added = self.picture.shape[0], self.picture.shape[2], len(places)
        level = self.timestep.reshape(batch, -1, 1).expand(batch, frames * self.frame_tokens, 1)
        mask = self.extra.get("denoise_mask")
        mask = torch.ones_like(self.picture[:, :1]) if mask is None else mask
        height, width = self.picture.shape[-2:]
        device = self.picture.device
        at = once(self.transformer_options, ("places", tuple(places), height, width, device), lambda: coordinates(
            places, height, width, self.module.vae_scale_factors, device))
        return self.change(
            x=[torch.cat([self.picture, *parts], 2), *self.x[1:]], keyframe_idxs=at.expand(batch, -1, -1, -1),
            timestep=torch.cat([level, level.new_zeros(batch, added * self.frame_tokens, 1)], 1),
            extra={**self.extra, "denoise_mask": torch.cat([mask, torch.zeros_like(mask[:, :, :1]).expand(
                -1, -1, added, -1, -1)], 2)})

    def with_visibility(self, visibility: Mapping[tuple[int, int], float], frames: int) -> "LTXCall":
        total = frames * self.frame_tokens
        return self.with_attention(torch.compiler.disable(split_queries(
            self.transformer_options, visibility, frames, self.frame_tokens, lambda: total), recursive=False))

    def without_speech_for(self, layout: Layout, spans: tuple[Span, ...]) -> "LTXCall":
        """Frames of these spans get nothing of the sound, and the sound gets nothing of them: an anchor's mouth says
        something else."""
        frames = [frame for span in spans for frame in layout.frame_indices(span)]
        total = sum(len(span.times) for span in layout.spans) * self.frame_tokens
        apart = token_ranges(frames, self.frame_tokens)
        own, sound, width = without_tokens(apart, total), self.sound_tokens, self.module.audio_inner_dim
        earlier = self.transformer_options.get("optimized_attention_override")

        @torch.compiler.disable(recursive=False)
        def override(function, q, k, v, *args, **kwargs):
            def attend(q, k, v):
                return (function if earlier is None else lambda *given, **named: earlier(function, *given, **named))(
                    q, k, v, *args, **kwargs)

            lengths = q.shape[1], k.shape[1]
            if q.shape[-1] == width and lengths == (sound, total):
                return attend(q, take_tokens(k, own, 1), take_tokens(v, own, 1))
            if q.shape[-1] == width and lengths == (total, sound):
                made = attend(take_tokens(q, own, 1), k, v)
                output, start = made.new_zeros(made.shape[0], total, made.shape[2]), 0
                for begin, end in own:
                    output[:, begin:end] = made[:, start:start + end - begin]
                    start += end - begin
                return output
            return attend(q, k, v)

        return self.with_attention(override)

    def check_lengths(self, frames: int) -> None:
        """Raises ValueError where one attention could be taken for another."""
        total = frames * self.frame_tokens
        for what, tokens in (("text", self.context.shape[1]), ("sound", self.sound_tokens)):
            if tokens == total:
                raise ValueError(f"plan: the picture, its anchors included, has {total} tokens, as many as the {what}; "
                                 "then this model's attentions look the same. Choose another size or "
                                 "chunk_frames")

    def whole_frame(self, frame: float) -> int:
        """A pixel frame as this network counts it; what is rounded is said."""
        if abs(frame - round(frame)) > 1e-6:
            say(f"LTX-2 counts whole pixel frames: what should stand at frame {frame:g} stands at {round(frame)}",
                self.transformer_options)
        return round(frame)


def coordinates(places: list[tuple[int, int]], height: int, width: int, scale: tuple[int, int, int],
                device: torch.device) -> Tensor:
    """(1, 3, tokens, 2) int64: begin and end of each token in pixel frames, rows and columns."""
    rows, columns = (torch.arange(size) * pixels for size, pixels in ((height, scale[1]), (width, scale[2])))
    ends: list[Any] = [torch.stack(torch.meshgrid(times, rows + side * scale[1], columns + side * scale[2],
                                                  indexing="ij")).flatten(1)
                       for side, times in enumerate(torch.tensor(places).T)]
    return torch.stack(ends, -1)[None].to(device)
