"""HuMo's guidance (Phantom-video/HuMo): text, speech and reference each with a scale of its own. The 17B has three
predictions and leaves the reference out of the unconditional one below a timestep; the 1.7B has four.

Weights of predictions that sum to 1; one of weight 0 need not be made.
"""
from typing import NamedTuple

SWITCH_TIMESTEP, TEXT_DROP = 980, 2.0     # below it the 17B's text scale is lowered by so much


class Prediction(NamedTuple):
    """What a prediction is made from: the prompt or the negative one, the speech or none, the reference or none."""
    prompt: bool
    speech: bool
    reference: bool


TEXT, NOTHING = Prediction(True, False, False), Prediction(False, False, False)
WITH_AUDIO, WHOLE = Prediction(True, True, False), Prediction(True, True, True)
PICTURED, ONLY_PICTURE = Prediction(True, False, True), Prediction(False, False, True)


def large_weights(text_scale: float, audio_scale: float, timestep: float, reference: bool = True,
                  switch_timestep: float = SWITCH_TIMESTEP) -> dict[Prediction, float]:
    """Of the 17B at a whole `timestep` (0..1000); without a `reference` nothing is switched."""
    if not reference:
        return {WITH_AUDIO: audio_scale, TEXT: text_scale - audio_scale, NOTHING: 1 - text_scale}
    early = timestep > switch_timestep
    scale = text_scale if early else text_scale - TEXT_DROP
    return {WHOLE: audio_scale, PICTURED: scale - audio_scale, ONLY_PICTURE if early else NOTHING: 1 - scale}


def small_weights(text_scale: float, audio_scale: float, reference_scale: float, reference: bool = True
                  ) -> dict[Prediction, float]:
    """Of the 1.7B, at every timestep."""
    weights = {TEXT: text_scale - audio_scale, NOTHING: 1 - text_scale}
    if not reference:
        return {WITH_AUDIO: audio_scale, **weights}
    return {WHOLE: reference_scale, WITH_AUDIO: audio_scale - reference_scale, **weights}
