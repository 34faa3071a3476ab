"""HuMo's guidance (Phantom-video/HuMo): text, speech and reference each with a scale of its own. The 17B has three
predictions and leaves the reference out of the unconditional one below a timestep; the 1.7B has four.
"""
from itertools import pairwise
from typing import NamedTuple

SWITCH_TIMESTEP, TEXT_DROP = 980, 2.0     # below it the 17B's text scale is lowered by so much


class Prediction(NamedTuple):
    """What a prediction is made from: the prompt or the negative one, the speech or none, the reference or none."""
    prompt: bool
    speech: bool
    reference: bool


class Chain(NamedTuple):
    """Predictions, each with a condition less than the one before, and the scale between any two: `shares` weighs
    them."""
    predictions: tuple[Prediction, ...]
    scales: tuple[float, ...]

    def among(self, speech: bool, reference: bool, prompts: bool = True) -> "Chain":
        """What is left where there is no speech, no reference, or one prompt in place of two: predictions that are then
        the same are one, and the scale between them goes."""
        left = tuple(Prediction(made.prompt or not prompts, made.speech and speech, made.reference and reference)
                     for made in self.predictions)
        differ = [index for index, (one, other) in enumerate(pairwise(left)) if one != other]
        return Chain((left[0], *(left[index + 1] for index in differ)), tuple(self.scales[index] for index in differ))


WHOLE, PICTURED = Prediction(True, True, True), Prediction(True, False, True)
WITH_AUDIO, TEXT = Prediction(True, True, False), Prediction(True, False, False)
ONLY_PICTURE, NOTHING = Prediction(False, False, True), Prediction(False, False, False)


def large_chain(text_scale: float, audio_scale: float, timestep: int, reference: bool = True,
                switch_timestep: int = SWITCH_TIMESTEP) -> Chain:
    """Of the 17B at a whole `timestep` (0..1000); without a `reference` nothing is switched. No text scale is lowered
    below 1, which is no guidance: distilled models have it."""
    if timestep > switch_timestep or not reference:
        return Chain((WHOLE, PICTURED, ONLY_PICTURE), (audio_scale, text_scale))
    return Chain((WHOLE, PICTURED, NOTHING), (audio_scale, max(text_scale - TEXT_DROP, min(text_scale, 1.0))))


def small_chain(text_scale: float, audio_scale: float, reference_scale: float) -> Chain:
    """Of the 1.7B, at every timestep."""
    return Chain((WHOLE, WITH_AUDIO, TEXT, NOTHING), (reference_scale, audio_scale, text_scale))
