"""Guidance as OmniAvatar (Gan et al. 2025) was trained: the text's scale first, without speech, then the speech's."""
from torch import Tensor

from ..speech_guider import SpeechGuider

TEXT_FIRST = ("positive", "text", "silent")     # the middle one has the text without speech


class TextFirstGuider(SpeechGuider):
    """The text's scale is between the negative and the positive text, both without speech, the speech's between the
    positive text without speech and with it."""
    names, uncond_names, prompt_names = TEXT_FIRST, TEXT_FIRST[1:], TEXT_FIRST[:2]

    def chain(self, timestep: Tensor | None) -> tuple[tuple[str, ...], tuple[float, ...]]:
        if self.one_prompt:
            return ("positive", "silent"), (self.audio_scale,)
        return self.names, (self.audio_scale, self.text_scale)

    def make_conditions(self, positive: list, negative: list) -> dict[str, list]:
        key = self.audio_condition
        text, silent = ([[prompt, {name: value for name, value in values.items() if name != key}]
                         for prompt, values in entries] for entries in (positive, negative))
        return {"positive": positive, "text": text, "silent": silent}
