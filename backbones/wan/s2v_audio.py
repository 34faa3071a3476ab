"""S2V's speech inside the model: audio tokens made as in one pass over the whole take, and handed to the blocks.

ComfyUI's causal audio encoder reaches two latents back and repeats its first frame before the start, so a chunk that
restarts it gets a standstill there. It gets that history here, and its tokens join the blocks in their replacements:
the model itself stays as it is, and two calls of one model cannot disturb each other.
"""
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ...techniques.audio.segments import runs
from ..frame_conditions import Cut, window_of
from .call import WanCall

SPEECH, SPEECH_LAYERS = "audio_embed", 25
ENTRIES = Cut(-1, per_latent=4, first=4)
HISTORY_LATENTS = 2     # before a latent's own frames: the encoder's reach is 8 frames


def history_latents(first_latent: int) -> int:
    """How many latents of speech go before a chunk that begins at `first_latent` of the take."""
    return min(first_latent, HISTORY_LATENTS)


def with_audio_tokens(call: WanCall, first_latent: int) -> WanCall:
    """The call with the tokens of its own latents, for a chunk that begins at `first_latent` of the take and whose
    speech begins `history_latents` before."""
    audio = call.extra.get(SPEECH)
    if audio is None:
        return call
    module = call.module
    everyone, each = encode_audio(module.casual_audio_encoder, audio, own_latents(call, history_latents(first_latent)))
    inject = partial(module.audio_injector, audio_emb=each, audio_emb_global=everyone,
                     seq_len=call.x.shape[2] * call.grid[0] * call.grid[1])
    patches = call.transformer_options.get("patches_replace", {})
    blocks = dict(patches.get("dit", {}))
    for index in module.audio_injector.injected_block_id:
        place = "double_block", index
        blocks[place] = with_injection(partial(inject, block_id=index), blocks.get(place))
    extra = {name: value for name, value in call.extra.items() if name != SPEECH}
    options = {**call.transformer_options, "patches_replace": {**patches, "dit": blocks}}
    return call.change(extra=extra, transformer_options=options)


def with_injection(inject, earlier):
    """A block's replacement: the block, or another node's replacement of it, then the speech."""
    def block(values: dict, originals: dict) -> dict:
        made = originals["original_block"](values) if earlier is None else earlier(values, originals)
        return {**made, "img": inject(made["img"])}

    return block


def encode_audio(encoder, audio: Tensor, latents: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The encoder's tokens for some `latents` of `audio` (B, layers, C, rows) as it makes them of all of it: one per
    latent for all its tokens (B, L, 1, D), and several for each (B, L, n, D)."""
    made = []
    for first, end in runs(latents):
        history = history_latents(first)
        made.append([tokens[:, history:] for tokens in encoder(ENTRIES.of(audio, range(first - history, end)))])
    everyone, each = (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1) for parts in zip(*made, strict=True))
    return everyone, each


def own_latents(call: WanCall, history: int) -> list[int]:
    """Which latents of its speech the call shows: all behind the `history`, or those of its context window."""
    audio, window, frames = call.extra[SPEECH], window_of(call.transformer_options), call.x.shape[2]
    latents = tuple(range(frames)) if window is None else window.latents
    if window is not None and audio.shape[1] not in (1, SPEECH_LAYERS):
        raise ValueError(f"audio_features: ComfyUI cut their {SPEECH_LAYERS} layers as if they were time, which "
                         f"happens when a windowed take has exactly {SPEECH_LAYERS} latents. Make it longer or shorter")
    covered = ENTRIES.count_latents(audio.shape[-1]) - history
    if len(latents) != frames or max(latents) >= covered:
        raise ValueError(f"audio_features: the {'chunk' if window is None else 'context window'} has {frames} latents, "
                         f"{min(latents)} to {max(latents)}, the speech features cover {covered}. Encode the whole "
                         "speech")
    return [history + latent for latent in latents]
