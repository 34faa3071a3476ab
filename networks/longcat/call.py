"""What is the same for every block of one forward pass of LongCat."""
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...techniques.attention_guidance import AttentionGuidance
from ...techniques.kv_cache import KVCache
from ...techniques.rope import rotation
from ...techniques.sparse_blocks import SparseBlocks
from ...techniques.visibility import Bias

Groups = list[tuple[list[int], Bias]]
Cached = Sequence[tuple[KVCache, Tensor]]
"""KV caches that stand before the frames in hand, each with the RoPE frequencies of its tokens."""


@dataclass(frozen=True, eq=False)
class Speakers:
    """`masks` (B, K, tokens) of the first frame; `key_rope`: RoPE frequencies of the audio streams' tokens."""
    masks: Tensor
    key_rope: Tensor
    span: int
    interval: int

    @classmethod
    def of(cls, masks: Tensor, centers: Sequence[float], tokens: int, head_dim: int, span: int, interval: int
           ) -> "Speakers":
        """The audio streams are at `centers`, each with its `tokens` audio tokens."""
        positions = torch.cat([torch.full((tokens,), center, device=masks.device) for center in centers])
        return cls(masks, rotation(positions, head_dim)[None, :, None], span, interval)


@dataclass(frozen=True, eq=False)
class Call:
    """One forward pass. The frames in hand are `clean` clean ones, then the noisy ones; `cached` ones come before.

    `rope`: RoPE frequencies of the frames in hand. `groups`: these frames by the keys they see. `text` (B, L, D), or a
    list of (1, L_i, D) where padding is left out; `audio` (B, noisy frames, tokens, C). `sparse`: which keys of the
    self-attention are left out. `negative` (1, L, D): the text that `guidance` guides away from, in the
    `guided` rows of the batch, None being all. `beside`: what all frames in hand see behind their own keys.
    `frame_tokens`: of loose tokens, how many each frame of `audio` has.
    """
    frames: int
    clean: int
    tokens: int
    rope: Tensor
    groups: Groups
    cached: Cached = ()
    text: Tensor | list[Tensor] | None = None
    audio: Tensor | None = None
    speakers: Speakers | None = None
    sparse: SparseBlocks | None = None
    negative: Tensor | None = None
    guidance: AttentionGuidance | None = None
    guided: tuple[bool, ...] | None = None
    beside: Cached = ()
    frame_tokens: tuple[int, ...] | None = None
    options: dict = field(default_factory=dict)

    @property
    def clean_tokens(self) -> int:
        return self.clean * self.tokens

    def apply_patches(self, name: str, **values) -> Tensor:
        """values["x"] after the patches that nodes attached at `name`, as ComfyUI's own models do it."""
        for patch in self.options.get("patches", {}).get(name, ()):
            values["x"] = patch({**values, "transformer_options": self.options})
        return values["x"]
