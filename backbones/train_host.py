"""The only file that touches what core trains LoRAs with: its guider, its adapters, and its word that it is training.

Core's own trainer holds its data in RAM, has one level and one condition for a sample, and cannot be resumed, so the
loop is ours. Where a ComfyUI lacks adapters beside the weights (0.7.0), they are added to the weights in each call,
which quantised weights do not allow.
"""
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import comfy.model_management
import torch
from comfy.weight_adapter import adapter_maps
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import attach

PREFIX = "diffusion_model."
NARROW = (torch.float32, torch.bfloat16, torch.float16)
BESIDE = "comfy.weight_adapter.bypass"      # where it is there, adapters stand beside the weights


@dataclass(eq=False)
class Layer:
    """One adapter of one layer. `path` as core names it; `on`: 1, or 0 while the layer is to be as it was."""
    path: str
    adapter: Any
    on: float = 1.0

    def __call__(self, weight: Tensor) -> Tensor:
        """The changed weight, where adapters are added to weights."""
        return self.adapter(weight) if self.on else weight

    def switch(self, on: bool) -> None:
        self.on = self.adapter.multiplier = float(on)


@dataclass(eq=False)
class Adapters:
    """All adapters of one training. `sets`: by name, of each its layers."""
    sets: Mapping[str, Sequence[Layer]]
    beside: bool
    _now: str | None = field(default=None)

    @property
    def weights(self) -> dict[str, dict[str, nn.Parameter]]:
        """What is trained: by adapter, by the name that it has in a LoRA's file."""
        return {name: {f"{layer.path}.{part}.weight": getattr(layer.adapter, part).weight
                       for layer in layers for part in ("lora_up", "lora_down")} for name, layers in self.sets.items()}

    def alphas(self, name: str) -> dict[str, Tensor]:
        return {f"{layer.path}.alpha": layer.adapter.alpha.detach().cpu().clone() for layer in self.sets[name]}

    def use(self, name: str | None) -> None:
        """Have one set on, or none."""
        self._now = name
        for other, layers in self.sets.items():
            for layer in layers:
                layer.switch(other == name)

    @contextmanager
    def use_within(self, name: str | None) -> Iterator[None]:
        before = self._now
        self.use(name)
        try:
            yield
        finally:
            self.use(before)


def can_train(model) -> None:
    """Raises ValueError for a model whose weights this ComfyUI cannot put a LoRA on in training."""
    if stands_beside():
        return
    for name, weight in model.model.diffusion_model.named_parameters():
        if is_quantised(weight):
            dtype = str(getattr(weight, "storage_dtype", weight.dtype)).removeprefix("torch.")
            raise ValueError(f"model: {name} is quantised ({dtype}), and this ComfyUI trains no LoRAs of such weights: "
                             "it has no adapters beside the weights (bypass). Update ComfyUI, or load the model in "
                             "bf16")


def stands_beside() -> bool:
    """Whether this ComfyUI has adapters beside the weights."""
    return importlib.util.find_spec(BESIDE) is not None


def is_quantised(weight: Tensor) -> bool:
    """Core's own tensors of packed values say the dtype that they unpack to."""
    return type(weight) not in (Tensor, nn.Parameter) or weight.dtype not in NARROW


def is_linear(module: nn.Module) -> bool:
    """Core's linear layers for quantised weights are none of torch's."""
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) or hasattr(module, "in_features") and weight is not None and weight.ndim == 2


def trained_layers(base: nn.Module, patterns: Sequence[str]) -> list[tuple[str, nn.Module]]:
    """(path, module) of the layers that get an adapter: matrices whose path behind "diffusion_model." matches one of
    `patterns`, or all linear layers. Raises ValueError where that is none."""
    found = []
    for path, module in base.named_modules():
        weight = getattr(module, "weight", None)
        if not hasattr(module, "weight_function") or weight is None or weight.ndim < 2 or not path.startswith(PREFIX):
            continue
        own = path.removeprefix(PREFIX)
        if any(fnmatchcase(own, pattern) for pattern in patterns) if patterns else is_linear(module):
            found.append((path, module))
    if not found:
        raise ValueError(f"recipe: none of this model's layers is one of {', '.join(patterns) or 'linear ones'}")
    return found


def make_adapters(model, patterns: Sequence[str], rank: int, names: Sequence[str], seed: int):
    """A clone with adapters that change nothing yet, alpha being the rank, and the Adapters. ValueError for a rank that
    a layer is narrower than."""
    layers = trained_layers(model.model, patterns)
    narrowest, path = min((min(module.weight.shape[0], module.weight.shape[1:].numel()), path)
                          for path, module in layers)
    if rank > narrowest:
        raise ValueError(f"rank: got {rank}, but {path} is {narrowest} wide: choose {narrowest} or less")
    beside = stands_beside()
    device, sets = comfy.model_management.get_torch_device(), {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in names:
            sets[name] = [Layer(path, _adapter(module.weight.shape, rank).to(device)) for path, module in layers]
    adapters = Adapters(sets, beside)
    adapters.use(names[0])
    if not beside:
        functions: dict[str, Callable] = {}
        for path, _ in layers:
            own = [layer for set_ in sets.values() for layer in set_ if layer.path == path]
            functions[f"{path}.weight"] = _chain(own)
        model = attach.with_weight_patches(model, {}, 1.0, functions)
    return model, adapters


def _adapter(shape: torch.Size, rank: int) -> Any:
    made = adapter_maps["LoRA"].create_train(torch.empty(1).expand(shape), rank=rank, alpha=float(rank))
    for name, weight in made.named_parameters():
        weight.requires_grad_(name != "alpha")
    return made.train()


def _chain(layers: Sequence[Layer]) -> Callable[[Tensor], Tensor]:
    def change_weight(weight: Tensor) -> Tensor:
        for layer in layers:
            weight = layer(weight)
        return weight

    return change_weight


@contextmanager
def training(model, adapters: Adapters, checkpoints: bool = True) -> Iterator[None]:
    """Inside, core knows that it is training, adapters stand beside the weights, and a block's activations are made
    again in the backward pass instead of being held."""
    with ExitStack() as ends, torch.inference_mode(False), torch.enable_grad():
        if hasattr(comfy.model_management, "in_training"):      # what 0.7.0 lacks, it does not ask either
            comfy.model_management.in_training = True
            ends.callback(_end_training)
        if checkpoints:
            for block in repeated_blocks(model.model.diffusion_model):
                ends.enter_context(replace_call(block, checkpoint_call))
        if adapters.beside:
            ends.enter_context(_beside(model, adapters))
        yield


def _end_training() -> None:
    comfy.model_management.in_training = False


@contextmanager
def _beside(model, adapters: Adapters) -> Iterator[None]:
    """Core's hooks, one manager for each set; a hook turns its adapter on, so they are switched afterwards."""
    from comfy.weight_adapter.bypass import BypassInjectionManager
    with ExitStack() as ends:
        ends.callback(_drop_own_forwards, model.model,
                      {layer.path for layers in adapters.sets.values() for layer in layers})
        for layers in adapters.sets.values():
            manager = BypassInjectionManager()
            for layer in layers:
                manager.add_adapter(f"{layer.path}.weight", layer.adapter, strength=1.0)
            for injection in manager.create_injections(model.model):
                injection.inject(model)
                ends.callback(injection.eject, model)
        adapters.use(adapters._now)
        yield


def _drop_own_forwards(base: nn.Module, paths: Iterable[str]) -> None:
    """Core's hooks leave each layer's own forward as an attribute, with which it is no longer the layer that it was."""
    for path in paths:
        layer = base.get_submodule(path)
        if getattr(vars(layer).get("forward"), "__func__", None) is type(layer).forward:
            del layer.forward


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of its outermost lists of modules."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else repeated_blocks(child)
    return [block for block in found if any(True for _ in block.parameters())]


@contextmanager
def replace_call(module: nn.Module, change: Callable[[nn.Module, Callable], Callable]) -> Iterator[None]:
    """Have `change`(module, its own forward) called in place of the module's forward."""
    before = vars(module).get("forward")
    module.forward = change(module, module.forward)     # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before     # type: ignore[method-assign]


def checkpoint_call(block: nn.Module, own: Callable) -> Callable:
    """A forward that holds inputs alone: copies, since what runs the blocks changes dicts, and some of core's models
    latents, from block to block."""
    def forward(*args, **kwargs):
        if not torch.is_grad_enabled():
            return own(*args, **kwargs)
        return checkpoint(own, *map(_copy_value, args), use_reentrant=False,
                          **{name: _copy_value(value) for name, value in kwargs.items()})

    return forward


def _copy_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone() if value.requires_grad else value
    return dict(value) if isinstance(value, dict) else value


def run_in_guider(model, sampler, positive: list, shape: Sequence[int], seed: int, offloads: bool = False) -> None:
    """Run a SAMPLER that trains in core's TrainGuider, which loads the model and cleans up after it. `offloads`: its
    weights stay in RAM and are brought for each use, where this ComfyUI can."""
    from comfy_extras.nodes_train import TrainGuider
    knows = "offloading" in inspect.signature(TrainGuider.__init__).parameters
    guider = TrainGuider(model, **{"offloading": True} if offloads and knows else {})
    guider.set_conds(positive)
    nothing = torch.zeros(*shape)
    guider.sample(nothing, nothing, sampler, torch.tensor([1.0, 0.0]), disable_pbar=True, seed=seed)
