"""The only file that touches a ModelPatcher: it clones, and installs one keyed wrapper that carries every technique.

The wrapper is a fresh object for each set of techniques and each chunk, and holds nothing that changes; attention
overrides are installed inside it, so that they chain whatever other packs put there, in any node order.
"""
import copy
import inspect
from typing import Any, TypeVar

import comfy.conds
import comfy.model_patcher
import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from torch import nn

from ..techniques.technique import ChunkPosition, Technique, find_handover, sort_techniques
from . import find
from .backbone import CACHE_BYTES, OWN
from .frame_conditions import cut_conditions
from .patches import check_patches
from .sampling_run import RUN, Run

KEY = "lodestar"
FORWARDS = ("forward", "_forward", "forward_orig")
T = TypeVar("T", bound=Technique)


class Patch:
    """A DIFFUSION_MODEL wrapper: the techniques on one clone of one model, at one position in the take."""

    def __init__(self, model, techniques: tuple[Technique, ...], position: ChunkPosition):
        self.backbone = find(model)
        self.process_in = model.model.process_latent_in
        self.techniques = sort_techniques(techniques)
        self.position = position

    @torch.compiler.disable(recursive=False)   # the model below is compiled, what is laid out here never is
    def __call__(self, executor, *args, **kwargs):
        call = self.prepare_call(executor, args, kwargs)
        with call.in_place():
            made = executor(*call.arguments, **call.extra)
        return self.backbone.trim(made, args[0])

    @torch.compiler.disable
    def prepare_call(self, executor, args, kwargs):
        return self.backbone.prepare(executor, args, kwargs, self.techniques, self.position, self.process_in)

    def cut_conditions(self, executor, x, t, c_concat=None, c_crossattn=None, control=None,
                       transformer_options: dict = {}, **conditions):  # noqa: B006 - as core's
        """An APPLY_MODEL wrapper: what stands for each latent frame, for the call's own frames alone."""
        refuse_replaced_forward(executor.class_obj.diffusion_model)
        cut = cut_conditions({**conditions, "c_concat": c_concat}, self.backbone.frame_conditions, transformer_options,
                             x.shape[2])
        return executor(x, t, cut.pop("c_concat"), c_crossattn, control, transformer_options, **cut)


def refuse_replaced_forward(module: nn.Module) -> None:
    """A node that swapped the model's forward would render without our patches, unseen: RuntimeError."""
    module = getattr(module, "_orig_mod", module)
    for name in FORWARDS:
        swapped = vars(module).get(name)
        if swapped is not None and getattr(swapped, "__func__", None) is not getattr(type(module), name, None):
            raise RuntimeError(f"another node replaced this model's {name} (TeaCache style, {swapped!r}), which "
                               f"switches Lodestar's anchors and skips off. Remove that node; core's EasyCache works")


def with_run(executor, noise, *args, **kwargs):
    """An OUTER_SAMPLE wrapper: gives the model's calls a store and our own conditions, and checks other nodes'
    patches."""
    guider = executor.class_obj
    find(guider.model_patcher).check_options(guider.model_patcher.model, guider.model_options)
    lay_out = conditions_layout(guider.model_patcher, kwargs.get("latent_shapes") or [noise.shape])
    guider.conds = {name: [with_own_conditions(lay_out(entry)) for entry in entries]
                    for name, entries in guider.conds.items()}
    options = guider.model_options.setdefault("transformer_options", {})
    check_patches(guider.model_patcher.model.diffusion_model, options, find(guider.model_patcher).name)
    hooked = any("hooks" in entry for entries in guider.conds.values() for entry in entries)
    options[RUN] = Run(tuple(noise.shape), steady=not hooked, text=positive_text(guider))
    try:
        with options[RUN].ends:
            return executor(noise, *args, **kwargs)
    finally:
        options.pop(RUN, None)


def conditions_layout(model, latent_shapes):
    """What puts into a condition what the model's techniques have in it."""
    patch = patch_of(model)
    if patch is None:
        return lambda entry: entry
    return lambda entry: patch.backbone.lay_out_conditions(entry, patch.techniques, patch.position,
                                                               tuple(latent_shapes[0]))


def with_own_conditions(entry: dict) -> dict:
    """A condition whose values by names of our own reach the model's call, and are cut with the context windows."""
    own = {name: comfy.conds.CONDRegular(value) for name, value in entry.items()
           if name.startswith(OWN) and value is not None}
    return {**entry, "model_conds": {**entry.get("model_conds", {}), **own}} if own else entry


def with_room(executor, model, noise_shape, conds, *args, **kwargs):
    """A PREPARE_SAMPLING wrapper: ComfyUI leaves room for conditioning frames, too, and a KV cache, which all guidance
    branches share: the model's own estimate finds its size among the conditions'."""
    patch = patch_of(model)
    if patch is None:
        return executor(model, noise_shape, conds, *args, **kwargs)
    asked = model.model, tuple(noise_shape), patch.techniques, patch.position
    frames = (patch.position.call_latents or noise_shape[2]) + patch.backbone.extra_latents(*asked)
    shape = [*noise_shape[:2], frames, *noise_shape[3:]]
    cache = {CACHE_BYTES: patch.backbone.cache_bytes(*asked)}
    with_cache = {name: [{**entry, **cache} for entry in entries] for name, entries in conds.items()}
    network, _, loaded = executor(model, shape, with_cache, *args, **kwargs)
    return network, conds, loaded


def patch_of(model) -> Patch | None:
    patches = model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY)
    return patches[0] if patches else None


def techniques_of(model) -> tuple[Technique, ...]:
    patch = patch_of(model)
    return patch.techniques if patch else ()


def technique_of(model, kind: type[T]) -> T | None:
    return next((technique for technique in techniques_of(model) if isinstance(technique, kind)), None)


def handover_of(model) -> Technique | None:
    """The technique on the model that says what passes to the next chunk."""
    return find_handover(techniques_of(model))


def with_technique(model, technique: Technique):
    """A clone with one more technique; one that does not stack replaces its like."""
    others = tuple(other for other in techniques_of(model) if technique.stacks or type(other) is not type(technique))
    return install_techniques(model, (*others, technique), ChunkPosition())


def install_techniques(model, techniques: tuple[Technique, ...], position: ChunkPosition):
    clone = model.clone()
    patch = Patch(model, techniques, position)
    wrappers = {WrappersMP.DIFFUSION_MODEL: patch, WrappersMP.APPLY_MODEL: patch.cut_conditions,
                WrappersMP.OUTER_SAMPLE: with_run, WrappersMP.PREPARE_SAMPLING: with_room}
    for kind, wrapper in wrappers.items():
        clone.remove_wrappers_with_key(kind, KEY)
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def ready_model(model):
    """The model itself where it carries our wrappers, else a clone that does: without them its family's own conditions
    do not reach its calls."""
    return install_techniques(model, (), ChunkPosition()) if patch_of(model) is None else model


def guider_at(guider, techniques: tuple[Technique, ...], position: ChunkPosition, conditions: dict, uncond: dict,
              prompt: list | None = None):
    """A copy of any core GUIDER for one chunk: the model at `position`, and values set in its conditions.

    Every MODEL that the guider holds stands at `position`. `conditions` go into every condition; over them what the
    guider's own `choose_uncond` takes of `uncond` for it, or all of it where its name for a condition says negative.
    `prompt` is CONDITIONING that replaces the text of the positive one, or of the guider's own `prompt_names`.
    """
    prompt_names = getattr(guider, "prompt_names", ("positive",))
    choose_uncond = getattr(guider, "choose_uncond", lambda name, values: values if "negative" in name else {})
    chunk_guider = copy.copy(guider)
    for name, held in vars(guider).items():
        if isinstance(held, comfy.model_patcher.ModelPatcher):
            setattr(chunk_guider, name, install_techniques(held, techniques, position))
    chunk_guider.model_options = chunk_guider.model_patcher.model_options
    chunk_guider.original_conds = {}
    for name, entries in guider.original_conds.items():
        if prompt is not None and name in prompt_names:
            own = {key: value for key, value in entries[0].items() if key not in ("cross_attn", "uuid")}
            entries = [{**own, **entry} for entry in comfy.sampler_helpers.convert_cond(prompt)]
        values = {**conditions, **choose_uncond(name, uncond)}
        chunk_guider.original_conds[name] = [
            {**entry, "model_conds": dict(entry.get("model_conds", {})), **values} for entry in entries]
    return chunk_guider


def positive_text(guider) -> torch.Tensor | None:
    """(1, tokens, C) of a running guider's positive prompt; None where it has none by that name."""
    entries = (guider.conds.get(name) for name in getattr(guider, "prompt_names", ("positive",)))
    return next((found[0].get("cross_attn") for found in entries if found), None)


def text_of(guider, prompt: list | None) -> torch.Tensor:
    """(1, tokens, C) of `prompt`, CONDITIONING, or of the guider's own positive one."""
    if prompt is not None:
        return prompt[0][0]
    name = next(name for name in getattr(guider, "prompt_names", ("positive",)) if name in guider.original_conds)
    return guider.original_conds[name][0]["cross_attn"]


def options_at(model_options: dict, model) -> dict:
    """The options of one call of a sampling run that stands where `model` does, a clone of the run's own."""
    patch, options = patch_of(model), model_options.get("transformer_options", {})
    if patch is None:
        return model_options
    wrappers = options.get("wrappers", {})
    own = {WrappersMP.DIFFUSION_MODEL: patch, WrappersMP.APPLY_MODEL: patch.cut_conditions}
    own_wrappers = {kind: {**wrappers.get(kind, {}), KEY: [wrapper]} for kind, wrapper in own.items()}
    return {**model_options, "transformer_options": {**options, "wrappers": {**wrappers, **own_wrappers}}}


def copy_for_training(model, dtype: torch.dtype):
    """A clone that computes in `dtype` and whose weights a gradient may pass: a second set of them in RAM where they
    were loaded in inference mode, as every node loads them."""
    inference = any(weight.is_inference() for weight in model.model.parameters())
    asks = "force_deepcopy" in inspect.signature(model.clone).parameters and model.cached_patcher_init is not None
    clone = model.clone(**{"force_deepcopy": True} if inference and asks else {})    # not every ComfyUI has it
    if inference and not asks:
        kept = model.model.model_config     # 0.7.0's answers None for any attribute, which deepcopy would call
        clone.model = copy.deepcopy(model.model, {id(kept): kept})
    clone.set_model_compute_dtype(dtype)
    return ready_model(clone)


def with_whole_timesteps(model_options: dict) -> dict:
    """The options of a sampler's calls, in which the model is given its timestep without what stands behind the
    point."""
    options = model_options.get("transformer_options", {})
    wrappers = options.get("wrappers", {})
    keyed = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {}), f"{KEY}_whole_timesteps": [truncate_timestep]}
    return {**model_options,
            "transformer_options": {**options, "wrappers": {**wrappers, WrappersMP.DIFFUSION_MODEL: keyed}}}


def truncate_timestep(executor, x, timestep, *args, **kwargs):
    return executor(x, timestep.trunc(), *args, **kwargs)


def with_companion(model, key: str, value: Any, companion):
    """A clone that carries `value` under `key`, and with it `companion`, the patcher of a network that ComfyUI then
    loads and offloads beside the model's own."""
    clone = model.clone()
    clone.set_attachments(key, value)
    clone.set_additional_models(key, [companion])
    return install_techniques(clone, techniques_of(model), ChunkPosition())


def with_weight_patches(model, patches: dict, strength: float, functions: dict, factors: nn.Module | None = None):
    """A clone with core's weight `patches`, and with `functions` {key: called on that weight each time it is used}.

    `factors`: what the functions need; ComfyUI loads, streams, counts and offloads it as it does the model.
    """
    clone = model.clone()
    clone.add_patches(patches, strength)
    for key, function in functions.items():
        clone.add_weight_wrapper(key, function)
    if factors is not None:
        others = clone.get_additional_models_with_key(KEY)
        clone.set_additional_models(KEY, [*others, patcher_of(factors, model.load_device, model.offload_device)])
    return clone


def patcher_of(module: nn.Module, load_device, offload_device, disable_dynamic: bool = False):
    """ComfyUI's manager of a module's weights: the one that streams them, where this ComfyUI has it."""
    dynamic = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else dynamic
    return kind(module, load_device, offload_device)
