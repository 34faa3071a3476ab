"""What a training step holds between forward and backward, counted on the meta device: the network runs on shapes
alone, so no weight is touched and no memory taken, however large the model.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .train_host import is_linear, is_quantised, repeated_blocks, replace_call, trained_layers

KEY = "lodestar_count"
META = "meta"
OVERRIDE = "optimized_attention_override"


class FusedAttention(torch.autograd.Function):
    """What every fused kernel saves: its inputs and its output."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = torch.zeros_like(q)
        ctx.save_for_backward(q, k, v, made)
        return made

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("only counted")


def count_attention(attend: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args,
                    skip_reshape: bool = False, skip_output_reshape: bool = False, **more) -> Tensor:
    """In place of core's attention, in its shapes."""
    made = FusedAttention.apply(q, k, v)
    if skip_reshape and not skip_output_reshape:
        return made.transpose(1, 2).flatten(2)
    if skip_output_reshape and not skip_reshape:
        return made.unflatten(-1, (heads, -1)).transpose(1, 2)
    return made


@dataclass(eq=False)
class Tally:
    """Bytes. `between`: of what all blocks are given and what is saved outside of them, held to the backward pass;
    `inside`: of what the largest block makes again then. `rank`: of the adapters beside `layers`."""
    layers: Sequence[nn.Module]
    rank: int
    between: int = 0
    inside: int = 0
    _known: dict[int, Any] = field(default_factory=dict)    # storages, kept so that no other has their address

    def wrapper(self, network: nn.Module) -> Callable:
        """A DIFFUSION_MODEL wrapper, the outermost: counts a call that has a gradient, and gives zeros."""
        def count_call(executor, x: Tensor, *args, **kwargs) -> Tensor:
            if torch.is_grad_enabled():
                self.count(network, executor, (x, *args), kwargs)
            return torch.zeros_like(x)

        return count_call

    def count(self, network: nn.Module, executor: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
        class Call(nn.Module):
            def __init__(self):
                super().__init__()
                self.network = network

            def forward(self, *given, **named):
                return executor(*given, **named)

        weights = {f"network.{name}": like_meta(weight) for name, weight in [*network.named_parameters(),
                                                                           *network.named_buffers()]}
        for weight in weights.values():
            self._known[weight.untyped_storage()._cdata] = weight
        options = kwargs.get("transformer_options") or next((each for each in args if isinstance(each, dict)), {})
        options[OVERRIDE] = count_attention
        with ExitStack() as ends:
            for block in repeated_blocks(network):
                ends.enter_context(replace_call(block, self.count_block))
            for layer in self.layers:
                ends.enter_context(replace_call(layer, self.add_adapter))
            for path, module in network.named_modules():
                if "injector" in path and hasattr(module, "num_heads"):     # core gives these no options
                    ends.enter_context(replace_call(module, count_cross_attention))
            ends.enter_context(saved_tensors_hooks(self.hold, lambda tensor: tensor))
            torch.func.functional_call(Call(), weights, to_meta(args), to_meta(dict(kwargs)))

    def hold(self, tensor: Tensor) -> Tensor:
        """What is saved outside of the blocks."""
        self.between += self.new_bytes(tensor, self._known)
        return tensor

    def count_block(self, block: nn.Module, own: Callable) -> Callable:
        def forward(*args, **kwargs):
            args = tuple(each.detach().requires_grad_() if isinstance(each, Tensor) and each.is_floating_point()
                         else each for each in args)
            for tensor in tensors_of((args, kwargs)):
                self.between += self.new_bytes(tensor, self._known)
            mine = dict(self._known)
            inside = 0

            def pack(tensor: Tensor) -> Tensor:
                nonlocal inside
                inside += self.new_bytes(tensor, mine)
                return tensor

            with saved_tensors_hooks(pack, lambda tensor: tensor):
                made = own(*args, **kwargs)
            self.inside = max(self.inside, inside)
            return made

        return forward

    def add_adapter(self, layer: nn.Module, own: Callable) -> Callable:
        """A LoRA beside a linear layer, as core's bypass has it."""
        if not is_linear(layer):
            return own

        def forward(x: Tensor, *args, **kwargs):
            made = own(x, *args, **kwargs)
            down, up = (torch.empty(shape, device=META, dtype=x.dtype, requires_grad=True) for shape in (
                (self.rank, x.shape[-1]), (made.shape[-1], self.rank)))
            return made + nn.functional.linear(nn.functional.linear(x, down), up)

        return forward

    @staticmethod
    def new_bytes(tensor: Tensor, known: dict[int, Any]) -> int:
        storage = tensor.untyped_storage()
        if storage._cdata in known:
            return 0
        known[storage._cdata] = storage
        return storage.nbytes()


def count_cross_attention(module: Any, own: Callable) -> Callable:
    def forward(x: Tensor, context: Tensor, **more) -> Tensor:
        q, k = module.norm_q(module.q(x)), module.norm_k(module.k(context))
        return module.o(FusedAttention.apply(q, k, module.v(context)))

    return forward


def like_meta(weight: Tensor) -> Tensor:
    """Without a gradient; quantised ones in what they are computed in."""
    return torch.empty(weight.shape, dtype=torch.bfloat16 if is_quantised(weight) else weight.dtype, device=META)


def to_meta(value: Any) -> Any:
    """A call's arguments, its tensors as shapes."""
    if isinstance(value, Tensor):
        return value.to(META)
    if isinstance(value, dict):
        return {name: to_meta(each) for name, each in value.items()}
    return type(value)(map(to_meta, value)) if type(value) in (list, tuple) else value


def tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from tensors_of(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each)


@contextmanager
def counting_guider(model, positive: list, tally: Tally) -> Iterator[tuple[Any, dict]]:
    """A guider of a MODEL and its extra_args, as in a run, whose calls are counted and never made. Nothing is
    loaded."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, [])
    guider.inner_model, guider.conds = model.model, {}
    options = create_model_options_clone(model.model_options)
    comfy.sampler_helpers.prepare_model_patcher(model, {}, options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    own = tally.wrapper(model.model.diffusion_model)
    wrappers[WrappersMP.DIFFUSION_MODEL] = {KEY: [own], **wrappers.get(WrappersMP.DIFFUSION_MODEL, {})}
    options["transformer_options"]["sample_sigmas"] = torch.tensor([1.0, 0.0])
    model.pre_run()
    try:
        yield guider, {"model_options": options, "seed": 0}
    finally:
        model.cleanup()


def tally_of(model, patterns: Sequence[str], rank: int) -> Tally:
    return Tally([layer for _, layer in trained_layers(model.model, patterns)], rank)
