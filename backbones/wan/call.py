"""One call of a ComfyUI Wan model's `_forward`, as seen from a DIFFUSION_MODEL wrapper, and the seams used there.

Positions are handed in by standing in for the module's `rope_encode` for the length of the call: a stand-in belongs to
one device's module and is taken away in `finally`, so nothing stays on the model.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ...techniques.layout import Span
from ...techniques.rope import rope_frequencies, scaled_axes
from ...techniques.visibility import attend_by_groups, query_groups
from ..backbone import latents_of, once

NAMES = ("x", "timestep", "context", "clip_fea", "time_dim_concat", "transformer_options")


@dataclass(frozen=True, eq=False)
class WanCall:
    """`x`: (B, C, T, h, w) in model space. `timestep`: (B,) or (B, T). `extra`: the model's other conditions."""
    executor: Any
    x: Tensor
    timestep: Tensor
    context: Tensor
    clip_fea: Tensor | None
    time_dim_concat: Tensor | None
    transformer_options: dict
    extra: dict[str, Any]
    stand_ins: Mapping[str, Callable] = field(default_factory=dict)     # for methods of the module, by name

    @classmethod
    def bind(cls, executor, args: Sequence, kwargs: dict) -> "WanCall":
        named = dict(zip(NAMES, args, strict=False))
        extra = {key: value for key, value in kwargs.items() if key not in NAMES}
        named.update({key: value for key, value in kwargs.items() if key in NAMES})
        return cls(executor, extra=extra, **{name: named.get(name) for name in NAMES})  # type: ignore[arg-type]

    @property
    def arguments(self) -> tuple:
        """For the model, or the next pack's wrapper: its positional arguments; `extra` are the others."""
        return tuple(getattr(self, name) for name in NAMES)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The stand-ins in place of the module's own methods, for the length of the block."""
        before = {name: vars(self.module).get(name) for name in self.stand_ins}
        try:
            for name, stand_in in self.stand_ins.items():
                setattr(self.module, name, stand_in)
            yield
        finally:
            for name, own in before.items():
                if own is None:
                    delattr(self.module, name)
                else:
                    setattr(self.module, name, own)

    def with_attention(self, override: Callable) -> "WanCall":
        return self.change(transformer_options={**self.transformer_options, "optimized_attention_override": override})

    def change(self, **fields) -> "WanCall":
        return replace(self, **fields)

    @property
    def module(self):
        return self.executor.class_obj

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per latent frame as (height, width)."""
        _, rows, columns = self.module.patch_size
        return -(-self.x.shape[-2] // rows), -(-self.x.shape[-1] // columns)

    def rows(self, times: Sequence[float]) -> Tensor:
        """RoPE frequencies for latent frames at `times`, with ScaleROPE's options acting on them as on the model's
        own."""
        embedder, device = self.module.rope_embedder, self.x.device
        axes = scaled_axes(self.transformer_options.get("rope_options"))
        place = (tuple(times), self.grid, tuple(embedder.axes_dim), embedder.theta, axes)
        return once(self.transformer_options, ("rope frequencies", place, device), lambda: rope_frequencies(
            times, *self.grid, embedder.axes_dim, theta=embedder.theta, scale=axes[0], shift=axes[1], device=device))

    def latents(self, span: Span, process_in: Callable[[Tensor], Tensor]) -> Tensor:
        return latents_of(span, self.x, self.module.out_dim, process_in, self.transformer_options)


def split_attention(call: WanCall, visibility: dict[tuple[int, int], float], frames: int,
                    total_tokens: Callable[[], int]) -> Callable:
    """An attention override that splits the queries, chained onto any override already on the call.

    `frames`: latent frames at the head of the sequence. `total_tokens` is asked while the model runs, since a model
    may add tokens of its own. Cross-attention passes through untouched.
    """
    groups = query_groups(visibility, frames)
    tokens_per_frame = call.grid[0] * call.grid[1]
    earlier = call.transformer_options.get("optimized_attention_override")
    text_lengths = {tensor.shape[1] for tensor in (call.context, call.clip_fea) if tensor is not None}
    last_block: list[int | None] = [None]

    def override(function, q, k, v, *args, **kwargs):
        def attend(q, k, v):
            if earlier is not None:
                return earlier(function, q, k, v, *args, **kwargs)
            return function(q, k, v, *args, **kwargs)

        dim, total = (2 if kwargs.get("skip_reshape") else 1), total_tokens()
        if not visibility or q.shape[dim] != total or k.shape[dim] != total:
            return attend(q, k, v)
        if total in text_lengths:   # as many text as video tokens: a block's self-attention is the one that comes first
            block = kwargs["transformer_options"].get("block_index")
            if block == last_block[0]:
                return attend(q, k, v)
            last_block[0] = block
        return attend_by_groups(attend, q, k, v, tokens_per_frame, groups, dim)

    return override
