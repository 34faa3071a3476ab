"""One call of ComfyUI's MiniMax H3 network: text, keyframes, references, sound and picture in one attention."""
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..model_call import ModelCall


@dataclass(frozen=True, eq=False, kw_only=True)
class H3Call(ModelCall):
    """`x`: [picture (1, 24, T, h, w), sound (1, 32, 2, A)]. Where each token stands is in `minimax_payload`'s layout,
    which ComfyUI makes once for a run."""
    names: ClassVar = ("x", "timestep", "context", "transformer_options")
    timestep: Tensor
    context: Tensor

    @property
    def picture(self) -> Tensor:
        return self.x[0]

    def frame_starts(self, latents: int, added: int) -> tuple[list[int], int, int]:
        """At which token each of the chunk's latents begins, then each of the last `added` keyframes; tokens of a
        latent, and of the whole sequence."""
        layout = self.extra["minimax_payload"]["layout"]
        video = next((begin, end) for begin, end, kind in layout.segments if kind == "video")
        tokens = (video[1] - video[0]) // latents
        keyframes = [begin for begin, _, kind in layout.segments if kind == "cond"][-added:] if added else []
        return [*(video[0] + latent * tokens for latent in range(latents)), *keyframes], tokens, layout.seq_len
