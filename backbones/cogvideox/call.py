"""One call of ComfyUI's CogVideoX network, as seen from a DIFFUSION_MODEL wrapper.

A token frame is one latent; of CogVideoX 1.5 it is two. Clean frames are added behind the sampler's and cut off the
output again; they have the step's timestep, since this network takes one for all.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...techniques.layout import Layout, Span
from ..model_call import ModelCall, split_queries
from ..sampling_run import once
from ..span_latents import latents_of
from .positions import rotary, table_rows


@dataclass(frozen=True)
class Frame:
    """A token frame: `latents`, the numbers of its latents in the layout, and its time in token frames."""
    latents: tuple[int, ...]
    time: float


@dataclass(frozen=True, eq=False, kw_only=True)
class CogVideoXCall(ModelCall):
    """`table`: what stands in for the network's own table of positions, (1, text + T*H*W, C)."""
    names: ClassVar[tuple[str, ...]] = ("x", "timestep", "context", "ofs", "transformer_options")
    timestep: Tensor
    context: Tensor
    ofs: Tensor | None = None
    table: Tensor | None = None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        embed = self.module.patch_embed
        own = getattr(embed, "pos_embedding", None)
        with super().in_place():
            if self.table is not None:
                embed.pos_embedding = self.table
            try:
                yield
            finally:
                if self.table is not None:
                    embed.pos_embedding = own

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per frame as (height, width)."""
        size = self.module.patch_size
        return -(-self.x.shape[-2] // size), -(-self.x.shape[-1] // size)

    @property
    def per_frame(self) -> int:
        """Latents of a token frame."""
        return self.module.patch_size_t or 1

    def with_frames(self, layout: Layout, process_in: Callable[[Tensor], Tensor], picture_scale: float
                    ) -> "CogVideoXCall":
        """The sampler's latents, filled up to whole token frames as the network itself does it, and clean spans."""
        missing = -self.x.shape[2] % self.per_frame
        parts = [self.x, self.x[:, :, :missing]]
        for span in layout.spans:
            if span.latents is not None:
                latents = latents_of(span, self.x, self.module.out_channels, process_in, self.transformer_options)
                whole = whole_frames(span, latents, self.per_frame)
                if self.x.shape[1] == 2 * whole.shape[1]:   # I2V: a clean frame is known, as its picture is
                    whole = torch.cat([whole, whole * picture_scale], 1)
                parts.append(whole)
        return self.change(x=torch.cat(parts, 2))

    def with_positions(self, times: Sequence[float]) -> "CogVideoXCall":
        """Each token frame at its own time, rotary and in the table, as this network has them."""
        call, module, (height, width) = self, self.module, self.grid
        if module.use_rotary_positional_embeddings:
            scale = 1.0 if module.patch_size_t else float(module.spatial_interpolation_scale)
            place = tuple(times), height, width, module.attention_head_dim, scale
            rows = once(self.transformer_options, ("rotary", place, self.x.device),
                        lambda: rotary(*place, device=self.x.device))
            call = call.change(stand_ins={"_get_rotary_emb": lambda *_, **__: rows})
        if module.patch_embed.use_learned_positional_embeddings:
            key = "position table", tuple(times), self.x.device, height, width
            call = call.change(table=once(self.transformer_options, key, lambda: self.table_at(times)))
        return call

    def table_at(self, times: Sequence[float]) -> Tensor:
        """The table with its rows of token frames at `times`. ValueError for another size than the table's."""
        embed, (height, width) = self.module.patch_embed, self.grid
        own = table_size(embed)
        if own != (height, width):
            raise ValueError(f"this CogVideoX has its positions in a table for {own[1] * 16}x{own[0] * 16} alone, got "
                             f"{width * 16}x{height * 16}. Make the video of that size")
        text, rows = embed.pos_embedding.to(self.x.device).split(
            [embed.max_text_seq_length, embed.pos_embedding.shape[1] - embed.max_text_seq_length], 1)
        chosen = table_rows(rows[0].unflatten(0, (-1, height * width)), times)
        return torch.cat([text, chosen.flatten(0, 1)[None]], 1)

    def with_visibility(self, visibility: dict[tuple[int, int], float], frames: int) -> "CogVideoXCall":
        """An attention override that splits the frames' queries, chained onto any that is there. Text stands before
        the frames, sees all of them, and is seen by all. `visibility`: between token frames."""
        tokens, text = self.grid[0] * self.grid[1], self.context.shape[1]
        return self.with_attention(split_queries(self.transformer_options, visibility, frames, tokens,
                                                 lambda: text + frames * tokens, text))


def table_size(embed: nn.Module) -> tuple[int, int]:
    """(rows, columns) of tokens that a network's table of positions is for."""
    return embed.sample_height // embed.patch_size, embed.sample_width // embed.patch_size


def token_frames(layout: Layout, per_frame: int) -> list[Frame]:
    """The layout's latents as token frames, in the order of `with_frames`. Of two latents a frame has the first one's
    time; a reference's latent is a frame alone, doubled."""
    frames = []
    for span in layout.spans:
        own, step = layout.frame_indices(span), 1 if span in layout.references else per_frame
        odd = len(own) % step if span.latents is not None else 0
        starts = [*range(odd), *range(odd, len(own), step)]
        for start, end in zip(starts, [*starts[1:], len(own)], strict=True):
            begins = span.times[start] - (per_frame - odd if start < odd else 0)
            frames.append(Frame(tuple(own[start:end]), begins / per_frame))
    return frames


def whole_frames(span: Span, latents: Tensor, per_frame: int) -> Tensor:
    """A span's latents as whole token frames: of a reference each is one, doubled."""
    if span.name in ("reference", "anchor"):
        return latents.repeat_interleave(per_frame, 2)
    return doubled_first(latents, per_frame)


def doubled_first(latents: Tensor, per_frame: int) -> Tensor:
    """Latents (B, C, T, h, w) as whole token frames: of an odd number the first twice, as in training."""
    lead = -latents.shape[2] % per_frame
    return torch.cat([latents[:, :, :1].expand(-1, -1, lead, -1, -1), latents], 2) if lead else latents


def between_frames(visibility: Mapping[tuple[int, int], float], frames: Sequence[Frame]
                   ) -> dict[tuple[int, int], float]:
    """{(query latent, key latent): weight} as that of token frames: the least of those of their latents."""
    number = {latent: index for index, frame in enumerate(frames) for latent in frame.latents}
    table: dict[tuple[int, int], float] = {}
    for (query, key), weight in visibility.items():
        pair = number[query], number[key]
        table[pair] = min(weight, table.get(pair, 1.0))
    return table
