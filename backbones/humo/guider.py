"""HuMo's own guidance as a GUIDER: text, speech and reference each with a scale of its own.

Each prediction has the prompt or the negative one, the speech or none, the reference or none; which of them are made,
and at what scales, follows from the model, the timestep and what there is.
"""
import copy

import torch
from torch import Tensor

from .. import find
from ..attach import ready_model
from ..speech_guider import SpeechGuider, find_value, with_values, without
from .backbone import REFERENCE, SPEECH, HuMo
from .guidance import (
    NOTHING,
    ONLY_PICTURE,
    PICTURED,
    SWITCH_TIMESTEP,
    TEXT,
    WHOLE,
    WITH_AUDIO,
    Prediction,
    large_chain,
    small_chain,
)

PREDICTIONS = {"positive": WHOLE, "without reference": WITH_AUDIO, "without speech": PICTURED,
               "prompt alone": TEXT, "negative with reference": ONLY_PICTURE, "negative": NOTHING}
CORE_REFERENCE = "reference_latents"    # of core's node for HuMo


class HuMoGuider(SpeechGuider):
    """The 17B has three predictions, and none but the prompt's two with the reference from timestep 980 on; the 1.7B
    has four, and `reference_scale` is its own."""
    names = tuple(PREDICTIONS)
    prompt_names = ("positive", "without reference", "without speech", "prompt alone")
    audio_in = reference_in = True      # whether there is speech, a reference; of a run

    def __init__(self, model, *arguments):
        backbone = find(model)
        assert isinstance(backbone, HuMo)
        self.large = backbone.large
        super().__init__(ready_model(model), *arguments)

    @property
    def one_level(self) -> bool:
        """The 17B's chain goes by the timestep."""
        return self.large or super().one_level

    def choose_uncond(self, name: str, uncond: dict) -> dict:
        made = PREDICTIONS[name]
        absent = (*(() if made.speech else (SPEECH,)), *(() if made.reference else (REFERENCE,)))
        return {key: uncond[key] for key in absent}

    def make_conditions(self, positive: list, negative: list) -> dict[str, list]:
        conditions = {name: positive if made.prompt else negative for name, made in PREDICTIONS.items()}
        for key, part in ((SPEECH, "speech"), (REFERENCE, "reference")):
            value = find_value(positive, key)
            if value is not None:
                for name, made in PREDICTIONS.items():
                    given = {key: value} if getattr(made, part) else without(value, key)
                    conditions[name] = with_values(conditions[name], given)
        for latents in filter(None, (find_value(positive, CORE_REFERENCE),)):
            none = [torch.zeros_like(latent) for latent in latents]
            for name, made in PREDICTIONS.items():
                conditions[name] = with_values(conditions[name], {CORE_REFERENCE: latents if made.reference else none})
        return conditions

    def check_speech(self) -> None:
        """It may do without: then the audio's scale has nothing to do."""

    def sample(self, *args, **kwargs):
        """What there is, is found out once, and known to the run alone."""
        run, (entry, *_) = copy.copy(self), self.original_conds["positive"]
        run.audio_in = is_there(entry.get(SPEECH))
        known, latents = entry.get(REFERENCE), entry.get(CORE_REFERENCE) or ()
        run.reference_in = any(map(is_there, latents)) if known is None else is_there(known[:, :1])
        return super(HuMoGuider, run).sample(*args, **kwargs)

    def chain(self, timestep: Tensor | None) -> tuple[tuple[str, ...], tuple[float, ...]]:
        if self.large:
            whole = 1000
            if timestep is not None and self.reference_in:      # else nothing is switched
                whole = int(1000 * float(timestep.flatten()[0]))
            found = large_chain(self.text_scale, self.audio_scale, whole, self.reference_in, SWITCH_TIMESTEP)
        else:
            found = small_chain(self.text_scale, self.audio_scale, self.reference_scale)
        found = found.among(self.audio_in, self.reference_in, not self.one_prompt)
        if not found.scales:
            return ("positive", "negative"), (1.0,)
        return ("positive", *(name_of(made) for made in found.predictions[1:])), found.scales


def name_of(prediction: Prediction) -> str:
    return next(name for name, made in PREDICTIONS.items() if made == prediction)


def is_there(value: Tensor | None) -> bool:
    return value is not None and bool(value.any())
