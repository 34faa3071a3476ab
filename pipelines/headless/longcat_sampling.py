"""A chunk of LongCat without ComfyUI: Euler on the network itself, techniques, KV cache and guidance as in ComfyUI.

Latents are in model space throughout. For training, for measuring, and where there is no ComfyUI.
"""
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...networks.longcat.network import LongCat
from ...networks.longcat.sequence import in_order, own_layout
from ...networks.longcat.versions import REFERENCE_INDEX
from ...networks.longcat.video import keep_video
from ...techniques.closed_span import closed_spans
from ...techniques.kv_cache import KVCache, Pair, standing
from ...techniques.layout import Span
from ...techniques.reference_tokens import Tokens, all_tokens
from ...techniques.rope import split_head
from ...techniques.speech_guidance import combine_predictions, shares
from ...techniques.technique import ChunkPosition, Technique, lay_out, sort_techniques, visibility_table


@dataclass(frozen=True, eq=False)
class Request:
    """`conditioning` (B, C, k, h, w): the frames at the chunk's head, `reference` (B, C, r, h, w) or None, `audio` (B,
    1, frames, window, layers, channels), `position` of the take for the techniques (its latents in model space,
    too)."""
    conditioning: Tensor | None
    reference: Tensor | None
    audio: Tensor
    techniques: tuple[Technique, ...] = ()
    position: ChunkPosition = ChunkPosition()
    audio_scale: float = 1.0


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, **_) -> Tensor:
    """(B, S, H * D) each, as ComfyUI's own attention is called: what a network without ComfyUI is built with."""
    parts = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)


def sample(network: LongCat, noise: Tensor, sigmas: Tensor, request: Request) -> Tensor:
    """The whole chunk (B, C, n, h, w), its head exact. `noise` has its size."""
    num_cond_frames = 0 if request.conditioning is None else request.conditioning.shape[2]
    pictures, times, visibility, closed = arrange_sequence(request, noise.shape[2], num_cond_frames)
    front = [*pictures, *([] if request.conditioning is None else [request.conditioning])]
    head = (num_cond_frames,) if num_cond_frames else ()
    clean = tuple(1 for picture in pictures for _ in range(picture.shape[2])) + head
    cache = standing(network.make_caches(torch.cat(front, 2), clean), times) if front else ()
    beside = tuple(keys_beside(network, span) for span in closed)
    x, weights = noise[:, :, num_cond_frames:], shares(request.audio_scale, request.audio_scale)
    for now, then in zip(sigmas, sigmas[1:], strict=False):
        timestep = torch.full((len(x),), float(now) * 1000, device=x.device)
        made = [network(x, timestep, times=times[sum(clean):], visibility=visibility, audio=audio, cache=cache,
                        beside=beside)
                if weight else None for audio, weight in zip((request.audio, None, torch.zeros_like(request.audio)),
                                                             weights, strict=True)]
        x = x - (then - now) * combine_predictions(made, weights).float()
    return x if request.conditioning is None else torch.cat([request.conditioning, x], 2)


def arrange_sequence(request: Request, frames: int, num_cond_frames: int
                     ) -> tuple[list[Tensor], tuple[float, ...], dict, tuple[Span, ...]]:
    """The pictures in front, times and visibility of the whole sequence, and the closed spans beside it."""
    count = 0 if request.reference is None else request.reference.shape[2]
    own = own_layout(frames, num_cond_frames, count, REFERENCE_INDEX)
    techniques = sort_techniques(request.techniques)
    layout, table = lay_out(own, techniques, request.position)
    closed = tuple(span for span in layout.spans if span.name in closed_spans(techniques))
    for span in closed:
        layout = layout.without(span)
    spans, times, visibility = in_order(layout, visibility_table(layout, techniques) if closed else table)
    return [request.reference if span.latents is None else span.latents for span in spans], times, visibility, closed


def keys_beside(network: LongCat, span: Span) -> tuple[KVCache, Tensor]:
    """What every frame of the chunk sees of a closed span, whose latents (B, C, R, h, w) are each row's own, and
    `tokens` those of all."""
    assert span.latents is not None
    _, rows, columns = network.config.patch
    grid = span.latents.shape[3] // rows, span.latents.shape[4] // columns
    tokens, kept = span.tokens or Tokens(all_tokens(len(span.times), grid)), []
    for row, latents in enumerate(span.latents.split(1)):
        blocks: list[Pair] = []
        audio = None if span.audio is None else span.audio[row:row + 1]
        keep_video(network, latents, tokens, lambda *pair, blocks=blocks: blocks.append(pair), audio)
        kept.append(blocks)
    joined = tuple((torch.cat(keys), torch.cat(values)) for keys, values in (zip(*block, strict=True)
                                                                             for block in zip(*kept, strict=True)))
    cache = KVCache(joined, tokens.places.float().to(span.latents.device), tuple(map(float, range(len(span.times)))),
                    tokens.frame_tokens)
    return cache, cache.frequencies(span.times[0], split_head(network.config.head_dim))
