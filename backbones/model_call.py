"""One call of a ComfyUI model's `_forward`, as seen from a DIFFUSION_MODEL wrapper, with what is changed of it.

Methods of the module are stood in for during the call alone: a stand-in belongs to one device's module and is taken
away in `finally`, so nothing stays on the model.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from torch import Tensor
from typing_extensions import Self

from ..techniques.visibility import Starts, attend_by_groups, query_groups


class KeysBeside(Protocol):
    """Keys and values (B, tokens, heads * D) that follow a call's own in each of its blocks."""

    def join(self, block: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelCall:
    """A family's own names its arguments, in their order, and has a field for each; the last is the options.

    `x`: (B, C, T, h, w) in model space. `extra`: the model's other conditions. `stand_ins`: for methods, by name.
    """
    names: ClassVar[tuple[str, ...]]
    executor: Any
    x: Tensor
    transformer_options: dict
    extra: dict[str, Any]
    stand_ins: Mapping[str, Callable] = field(default_factory=dict)

    @classmethod
    def bind(cls, executor, args: Sequence, kwargs: dict) -> Self:
        named: dict[str, Any] = dict(zip(cls.names, args, strict=False))
        extra = {key: value for key, value in kwargs.items() if key not in cls.names}
        named.update({key: value for key, value in kwargs.items() if key in cls.names})
        given: dict[str, Any] = {name: named.get(name) for name in cls.names}
        return cls(executor=executor, extra=extra, **given)

    @property
    def arguments(self) -> tuple:
        """For the model, or the next pack's wrapper: its positional arguments; `extra` are the others."""
        return tuple(getattr(self, name) for name in self.names)

    @property
    def module(self):
        return self.executor.class_obj

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

    def with_attention(self, override: Callable) -> Self:
        return self.change(transformer_options={**self.transformer_options, "optimized_attention_override": override})

    def change(self, **fields) -> Self:
        return replace(self, **fields)


def split_queries(transformer_options: Mapping[str, Any], visibility: Mapping[tuple[int, int], float], frames: int,
                  tokens: int, total_tokens: Callable[[], int], first: Starts = 0,
                  is_video: Callable[[dict], bool] = lambda kwargs: True, beside: "KeysBeside | None" = None,
                  fit: Callable[[dict, int], dict] = lambda kwargs, keys: kwargs) -> Callable:
    """An attention override that splits the queries of `frames` latent frames of `tokens` each by what they see,
    chained onto any override that is there.

    `first`: where in the sequence the frames begin, or each of them. `total_tokens`: of the sequence that is split,
    asked while the model runs, since a model may add tokens of its own; every other attention passes through.
    `is_video`: whether one of that length is it. `beside`: further keys and values, which all queries see. `fit`:
    keyword arguments for so many keys.
    """
    groups = query_groups(visibility, frames)
    earlier = transformer_options.get("optimized_attention_override")

    def override(function, q, k, v, *args, **kwargs):
        dim, total = (2 if kwargs.get("skip_reshape") else 1), total_tokens()

        def attend(q, k, v):
            given = fit(kwargs, k.shape[dim])
            return function(q, k, v, *args, **given) if earlier is None else earlier(function, q, k, v, *args, **given)

        if not (visibility or beside) or q.shape[dim] != total or k.shape[dim] != total or not is_video(kwargs):
            return attend(q, k, v)
        if beside is not None:
            k, v = beside.join(kwargs["transformer_options"]["block_index"], k, v)
        if not visibility:
            return attend(q, k, v)
        return attend_by_groups(attend, q, k, v, tokens, groups, dim, first)

    return override
