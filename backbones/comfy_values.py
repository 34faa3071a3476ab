"""What counts of ComfyUI's objects for the frames that come out, whatever state ComfyUI has them in.

A model counts by the weights that were loaded (not as a LoRA that is applied right now has them), by its patches,
options, wrappers and techniques; a guider, a hook or a VAE by what it was given, not by what the last run left in it.
"""
import functools
import types
from collections.abc import Iterator
from typing import Any

import comfy.context_windows
import comfy.controlnet
import comfy.hooks
import comfy.model_base
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy.weight_adapter
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.nn import Module

from .attach import KEY, techniques_of

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
LEFT_BY_A_RUN = (
    (comfy.samplers.CFGGuider, ("conds", "inner_model", "loaded_models", "uncond_inner", "uncond_loaded",
                                "_uncond_neg")),
    (comfy.hooks.Hook, ("hook_ref", "_skip_adding")),
    (comfy.hooks.HookGroup, ("_hook_dict",)),
    (comfy.hooks.HookKeyframe, ("start_t",)),
    (comfy.hooks.HookKeyframeGroup, ("_current_keyframe", "_current_used_steps", "_current_index", "_current_strength",
                                     "_curr_t", "curr_t")),
    (comfy.context_windows.IndexListContextHandler, ("_step", "_model")),
    (comfy.controlnet.ControlBase, ("cond_hint", "cond_hints", "control_inputs", "extra_concat", "timestep_range",
                                   "model_sampling_current", "multigpu_clones")),
    (comfy.sd.VAE, ("patcher", "first_stage_model", "memory_used_encode", "memory_used_decode", "size")),
)
OF_THE_LOADER = ("comfy_", "prev_comfy_", "seed_key", "training", "model_lowvram", "model_loaded_weight_memory",
                 "model_offload_buffer_memory", "lowvram_patch_counter", "memory_usage_factor", "latent_shapes")
SETTINGS = (int, float, str, tuple, list, dict, set, Tensor, torch.dtype, types.FunctionType, types.MethodType,
            types.BuiltinFunctionType, functools.partial)
BESIDE_A_WEIGHT = ("_comfy_model_dtype", "_function")  # names of the loader's, with a weight's before
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
OF_A_MODEL = ("model_config", "latent_format", "model_type", "manual_cast_dtype")
OF_A_PATCHER = ("object_patches", "patches", "weight_wrapper_patches", "force_cast_weights", "model_options",
                "wrappers", "callbacks", "injections", "attachments", "additional_models", "hook_patches",
                "forced_hooks")


class ComfyValues:
    """Gives, for a value on ComfyUI's wires, what is to be read in its place. One for all values of a take."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[str, Module]] = {}  # modules of models that were read, by id
        self.loaded: dict[int, Any] = {}                # weights as they are now, by id: as they were loaded
        self.bypass = getattr(comfy.weight_adapter, "bypass", None)     # ComfyUI 0.7 has none

    def __call__(self, value: Any) -> Any:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if isinstance(value, Tensor):
            return self.loaded.get(id(value), value)
        if isinstance(value, ModelPatcher):
            return self.of_model(value)
        if isinstance(value, Module):
            return self.of_module(value)
        if isinstance(value, comfy.sd.VAE):
            return [value.patcher, self.without_run_state(value)]
        if self.bypass is not None and isinstance(value, self.bypass.BypassInjectionManager):
            return [type(value), *map(describe_bypass, value.hooks)]
        return self.without_run_state(value)

    def without_run_state(self, value: Any) -> Any:
        """An object of ComfyUI's without what its last run left in it; any other as it is."""
        left = [name for kind, names in LEFT_BY_A_RUN if isinstance(value, kind) for name in names]
        if not left:
            return value
        return [type(value), {name: held for name, held in vars(value).items() if name not in left}]

    def of_model(self, patcher) -> list:
        """Weights and layers first, so that what else refers to them finds them known; then all that is put on them."""
        if id(patcher.model) in self.known:
            network: Any = self.known[id(patcher.model)][0]
        else:
            self.loaded |= {id(now): weight for now, weight in as_loaded(patcher)}
            network = self.of_network(patcher)
        given = {name: without_ours(getattr(patcher, name)) for name in OF_A_PATCHER if hasattr(patcher, name)}
        return [network, type(patcher), given, techniques_of(patcher)]

    def of_network(self, patcher) -> list:
        """A model's layers by path; where an object patch stands in, or is applied just now, as the model had it."""
        model, applied, root = patcher.model, patcher.object_patches_backup, f"model {len(self.known)}"
        own = {path: held for path, held in applied.items() if path not in patcher.object_patches}
        layers = [*self.layers(model, root, "", {*applied, *patcher.object_patches})]
        layers += [layer for path, held in own.items() if isinstance(held, Module)
                   for layer in self.layers(held, root, path, ())]
        config = [patcher.get_model_object(name) for name in OF_A_MODEL if hasattr(model, name)]
        return [config, dict(layers)]

    def of_module(self, module: Module) -> Any:
        """A network that is not a MODEL's own: an object patch, another pack's adapter."""
        if id(module) in self.known:
            return self.known[id(module)][0]
        return dict(self.layers(module, f"module {len(self.known)}", "", ()))

    def layers(self, module: Module, root: str, path: str, replaced) -> Iterator[tuple[str, Any]]:
        """(path, [class, settings, tensors]) of every layer below; a layer that is known already by its place."""
        if path in replaced:
            return
        if id(module) in self.known:
            yield path, self.known[id(module)][0]
            return
        self.known[id(module)] = f"{root}: {path}", module
        yield path, [type(module), settings(module), {**module._parameters, **module._buffers}]
        for name, child in module._modules.items():
            if child is not None:
                yield from self.layers(child, root, f"{path}.{name}".lstrip("."), replaced)


def describe_bypass(hook) -> list:
    """A LoRA beside its layer (ComfyUI 0.33). Its first run gives its weights the format of the layer's."""
    dtype = hook.module.weight.dtype if hook.module.weight.dtype in FLOATS else None
    numbers = [part.to(dtype or part.dtype) if isinstance(part, Tensor) else part for part in hook.adapter.weights]
    return [hook.module, type(hook.adapter), numbers, hook.multiplier]


def as_loaded(patcher) -> Iterator[tuple[Tensor, Tensor]]:
    """(weight as it is now, weight before a patch was applied to it) of those that ComfyUI keeps aside."""
    for kept in (getattr(patcher, "backup_buffers", {}), patcher.backup, patcher.hook_backup):
        for key, entry in kept.items():
            weight = entry if isinstance(entry, Tensor) else entry[0]      # (weight, how it is put back)
            yield comfy.utils.get_attr(patcher.model, key), weight


def settings(module: Module) -> list:
    """The numbers, texts, lists, tensors and functions that a layer was given, a forward of another pack's included."""
    given = {name: value for name, value in vars(module).items() if isinstance(value, SETTINGS)
             and not name.startswith(("_", *OF_THE_LOADER)) and not name.endswith(BESIDE_A_WEIGHT)
             and not is_put_in_its_place(module, name, value)}
    return [given, *(list(getattr(module, name).values()) for name in HOOKS)]


def is_put_in_its_place(module: Module, name: str, value: Any) -> bool:
    """Whether a layer's method is its own again, or a bypassed LoRA's, which its patcher tells."""
    if not isinstance(value, types.MethodType):
        return False
    own = value.__self__ is module and value.__func__ is getattr(type(module), name, None)
    return own or type(value.__self__).__module__ == "comfy.weight_adapter.bypass"


def without_ours(held: Any) -> Any:
    """Wrappers and callbacks by kind, in their order, without this pack's: what those carry counts as techniques."""
    if not isinstance(held, dict):
        return held
    return {name: [(key, value) for key, value in entries.items() if key != KEY]
            if isinstance(entries, dict) else entries for name, entries in held.items()}
