"""One call of ComfyUI's HunyuanVideo network: text and video are one sequence in its attention.

It has no argument for clean frames, so they are added behind the sampler's latents and cut off the output again. Text
stands before the video, in ComfyUI 0.7 behind it; it sees everything and everything sees it.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...techniques.layout import Layout
from ..model_call import ModelCall, split_queries
from ..sampling_run import once
from ..span_latents import latents_of


@dataclass(frozen=True, eq=False, kw_only=True)
class HunyuanCall(ModelCall):
    """`guiding_frame_index` (1,): where it is given, the timestep of the first frame, which is known. Positions are
    handed in by standing in for `img_ids`."""
    names: ClassVar = ("x", "timestep", "context", "y", "txt_byt5", "clip_fea", "guidance", "attention_mask",
                       "guiding_frame_index", "ref_latent", "disable_time_r", "control", "transformer_options")
    timestep: Tensor
    context: Tensor
    y: Tensor | None
    txt_byt5: Tensor | None
    clip_fea: Tensor | None
    guidance: Tensor | None
    attention_mask: Tensor | None
    guiding_frame_index: Tensor | None
    ref_latent: Tensor | None
    disable_time_r: bool
    control: dict | None

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per latent frame as (height, width)."""
        _, rows, columns = self.module.patch_size
        return -(-self.x.shape[-2] // rows), -(-self.x.shape[-1] // columns)

    @property
    def frame_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def text_tokens(self) -> int:
        """Of the prompt, of its glyphs and of a picture, as far as this network has them."""
        glyphs = self.txt_byt5 if self.module.byt5_in is not None else None
        return sum(part.shape[1] for part in (self.context, glyphs, self.clip_fea) if part is not None)

    @property
    def text_first(self) -> bool:
        return not getattr(self.module.double_blocks[0], "flipped_img_txt", False)

    def with_frames(self, layout: Layout, process_in: Callable[[Tensor], Tensor]) -> "HunyuanCall":
        """The layout's clean latents behind the sampler's. Beside the noisy channels of an image-to-video model each
        is known: its latent once more, and a mask of 1 where the model has one."""
        channels, parts = self.module.out_channels, [self.x]
        for span in layout.spans:
            if span.latents is not None:
                latents = latents_of(span, self.x, channels, process_in, self.transformer_options)
                known = torch.cat([latents, latents, torch.ones_like(latents[:, :1])], 1)
                parts.append(known[:, :self.x.shape[1]])
        return self.change(x=torch.cat(parts, 2)) if len(parts) > 1 else self

    def with_positions(self, times: Sequence[float]) -> "HunyuanCall":
        """Latent frames at `times`, in float32: core counts in the model's dtype, where bf16 merges 256 and 257."""
        place = (tuple(times), *self.grid)
        ids = once(self.transformer_options, ("positions", place, self.x.device),
                   lambda: positions(*place, device=self.x.device))
        return self.change(stand_ins={"img_ids": lambda x: ids.expand(x.shape[0], -1, -1)})

    def with_visibility(self, visibility: dict[tuple[int, int], float], frames: int) -> "HunyuanCall":
        """An attention override that splits the frames' queries, chained onto any that is there; the text's own
        attention passes through untouched. A compiled block calls it as it is at the time: of what stands in
        transformer_options core's compiler would keep the first."""
        tokens, text, text_first = self.frame_tokens, self.text_tokens, self.text_first

        def fit(kwargs: dict, keys: int) -> dict:
            mask = kwargs.get("mask")
            if mask is None or keys >= mask.shape[-1]:
                return kwargs
            return {**kwargs, "mask": mask[..., :keys] if text_first else mask[..., -keys:]}    # it hides text alone

        override = split_queries(self.transformer_options, visibility, frames, tokens, lambda: text + frames * tokens,
                                 text if text_first else 0, fit=fit)
        return self.with_attention(torch.compiler.disable(override, recursive=False))


def positions(times: Sequence[float], height: int, width: int, device: torch.device) -> Tensor:
    """(1, T*H*W, 3) float32: time, row and column of each token."""
    axes = [torch.tensor(times, dtype=torch.float32), torch.arange(height).float(), torch.arange(width).float()]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)[None].to(device)
