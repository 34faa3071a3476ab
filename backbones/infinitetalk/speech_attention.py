"""The speech cross-attention that InfiniteTalk's model patch adds to each Wan block, for one call of the model.

Core's own patch takes one batch row, one length and two masks; this one takes the speech of each row of the batch,
tokens that follow the chunk (anchors get no audio), and a third mask for what is neither speaker, as the authors have.
"""
from dataclasses import dataclass

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...techniques.rope import rotate, rotation
from ...techniques.speaker_masks import centers, person_map, query_positions

POSITIONS = "lodestar_speaker_positions"    # in transformer_options, from a block's self-attention to its speech


def speech_tokens(audio_proj, windows: Tensor) -> Tensor:
    """(B, speakers, T, 8, L, C), of which the first latent's last 3 are empty -> (B, T, speakers * 32, D)."""
    batch, speakers = windows.shape[:2]
    flat = windows.flatten(0, 1)
    tokens = audio_proj(flat[:, :1, :audio_proj.seq_len], flat[:, 1:])
    return torch.cat(tokens.unflatten(0, (batch, speakers)).unbind(1), 2)


@dataclass(frozen=True, eq=False)
class SpeechAttention:
    """`blocks`: of the model patch. `tokens`: (B, T, speakers * 32, D). `scale`: of the residual. Where two speak,
    `masks`: (K, tokens of a frame) of 0 and 1, of the two and the rest; `places`: from `speaker_places`."""
    blocks: torch.nn.ModuleList
    tokens: Tensor
    scale: float = 1.0
    masks: Tensor | None = None
    places: Tensor | None = None

    def find_speakers(self, kwargs: dict) -> Tensor:
        """An attn1_patch: where each token of the chunk stands between the speakers, for this block's speech."""
        options = kwargs["transformer_options"]
        _, height, width = options["grid_sizes"]
        area = height * width
        assert self.masks is not None
        own, query = self.tokens.shape[1] * area, kwargs["q"]
        shares = person_map(query[:, :own], kwargs["k"][:, :area], self.masks.to(query).expand(len(query), -1, -1))
        options[POSITIONS] = query_positions(shares)
        return kwargs["x"]

    def add_speech(self, kwargs: dict) -> Tensor:
        """An attn2_patch: the hidden states with the audio cross-attention of the chunk's tokens; what follows them
        stays as it is."""
        x, options = kwargs["x"], kwargs["transformer_options"]
        block = self.blocks[options["block_index"]]
        attention, frames = block.audio_cross_attn, self.tokens.shape[1]
        _, height, width = options["grid_sizes"]
        own = x[:, :frames * height * width]
        query = attention.q_linear(block.norm_x(own)).unflatten(-1, (attention.num_heads, -1))
        pair = attention.kv_linear(self.tokens.to(x)).unflatten(-1, (2, attention.num_heads, -1))
        key, value = pair.unbind(3)     # (B, T, n, heads, D)
        positions = options.pop(POSITIONS, None)
        if positions is not None:
            query, key = self.rotate_by_speaker(query, key, positions)
        query, key, value = (part.flatten(0, 1).transpose(1, 2) for part in
                             (query.unflatten(1, (frames, -1)), key, value))
        attended = optimized_attention(query, key, value, heads=attention.num_heads, skip_reshape=True)
        attended = attention.proj(attended).unflatten(0, (len(x), frames)).flatten(1, 2)
        return torch.cat([own + attended * self.scale, x[:, own.shape[1]:]], 1)

    def rotate_by_speaker(self, query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """L-RoPE: queries (B, N, heads, D) at `positions` (B, N), a speaker's keys (B, T, n, heads, D) at its place."""
        assert self.places is not None
        rows = torch.stack([rotation(row, query.shape[-1]) for row in positions])[:, :, None]
        flat = rotate(key.flatten(0, 1), self.places[None, :, None])
        return rotate(query, rows), flat.unflatten(0, key.shape[:2])


def speaker_places(blocks: torch.nn.ModuleList, tokens: Tensor) -> Tensor:
    """L-RoPE's rotation (n, size / 2, 2, 2) of the keys that two speakers' `tokens` (B, T, n, D) become."""
    attention, each = blocks[0].audio_cross_attn, tokens.shape[2] // 2
    places = torch.tensor(centers(3, 2), device=tokens.device).repeat_interleave(each)
    return rotation(places, attention.dim // attention.num_heads)
