"""The layers of LongCat-Video: attentions, gated FFN, embedders, audio projector; official key names.

`operations` makes every layer with weights and must compute in the dtype of what comes in (torch.nn in float32,
comfy.ops.manual_cast elsewhere); `attention` is called as (q, k, v, heads, transformer_options=...) on (B, S, H * D),
`rotate` as techniques.rope.rotate.
"""
import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ...techniques.attention_guidance import AttentionGuidance
from ...techniques.rope import rotation
from ...techniques.speaker_masks import person_map, query_positions
from ...techniques.visibility import attend_by_groups
from .call import Cached, Call
from .config import AudioConfig, LongCatConfig

EPS = 1e-6
Attention = Callable[..., Tensor]
Rotate = Callable[[Tensor, Tensor], Tensor]


class SelfAttention(nn.Module):
    def __init__(self, config: LongCatConfig, operations, attention: Attention, rotate: Rotate, **kind):
        super().__init__()
        self.heads, self.attention, self.rotate = config.heads, attention, rotate
        self.qkv = operations.Linear(config.hidden, 3 * config.hidden, **kind)
        self.q_norm = operations.RMSNorm(config.head_dim, eps=EPS, **kind)
        self.k_norm = operations.RMSNorm(config.head_dim, eps=EPS, **kind)
        self.proj = operations.Linear(config.hidden, config.hidden, **kind)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys after their norm, values, each (B, N, heads, D), none of them rotated."""
        query, key, value = rearrange(self.qkv(x), "b n (qkv heads d) -> qkv b n heads d", qkv=3, heads=self.heads)
        return self.q_norm(query), self.k_norm(key), value

    def forward(self, x: Tensor, call: Call, cached: Cached):
        """(B, N, C) -> the same, and each noisy token's position among the speakers (B, N', float32) or None. `cached`:
        of this block alone."""
        query, key, value = self.keys_and_values(x)
        query, key = self.rotate(query, call.rope), self.rotate(key, call.rope)
        key = join_cached([cache.keys(0, frequencies, self.rotate) for cache, frequencies in cached], key)
        value = join_cached([cache.blocks[0][1] for cache, _ in cached], value)
        for cache, frequencies in call.beside:
            key = join_behind(key, cache.keys(0, frequencies, self.rotate))
            value = join_behind(value, cache.blocks[0][1])
        positions = None
        if (speakers := call.speakers) is not None:
            shares = person_map(query[:, call.clean_tokens:], key[:, :call.tokens], speakers.masks)
            positions = query_positions(shares, speakers.span, speakers.interval)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if call.sparse is None or query.shape[1] == call.tokens:
                return self.attention(query, key, value, self.heads, transformer_options=call.options)
            query, key, value = (part.unflatten(2, (self.heads, -1)) for part in (query, key, value))
            return call.sparse.attend(attend_within, query, key, value, call.options["grid_sizes"][1:])

        def attend_within(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return self.attention(query, key, value, 1, transformer_options=call.options)

        flat = (query.flatten(2), key.flatten(2), value.flatten(2))
        if len(call.groups) == 1 and not call.groups[0][1]:
            mixed = attend(*flat)
        else:
            mixed = attend_by_groups(attend, *flat, call.tokens, call.groups)
        for patch in call.options.get("patches", {}).get("attn1_output_patch", ()):
            mixed = patch(mixed, call.options)
        return self.proj(call.apply_patches("attn1_patch", x=mixed, q=query, k=key)), positions


def join_cached(cached: Sequence[Tensor], own: Tensor) -> Tensor:
    """Cached keys or values before a call's own (B, N, heads, D)."""
    return torch.cat([*(expand_to_batch(older.to(own), len(own)) for older in cached), own], 1) if cached else own


def join_behind(own: Tensor, cached: Tensor) -> Tensor:
    return torch.cat([own, expand_to_batch(cached.to(own), len(own))], 1)


def expand_to_batch(cached: Tensor, batch: int) -> Tensor:
    """What is cached of one guidance branch, for all branches of a batch."""
    return cached.expand(batch, -1, -1, -1) if len(cached) in (1, batch) else \
        cached.repeat(batch // len(cached), 1, 1, 1)


class CrossAttention(nn.Module):
    """Video tokens attend to text or to their own frame's audio; `context_width` is the width of the latter."""

    def __init__(self, config: LongCatConfig, context_width: int, operations, attention: Attention, rotate: Rotate,
                 **kind):
        super().__init__()
        self.heads, self.attention, self.rotate = config.heads, attention, rotate
        self.q_linear = operations.Linear(config.hidden, config.hidden, **kind)
        self.kv_linear = operations.Linear(context_width, 2 * config.hidden, **kind)
        self.q_norm = operations.RMSNorm(config.head_dim, eps=EPS, **kind)
        self.k_norm = operations.RMSNorm(config.head_dim, eps=EPS, **kind)
        self.proj = operations.Linear(config.hidden, config.hidden, **kind)

    def forward(self, x: Tensor, context: Tensor, options: dict, query_rope: Tensor | None = None,
                key_rope: Tensor | None = None) -> Tensor:
        return self.proj(self.attend(self.queries(x), context, options, query_rope, key_rope))

    def forward_guided(self, x: Tensor, context: Tensor, negative: Tensor, guidance: AttentionGuidance, options: dict
                       ) -> Tensor:
        """Guided away from `negative` (1, M, C): both texts are attended to by the same queries."""
        query = self.queries(x)
        both = [self.attend(query, text, options) for text in (context, negative.expand(len(x), -1, -1))]
        return self.proj(guidance.guide(*both))

    def queries(self, x: Tensor) -> Tensor:
        return self.q_norm(self.q_linear(x).unflatten(-1, (self.heads, -1)))

    def attend(self, query: Tensor, context: Tensor, options: dict, query_rope: Tensor | None = None,
               key_rope: Tensor | None = None) -> Tensor:
        key, value = rearrange(self.kv_linear(context), "b n (kv heads d) -> kv b n heads d", kv=2, heads=self.heads)
        key = self.k_norm(key)
        if query_rope is not None and key_rope is not None:
            query, key = self.rotate(query, query_rope), self.rotate(key, key_rope)
        return self.attention(query.flatten(2), key.flatten(2), value.flatten(2), self.heads,
                              transformer_options=options)


class GatedFFN(nn.Module):
    def __init__(self, config: LongCatConfig, operations, **kind):
        super().__init__()
        self.w1 = operations.Linear(config.hidden, config.ffn, bias=False, **kind)
        self.w2 = operations.Linear(config.ffn, config.hidden, bias=False, **kind)
        self.w3 = operations.Linear(config.hidden, config.ffn, bias=False, **kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class TimeEmbedder(nn.Module):
    def __init__(self, config: LongCatConfig, operations, **kind):
        super().__init__()
        self.frequencies = config.frequencies
        self.mlp = nn.Sequential(operations.Linear(config.frequencies, config.adaln, **kind), nn.SiLU(),
                                 operations.Linear(config.adaln, config.adaln, **kind))

    def forward(self, timestep: Tensor) -> Tensor:
        """(B, T) in 0..1000 -> (B, T, C), float32 whatever the model's dtype."""
        return self.mlp(time_features(timestep, self.frequencies))


class CaptionEmbedder(nn.Module):
    def __init__(self, config: LongCatConfig, operations, **kind):
        super().__init__()
        self.y_proj = nn.Sequential(operations.Linear(config.caption, config.hidden, **kind),
                                    nn.GELU(approximate="tanh"),
                                    operations.Linear(config.hidden, config.hidden, **kind))

    def forward(self, text: Tensor) -> Tensor:
        return self.y_proj(text)


class PatchEmbedder(nn.Module):
    def __init__(self, config: LongCatConfig, operations, **kind):
        super().__init__()
        self.proj = operations.Conv3d(config.channels[0], config.hidden, config.patch, stride=config.patch, **kind)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, h, w) -> tokens (B, T * h/2 * w/2, D), frame by frame, row by row."""
        tokens = rearrange(self.proj(x), "b d t h w -> b (t h w) d")
        return tokens.contiguous()    # or every block would carry the turned layout on


class AudioProjector(nn.Module):
    """Audio slots per video frame -> `tokens` audio tokens per latent frame."""

    def __init__(self, audio: AudioConfig, operations, **kind):
        super().__init__()
        self.audio = audio
        self.proj1 = operations.Linear(audio.window * audio.width, audio.intermediate, **kind)
        self.proj1_vf = operations.Linear(audio.group * audio.width, audio.intermediate, **kind)
        self.proj2 = operations.Linear(audio.intermediate, audio.intermediate, **kind)
        self.proj3 = operations.Linear(audio.intermediate, audio.tokens * audio.output, **kind)
        self.norm = operations.LayerNorm(audio.output, eps=1e-5, **kind)

    def forward(self, windows: Tensor) -> Tensor:
        """(B, frames, window, width) -> (B, latents, tokens, C), frames being 1 + ratio * (latents - 1)."""
        middle = self.audio.window // 2
        rest = rearrange(windows[:, 1:], "b (latents frames) slots c -> b latents frames slots c",
                         frames=self.audio.ratio)
        grouped = torch.cat([rest[:, :, 0, :middle + 1], rest[:, :, 1:-1, middle], rest[:, :, -1, middle:]], 2)
        first, later = (rearrange(slots, "b latents slots c -> b latents (slots c)")
                        for slots in (windows[:, :1], grouped))
        latents = torch.cat([functional.relu(self.proj1(first)), functional.relu(self.proj1_vf(later))], 1)
        tokens = self.proj3(functional.relu(self.proj2(latents)))
        return self.norm(rearrange(tokens, "b latents (tokens c) -> b latents tokens c", tokens=self.audio.tokens))


def time_features(timestep: Tensor, size: int) -> Tensor:
    """(...) -> (..., size): cosines, then sines, of the unscaled timestep; float32."""
    half = size // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angle = timestep.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


def speaker_frequencies(positions: Tensor, frames: int, head_dim: int) -> Tensor:
    """(B, frames * S) positions -> 1D RoPE frequencies (B * frames, S, 1, D / 2, 2, 2) of each frame's tokens."""
    rope = rotation(rearrange(positions, "b n -> (b n)"), head_dim)
    return rearrange(rope, "(frames s) d i j -> frames s 1 d i j", frames=len(positions) * frames)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without gain of (B, T, S, C), then float32 shift and scale (B, T, 1, C), in the dtype of x."""
    return compute_as(x, torch.addcmul, shift, functional.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


def compute_as(x: Tensor, operation: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """`operation` on float32 values and such of lower dtypes, computed in float32 and written in the shape and dtype of
    x: one kernel on a GPU, where a float32 result in between would be written and read once more. Autograd knows none
    of that, so with gradients there is one."""
    out = None if x.dtype == torch.float32 or torch.is_grad_enabled() else torch.empty_like(x)
    return operation(*values, out=out).to(x.dtype)
