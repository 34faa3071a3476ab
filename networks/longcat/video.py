"""The keys and values of a video of the person (TAVR) in LongCat: a closed span of clean frames, of loose tokens."""
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from ...techniques.reference_tokens import Tokens
from ...techniques.rope import rope_frequencies_at, scaled_axes, split_head
from .call import Call
from .layers import modulate

if TYPE_CHECKING:
    from .network import LongCat


def keep_video(network: "LongCat", x: Tensor, tokens: Tokens, keep: Callable[[Tensor, Tensor], object],
               audio: Tensor | None = None, transformer_options: dict | None = None) -> None:
    """One pass over a video's latents `x` (1, C, R, h, w) in model space, at times 0, 1, ...: its tokens see one
    another and nothing else, and those that are not among `tokens` are left out. `keep` is given each block's keys
    before RoPE and values (1, tokens, heads, D).

    `audio` (1, streams, frames, window, layers, C): audio features of its own frames, 1 + 4 * (R - 1), each latent
    frame's for its own tokens, of the first stream. None: no audio attention, as in training.
    """
    options = transformer_options or {}
    chosen = tokens.keep.flatten().nonzero().flatten().to(x.device)     # looked for on the host
    places = tokens.places.double().to(x.device)
    (scale, shift), (_, rows, columns) = scaled_axes(options.get("rope_options")), tokens.keep.shape
    rope = rope_frequencies_at(places, split_head(network.config.head_dim), scale=scale, shift=shift)
    options = {**options, "grid_sizes": (tokens.frames, rows, columns), "total_blocks": len(network.blocks),
               "block_type": "double"}
    call = Call(1, 0, tokens.count, rope, [([0], ())], options=options)
    if audio is not None:
        call = replace(call, audio=sound_tokens(network, audio.to(x)), frame_tokens=tokens.frame_tokens)
    hidden, time = network.x_embedder(x)[:, chosen], network.embed_time(x.new_zeros(1), x[:, :, :1])
    for index, block in enumerate(network.blocks):
        shift, scale = block.adaLN_modulation(time).unsqueeze(2).chunk(6, -1)[:2]
        _, key, value = block.attn.keys_and_values(modulate(hidden[:, None], shift, scale)[:, 0])
        keep(key, value)
        if index + 1 < len(network.blocks):
            hidden = block(hidden, time, replace(call, options={**options, "block_index": index}))


def sound_tokens(network: "LongCat", audio: Tensor) -> Tensor:
    """(1, streams, frames, window, layers, C) -> (1, latents, tokens, C'), of the first stream."""
    windows = rearrange(audio[:, :1], "b streams frames slots layers c -> (b streams) frames slots (layers c)")
    tokens: Tensor = network.audio_proj(windows)
    return tokens


def attend_by_frame(query: Tensor, audio: Tensor, frame_tokens: tuple[int, ...],
                  attend: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Loose tokens (1, N, C) of frames that have `frame_tokens` each, attending to their own frame's audio (frames, n,
    C') -> (1, N, C)."""
    parts = zip(query.split(frame_tokens, 1), audio.split(1), strict=True)
    return torch.cat([attend(part, sound) for part, sound in parts if part.shape[1]], 1)
