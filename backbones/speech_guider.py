"""Speech Guidance (LongCat-Video-Avatar) as a GUIDER for every backbone with audio conditioning.

Up to three predictions are made in one batched call and given to ComfyUI's own sampling function as a pair, so that
whatever hooks into CFG (pre, post, in its place, an override of the scale) sees what it knows.
"""
from functools import partial

import comfy.samplers
from torch import Tensor

from ..techniques.speech_guidance import align_negative, as_pair, combine_predictions
from . import find

NAMES = ("positive", "negative", "silent")   # text and speech, negative text and speech, negative text alone
TEXT_FIRST = ("positive", "text", "silent")     # the middle one has the text without speech


class SpeechGuider(comfy.samplers.CFGGuider):
    """`positive` and `negative` are CONDITIONING; where the positive one has speech, the negative one gets it too.

    A model without audio conditioning is guided by text alone, at `text_scale`. `cfg_zero` aligns the unconditional
    prediction with the conditional one, over whatever the model does not hold still (its known frames have velocity 0).
    """
    names: tuple[str, ...] = NAMES
    uncond_names: tuple[str, ...] = ("silent",)
    prompt_names: tuple[str, ...] = ("positive",)

    def __init__(self, model, positive: list, negative: list, text_scale: float, audio_scale: float, cfg_zero: bool):
        super().__init__(model)
        self.audio_condition, self.cfg_zero = find(model).audio_condition, cfg_zero
        scales = text_scale, audio_scale if self.audio_condition else 1.0
        self.weights, unconditional, scale = self.as_pair(*scales)
        self.unconditional = self.names[unconditional]
        self.set_cfg(scale)
        self.inner_set_conds(self.make_conditions(positive, negative))

    def as_pair(self, text_scale: float, audio_scale: float) -> tuple[tuple[float, float, float], int, float]:
        return as_pair(text_scale, audio_scale)

    def make_conditions(self, positive: list, negative: list) -> dict[str, list]:
        """The CONDITIONING of each prediction. Zeros in the negative one, as core's S2V node sets, are no speech."""
        key = self.audio_condition
        if key is None:
            return {"positive": positive, "negative": negative}
        audio = next((values[key] for _, values in positive if values.get(key) is not None), None)
        if audio is None:
            return {"positive": positive, "negative": negative, "silent": negative}
        with_audio = [[text, values if is_speech(values.get(key)) else {**values, key: audio}]
                      for text, values in negative]
        silent = [[text, {**values, key: audio.new_zeros(audio.shape)}] for text, values in negative]
        return {"positive": positive, "negative": with_audio, "silent": silent}

    def sample(self, *args, **kwargs):
        if self.unconditional in self.uncond_names and not any(
                entry.get(self.audio_condition) is not None for entry in self.original_conds["positive"]):
            raise ValueError(f"positive: no speech ({self.audio_condition}) in it for audio_scale to guide. Use Long "
                             "Take, which sets the speech of each chunk, a node that puts speech into the positive "
                             "conditioning, or an audio_scale of 1")
        return super().sample(*args, **kwargs)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict = {},  # noqa: B006 - as core's
                      seed=None) -> Tensor:
        paired = {**model_options, "sampler_calc_cond_batch_function": partial(self.pair, model_options)}
        return comfy.samplers.sampling_function(self.inner_model, x, timestep, self.conds[self.unconditional],
                                                self.conds["positive"], self.cfg, model_options=paired, seed=seed)

    def pair(self, model_options: dict, args: dict) -> list[Tensor]:
        """The conditional and the unconditional prediction, denoised; at a CFG of 1 core asks for no second one."""
        x, asked, weight = args["input"], args["conds"][1] is not None, dict(zip(self.names, self.weights, strict=True))
        names = ("positive", self.unconditional, *(set(self.names) - {"positive", self.unconditional}))   # as plain CFG
        conds = [self.conds[name] if weight[name] or (asked and name == self.unconditional) else None for name in names]
        made = dict(zip(names, self.predictions(conds, model_options, args), strict=True))
        conditional = combine_predictions([made[name] for name in self.names], self.weights)
        unconditional = made[self.unconditional]
        if self.cfg_zero and asked:
            unconditional = x - align_negative(x - conditional, x - unconditional)   # sigma * velocity: sigma cancels
        return [conditional, unconditional]

    def predictions(self, conds: list, model_options: dict, args: dict) -> list[Tensor]:
        """One batched call; another node's function in its place is asked for the pair that it knows."""
        theirs = model_options.get("sampler_calc_cond_batch_function")
        made = theirs({**args, "conds": conds[:2], "model_options": model_options}) if theirs else []
        return made + comfy.samplers.calc_cond_batch(self.inner_model, conds[len(made):], args["input"], args["sigma"],
                                                     model_options)


class TextFirstGuider(SpeechGuider):
    """The text's scale is between the negative and the positive text, both without speech, the speech's between the
    positive text without speech and with it, as OmniAvatar was trained."""
    names, uncond_names, prompt_names = TEXT_FIRST, TEXT_FIRST[1:], TEXT_FIRST[:2]

    def as_pair(self, text_scale: float, audio_scale: float) -> tuple[tuple[float, float, float], int, float]:
        return as_pair(audio_scale, text_scale)

    def make_conditions(self, positive: list, negative: list) -> dict[str, list]:
        key = self.audio_condition
        text, silent = ([[prompt, {name: value for name, value in values.items() if name != key}]
                         for prompt, values in entries] for entries in (positive, negative))
        return {"positive": positive, "text": text, "silent": silent}


def guide_speech(model, *arguments) -> SpeechGuider:
    """The guider that guides this model's text and speech as it was trained."""
    return (TextFirstGuider if find(model).text_first else SpeechGuider)(model, *arguments)


def is_speech(audio: Tensor | None) -> bool:
    return audio is not None and bool(audio.any())
