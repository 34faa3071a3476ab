"""Speech Guidance (LongCat-Video-Avatar) as a GUIDER for every backbone with audio conditioning.

All predictions are made in one batched call and given to ComfyUI's own sampling function as a pair, so that whatever
hooks into CFG (pre, post, in its place, an override of the scale) sees what it knows. Where guidance is projected, the
pair's first is already guided and the scale is 1.
"""
import copy
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import comfy.samplers
import torch
from torch import Tensor

from ..techniques.projected_guidance import Projection
from ..techniques.speech_guidance import align_negative, as_pair, combine_predictions
from . import find

PROMPTED = "lodestar_prompted"     # in transformer_options: every prediction has the prompt
NAMES = ("positive", "negative", "silent")   # text and speech, negative text and speech, negative text alone


class SpeechGuider(comfy.samplers.CFGGuider):
    """`positive` and `negative` are CONDITIONING; where the positive one has speech, the negative one gets it too.

    A model without audio conditioning is guided by text alone, at `text_scale`. `reference_scale` is for families that
    guide the picture, too. `cfg_zero` aligns the unconditional prediction with the conditional one, over whatever the
    model does not hold still (its known frames have velocity 0). A negative prompt that is the positive one leaves
    nothing for `text_scale` to guide.
    """
    names: tuple[str, ...] = NAMES          # the first is "positive"
    uncond_names: tuple[str, ...] = ("silent",)
    prompt_names: tuple[str, ...] = ("positive",)

    def __init__(self, model, positive: list, negative: list, text_scale: float, audio_scale: float, cfg_zero: bool,
                 reference_scale: float = 1.0):
        super().__init__(model)
        self.projection: Projection | None = None
        self.momenta: dict[tuple[str, str], Tensor] = {}    # in a run: each direction's sum of the step before
        self.one_prompt = same_prompt(positive, negative, find(model).audio_condition)
        if self.one_prompt:
            self.prompt_names = self.names
        self.audio_condition, self.cfg_zero = find(model).audio_condition, cfg_zero
        self.text_scale, self.audio_scale, self.reference_scale = text_scale, audio_scale, reference_scale
        self.own_cfg = as_pair(*self.chain(None)[1])[2]
        self.set_cfg(self.own_cfg)
        self.inner_set_conds(self.make_conditions(positive, negative))

    @property
    def one_level(self) -> bool:
        """Whether what it does needs all latents at the noise level of the call."""
        return self.projection is not None

    def project_directions(self, projection: Projection) -> None:
        """Project the directions of guidance from now on. The scales are then in the conditional prediction."""
        self.projection, self.own_cfg = projection, 1.0
        self.set_cfg(1.0)

    def chain(self, timestep: Tensor | None) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The predictions, each with a condition less than the one before, and the scales between them. `timestep`:
        sigmas (B,), None for those of the first step."""
        if self.one_prompt and self.audio_condition:
            return ("positive", "silent"), (self.audio_scale,)
        return self.names, (1.0 if self.one_prompt else self.text_scale,
                            self.audio_scale if self.audio_condition else 1.0)

    def choose_uncond(self, name: str, uncond: dict) -> dict:
        """Which of a chunk's unconditional values a prediction is made from."""
        return uncond if name in self.uncond_names else {}

    def make_conditions(self, positive: list, negative: list) -> dict[str, list]:
        """The CONDITIONING of each prediction. Zeros in the negative one, as core's S2V node sets, are no speech."""
        key = self.audio_condition
        if key is None:
            return {"positive": positive, "negative": negative}
        audio = find_value(positive, key)
        if audio is None:
            return {"positive": positive, "negative": negative, "silent": negative}
        with_audio = [[text, values if is_speech(values.get(key)) else {**values, key: audio}]
                      for text, values in negative]
        return {"positive": positive, "negative": with_audio, "silent": with_values(negative, without(audio, key))}

    def check_speech(self) -> None:
        """ValueError where `audio_scale` guides speech that is not there."""
        if self.audio_condition and self.audio_scale != 1 and not any(
                entry.get(self.audio_condition) is not None for entry in self.original_conds["positive"]):
            raise ValueError(f"positive: no speech ({self.audio_condition}) in it for audio_scale to guide. Use Long "
                             "Take, which sets the speech of each chunk, a node that puts speech into the positive "
                             "conditioning, or an audio_scale of 1")

    def sample(self, *args, **kwargs):
        self.check_speech()
        run = copy.copy(self)
        run.momenta = {}
        return super(SpeechGuider, run).sample(*args, **kwargs)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict = {},  # noqa: B006 - as core's
                      seed=None) -> Tensor:
        if self.one_prompt:
            model_options = {**model_options, "transformer_options": {**model_options.get("transformer_options", {}),
                                                                      PROMPTED: True}}
        names, scales = self.chain(timestep)
        weights, unconditional, scale = as_pair(*scales)
        made_of = {name: weights[place] for place, name in enumerate(names)}
        if self.projection is not None:
            made_of, scale = {name: float(place == 0 or any(one != 1 for one in scales[max(place - 1, 0):place + 1]))
                              for place, name in enumerate(names)}, 1.0
        pair = partial(self.pair, made_of, names[unconditional], scales, model_options)
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds[names[unconditional]], self.conds["positive"],
            scale if self.cfg == self.own_cfg else self.cfg,        # what another node has put there
            model_options={**model_options, "sampler_calc_cond_batch_function": pair}, seed=seed)

    def pair(self, weights: dict[str, float], unconditional: str, scales: Sequence[float], model_options: dict,
             args: dict) -> list[Tensor]:
        """The conditional and the unconditional prediction, denoised; at a CFG of 1 core asks for no second one."""
        x, asked = args["input"], args["conds"][1] is not None
        names = ("positive", unconditional, *(set(weights) - {"positive", unconditional}))   # as plain CFG
        conds = [self.conds[name] if weights[name] or (asked and name == unconditional) else None for name in names]
        made = dict(zip(names, self.predictions(conds, model_options, args), strict=True))
        if self.projection is not None:
            chain = {name: made[name] for name in weights}
            return [self.project(self.projection, chain, scales, x, args["sigma"]), made[unconditional]]
        conditional = combine_predictions([made[name] for name in weights], list(weights.values()))
        baseline = made[unconditional]
        if self.cfg_zero and asked:
            baseline = x - align_negative(x - conditional, x - baseline)   # sigma * velocity: sigma cancels
        return [conditional, baseline]

    def project(self, projection: Projection, chain: dict[str, Tensor], scales: Sequence[float], x: Tensor,
                sigma: Tensor) -> Tensor:
        """The guided prediction, denoised: the first of the chain, and its directions projected, as velocities."""
        sigma = sigma.view(-1, *[1] * (x.ndim - 1))
        velocity = {name: (x - prediction) / sigma for name, prediction in chain.items()}
        guided = own = velocity["positive"]
        for names, scale in zip(pairwise(velocity), scales, strict=True):
            if scale != 1:
                direction = velocity[names[0]] - velocity[names[1]]
                self.momenta[names] = projection.add_momentum(direction, self.momenta.get(names))
                guided = guided + (scale - 1) * projection.project(self.momenta[names], own)
        return x - sigma * guided

    def predictions(self, conds: list, model_options: dict, args: dict) -> list[Tensor]:
        """One batched call; another node's function in its place is asked for the pair that it knows."""
        theirs = model_options.get("sampler_calc_cond_batch_function")
        made = theirs({**args, "conds": conds[:2], "model_options": model_options}) if theirs else []
        return made + comfy.samplers.calc_cond_batch(self.inner_model, conds[len(made):], args["input"], args["sigma"],
                                                     model_options)


def guide_speech(model, *arguments) -> SpeechGuider:
    """The guider that guides this model's text, speech and picture as it was trained."""
    return find(model).speech_guider()(model, *arguments)


def find_value(conditioning: list, key: str) -> Tensor | None:
    """The first value of that name."""
    return next((values[key] for _, values in conditioning if values.get(key) is not None), None)


def with_values(conditioning: list, values: dict) -> list:
    return [[text, {**own, **values}] for text, own in conditioning]


def without(value: Tensor, key: str) -> dict[str, Tensor]:
    """No speech or picture, as a value of that name."""
    return {key: value.new_zeros(value.shape)}


def is_speech(audio: Tensor | None) -> bool:
    return audio is not None and bool(audio.any())


def same_prompt(positive: list, negative: list, audio_condition: str | None) -> bool:
    """Whether the two CONDITIONINGs are one but for the speech in them."""
    def pairs(conditioning: list) -> list[tuple[Tensor, dict]]:
        return [(text, {name: value for name, value in values.items() if name != audio_condition})
                for text, values in conditioning]

    return len(positive) == len(negative) and all(
        same_value(text, other) and values.keys() == others.keys()
        and all(same_value(value, others[name]) for name, value in values.items())
        for (text, values), (other, others) in zip(pairs(positive), pairs(negative), strict=True))


def same_value(one, other) -> bool:
    return one is other or (isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other))
