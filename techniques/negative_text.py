"""A negative prompt for models that make one prediction a step: see attention_guidance.py."""
from dataclasses import dataclass

from torch import Tensor

from .attention_guidance import AttentionGuidance
from .technique import Technique


@dataclass(frozen=True, eq=False)
class NegativeText(Technique):
    """`text` (1, tokens, C): the encoded negative prompt, as the model reads prompts."""
    text: Tensor
    guidance: AttentionGuidance = AttentionGuidance()

    def negative_text(self) -> tuple[Tensor, AttentionGuidance]:
        return self.text, self.guidance
