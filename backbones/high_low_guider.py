"""A GUIDER over a pair of models, one for high noise and one for low, in one run of the sampler (Wan 2.2 A14B).

Both are prepared as ComfyUI prepares a model for sampling, one inside the other; each prediction is asked of the model
in whose part of the schedule it lies. A model is loaded when its part begins: ComfyUI then decides what stays.
"""
from functools import partial
from typing import Any

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..techniques.technique import equal_techniques
from . import attach, find

NEAR = 1e-6     # of a boundary: 0.9 as float32 counts as 0.9
FROM_SAMPLER = ("sampler_pre_cfg_function", "sampler_post_cfg_function")    # what a sampler may add to model_options
CFG1 = "disable_cfg1_optimization"


class HighLowGuider(comfy.samplers.CFGGuider):
    """`boundary`: predictions at this sigma or above are the `high` model's, those below the `low` one's.

    Raises ValueError for models that are no pair. Techniques of one of them are given to the other.
    """

    one_level = True        # which of the models is asked depends on the noise level of the call

    def __init__(self, high, low, positive: list, negative: list, cfg_high: float, cfg_low: float,
                 boundary: float | None = None):
        trained = check_pair(high, low)
        self.boundary = trained if boundary is None else boundary
        high, low = share_techniques(high, low)
        super().__init__(high)
        self.inner_set_conds({"positive": positive, "negative": negative})
        self.set_cfg(cfg_high)
        other = comfy.samplers.CFGGuider(low)
        other.inner_set_conds({"positive": positive, "negative": negative})
        self.low_noise_model, self.cfg_low = other.model_patcher, cfg_low

    def check_schedule(self, sigmas: Tensor) -> None:
        """Raises ValueError where one of the two would never be asked."""
        asked = sigmas[:-1].tolist()
        high = sum(sigma >= self.boundary - NEAR for sigma in asked)
        if high in (0, len(asked)):
            missing, side = ("high", "below") if not high else ("low", "at or above")
            steps = (f"all {len(asked)} steps of the schedule, from {max(asked):.4g} to {min(asked):.4g}, are"
                     if len(asked) > 1 else f"the schedule's one step, at {asked[0]:.4g}, is")
            raise ValueError(f"{steps} {side} the boundary of {self.boundary:g}: the {missing}-noise model would never "
                             "run. "
                             "Change boundary, the steps, or the shift of the schedule's model")

    def sample(self, noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, denoise_mask: Tensor | None = None,
               callback=None, disable_pbar: bool = False, seed=None) -> Tensor:
        self.check_schedule(sigmas)
        low = Part(self.low_noise_model, self.original_conds, self.cfg_low)
        high = FirstPart(self.model_patcher, self.original_conds, self.cfg, low, self.boundary)

        def run_both(ready: Part, _, extra_args: dict, *__) -> Tensor:
            """Where `low` would run a sampler: `high` is prepared too, and the sampler runs."""
            low.options = extra_args["model_options"]
            found = Keep(sampler)
            high.sample(noise, latent_image, found, sigmas, denoise_mask, callback, disable_pbar, seed)
            return found.samples

        return low.sample(noise, latent_image, AsSampler(run_both), sigmas, denoise_mask, None, disable_pbar, seed)


class Part(comfy.samplers.CFGGuider):
    """One model's part of a run. `options`: its model_options, as it would give them to a sampler."""
    options: dict[str, Any]

    def __init__(self, model, conds: dict[str, list], cfg: float):
        super().__init__(model)
        self.original_conds = conds
        self.set_cfg(cfg)

    def outer_sample(self, *args, **kwargs) -> Tensor:
        wrappers = self.model_options["transformer_options"].setdefault("wrappers", {})
        of_kind = wrappers.get(WrappersMP.PREPARE_SAMPLING, {})
        wrappers[WrappersMP.PREPARE_SAMPLING] = {"lodestar_part": [self.postpone_loading], **of_kind}
        return super().outer_sample(*args, **kwargs)

    def postpone_loading(self, executor, model, noise_shape, conds, *args, **kwargs):
        """A PREPARE_SAMPLING wrapper around all others: they, and ComfyUI's loading, wait for the part to begin."""
        self._load = partial(executor, model, noise_shape, conds, *args, **kwargs)
        return model.model, conds, []

    def begin(self) -> None:
        """Have ComfyUI load the model."""
        _, _, self.loaded_models = self._load()
        self.model_patcher.pre_run()    # once more: the two may be clones of one model, which knows its last user


class FirstPart(Part):
    """What the sampler asks: the high-noise model, which passes on what is the low-noise one's."""
    one_level = True

    def __init__(self, model, conds: dict[str, list], cfg: float, low: Part, boundary: float):
        super().__init__(model, conds, cfg)
        self.low, self.boundary = low, boundary
        self.at_work: Part | None = None

    def outer_predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict = {},  # noqa: B006 - as core's
                            seed=None) -> Tensor:
        part = self if float(timestep.max()) >= self.boundary - NEAR else self.low
        if part is not self.at_work:
            part.begin()
            self.at_work = part
        if part is self:
            return super().outer_predict_noise(x, timestep, model_options, seed)
        return part.outer_predict_noise(x, timestep, with_samplers_own(part.options, model_options, self.options), seed)


class AsSampler:
    """A function in the place of a SAMPLER."""

    def __init__(self, function):
        self.sample = function


class Keep:
    """A SAMPLER that keeps what it made, in model space."""

    def __init__(self, sampler):
        self.sampler = sampler
        self.samples: Tensor

    def sample(self, guider: Part, sigmas: Tensor, extra_args: dict, *args, **kwargs) -> Tensor:
        guider.options = extra_args["model_options"]
        self.samples = self.sampler.sample(guider, sigmas, extra_args, *args, **kwargs)
        return self.samples


def with_samplers_own(options: dict, came: dict, before: dict) -> dict:
    """A model's `options` with what a sampler added to the other model's: `before` became `came`."""
    added = {key: [function for function in came.get(key, []) if function not in before.get(key, [])]
             for key in FROM_SAMPLER}
    if came.get(CFG1) and not before.get(CFG1):
        options = {**options, CFG1: True}
    return {**options, **{key: [*options.get(key, []), *functions] for key, functions in added.items() if functions}}


def check_pair(high, low) -> float:
    """The boundary that the pair was trained with. ValueError where the two are no pair."""
    backbones = find(high), find(low)
    for name, backbone in zip(("high_noise", "low_noise"), backbones, strict=True):
        if backbone.boundary is None:
            raise ValueError(f"{name}: {backbone.name} is one model for all of the noise. Wanted are Wan 2.2's A14B "
                             "text-to-video or image-to-video, one for high noise and one for low")
    kinds = [describe_network(model) for model in (high, low)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"high_noise, low_noise: got {backbones[0].name} ({kinds[0]}) and {backbones[1].name} "
                         f"({kinds[1]}), which are no pair. Load the high-noise and the low-noise file of one model")
    assert backbones[0].boundary is not None
    return backbones[0].boundary


def check_apart(high, low) -> None:
    """Raises ValueError for one model twice, be it one file loaded twice: the two of a pair were trained apart."""
    one, other = (model.model.diffusion_model.blocks[0].modulation.detach().float().cpu() for model in (high, low))
    if torch.equal(one, other):
        raise ValueError("high_noise, low_noise: got one model twice. Load the pair's two files, each by a loader of "
                         "its own")


def describe_network(model) -> str:
    """What the two of a pair have in common."""
    network = model.model.diffusion_model
    return (f"{network.in_dim} channels in, {network.out_dim} out, {len(network.blocks)} blocks of width {network.dim}"
            f"{'' if network.img_emb is None else ', CLIP vision'}")


def share_techniques(high, low) -> tuple[Any, Any]:
    """Both with the techniques of either. ValueError where both carry some, and not the same."""
    own, others = attach.techniques_of(high), attach.techniques_of(low)
    if own and others and not equal_techniques(own, others):
        raise ValueError("high_noise, low_noise: they carry different techniques ("
                         + " and ".join(", ".join(type(one).__name__ for one in side) for side in (own, others))
                         + "). Put Lodestar's nodes on one of the two, and the other gets the same, or the same nodes "
                         "with the same widgets on both")
    both = own or others
    return tuple(attach.install_techniques(model, both, attach.ChunkPosition()) if both else model
                 for model in (high, low))  # type: ignore[return-value]
