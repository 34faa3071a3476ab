"""LongCat-Video and LongCat-Video-Avatar 1.0 and 1.5 as one torch network with the official key names.

It knows no ComfyUI: layers and attention are handed in (see layers.py), so it trains and runs headless as well. Which
frame sees which is a table, split into groups of queries, never a mask; timesteps, modulation, norms, residuals and the
last layer are float32 whatever the model's dtype.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain

import torch
from einops import rearrange
from torch import Tensor, nn

from ...techniques.attention_guidance import AttentionGuidance
from ...techniques.kv_cache import KVCache
from ...techniques.rope import Axes, rope_frequencies, rotate, scaled_axes, split_head
from ...techniques.sparse_blocks import SparseBlocks
from ...techniques.speaker_masks import centers, token_masks
from ...techniques.timeline import frames_of
from ...techniques.visibility import closed_spans, query_groups
from .call import Cached, Call, Groups, Speakers
from .config import LongCatConfig
from .layers import (
    EPS,
    Attention,
    AudioProjector,
    CaptionEmbedder,
    CrossAttention,
    GatedFFN,
    PatchEmbedder,
    Rotate,
    SelfAttention,
    TimeEmbedder,
    compute_as,
    modulate,
    speaker_frequencies,
)
from .video import attend_by_frame

Standing = Sequence[tuple[KVCache, float]]
"""KV caches of closed spans, and the RoPE time of the first frame of each."""
Place = tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...], tuple, tuple[int, int], tuple[Axes, Axes]]
"""Clean spans, times of the frames in hand, of the caches, visibility, tokens by height and width, scale and shift."""


class Block(nn.Module):
    def __init__(self, config: LongCatConfig, operations, attention: Attention, rotate: Rotate, **kind):
        super().__init__()
        width, audio, self.head_dim = config.hidden, config.audio, config.head_dim
        self.adaLN_modulation = modulation(config, 6, operations, **kind)
        self.attn = SelfAttention(config, operations, attention, rotate, **kind)
        self.pre_crs_attn_norm = operations.LayerNorm(width, eps=EPS, **kind)
        self.cross_attn = CrossAttention(config, width, operations, attention, rotate, **kind)
        self.ffn = GatedFFN(config, operations, **kind)
        if audio is not None:
            self.audio_adaLN_modulation = modulation(config, 3, operations, **kind)
            self.pre_video_crs_attn_norm = operations.LayerNorm(width, eps=EPS, **kind)
            if audio.prenorm:
                self.pre_audio_crs_attn_norm = operations.LayerNorm(audio.output, eps=EPS, **kind)
            self.audio_cross_attn = CrossAttention(config, audio.output, operations, attention, rotate, **kind)

    def forward(self, x: Tensor, time: Tensor, call: Call, cached: Cached = ()) -> Tensor:
        """Tokens (B, T * S, C) and time embeddings (B, T, C') float32 -> tokens. `cached`: of this block alone."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = self.adaLN_modulation(time).unsqueeze(2).chunk(6, -1)
        mixed, positions = self.attn(modulate_frames(x, call.frames, shift, scale), call, cached)
        x = add_gated(x, gate, mixed)
        if call.text is not None:
            x = add_to_noise(x, self.text_cross_attention(x[:, call.clean_tokens:], call), call)
            x = call.apply_patches("attn2_patch", x=x)
        if call.audio is not None:
            noisy, noisy_time = x[:, call.clean_tokens:], time[:, call.clean:]
            x = add_to_noise(x, self.audio_cross_attention(noisy, noisy_time, call, positions), call)
        return add_gated(x, ffn_gate, self.ffn(modulate_frames(x, call.frames, ffn_shift, ffn_scale)))

    def text_cross_attention(self, x: Tensor, call: Call) -> Tensor:
        """What the text adds to the noisy tokens: nothing where none is left without its padding."""
        query = self.pre_crs_attn_norm(x)
        assert call.text is not None
        if call.guided is None and not isinstance(call.text, list):
            return self.attend_to_text(query, call.text, call)
        texts = call.text if isinstance(call.text, list) else call.text.split(1)
        return torch.cat([self.attend_to_text(row[None], text, call, call.guided is None or call.guided[number])
                          if text.shape[1] else torch.zeros_like(row)[None]
                          for number, (row, text) in enumerate(zip(query, texts, strict=True))])

    def attend_to_text(self, query: Tensor, text: Tensor, call: Call, guided: bool = True) -> Tensor:
        if not guided or call.negative is None or call.guidance is None:
            return self.cross_attn(query, text, call.options)
        return self.cross_attn.forward_guided(query, text, call.negative, call.guidance, call.options)

    def audio_cross_attention(self, x: Tensor, time: Tensor, call: Call, positions: Tensor | None) -> Tensor:
        """What each frame's own audio adds to its noisy tokens; the norm acts on the attention's output."""
        assert call.audio is not None
        frames, audio = time.shape[1], call.audio.flatten(0, 1)
        if hasattr(self, "pre_audio_crs_attn_norm"):
            audio = self.pre_audio_crs_attn_norm(audio)
        if call.frame_tokens is not None:
            update = attend_by_frame(self.pre_video_crs_attn_norm(x), audio, call.frame_tokens,
                                     lambda part, sound: self.audio_cross_attn(part, sound, call.options))
            return self.modulate_audio(update[:, None], time)
        query = rearrange(self.pre_video_crs_attn_norm(x), "b (t s) c -> (b t) s c", t=frames)
        rope: tuple[Tensor, ...] = ()
        if call.speakers is not None and positions is not None:
            rope = speaker_frequencies(positions, frames, self.head_dim), call.speakers.key_rope
        return self.modulate_audio(self.audio_cross_attn(query, audio, call.options, *rope).unflatten(0, (-1, frames)),
                                   time)

    def modulate_audio(self, update: Tensor, time: Tensor) -> Tensor:
        shift, scale, gate = self.audio_adaLN_modulation(time).unsqueeze(2).chunk(3, -1)
        return compute_as(update, torch.mul, gate, modulate(update, shift, scale)).flatten(1, 2)


class FinalLayer(nn.Module):
    def __init__(self, config: LongCatConfig, operations, **kind):
        super().__init__()
        outputs = config.channels[1] * math.prod(config.patch)
        self.adaLN_modulation = modulation(config, 2, operations, **kind)
        self.linear = operations.Linear(config.hidden, outputs, **kind)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, T * S, C) -> (B, T, S, patch height * patch width * channels), float32."""
        shift, scale = self.adaLN_modulation(time).unsqueeze(2).chunk(2, -1)
        return self.linear(modulate(x.float().unflatten(1, (time.shape[1], -1)), shift, scale))


class LongCat(nn.Module):
    """`operations`, `attention`, `rotate`: see layers.py. `dtype`, `device` of the weights."""

    def __init__(self, config: LongCatConfig, operations, attention: Attention, dtype: torch.dtype | None = None,
                 device: torch.device | str | None = None, rotate: Rotate = rotate):
        super().__init__()
        kind = {"dtype": dtype, "device": device}
        self.config = config
        self.x_embedder = PatchEmbedder(config, operations, **kind)
        self.t_embedder = TimeEmbedder(config, operations, **kind)
        self.y_embedder = CaptionEmbedder(config, operations, **kind)
        self.blocks = nn.ModuleList(Block(config, operations, attention, rotate, **kind) for _ in range(config.depth))
        self.final_layer = FinalLayer(config, operations, **kind)
        if config.audio is not None:
            self.audio_proj = AudioProjector(config.audio, operations, **kind)

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor | None = None, text_mask: Tensor | None = None, *,
                clean: Sequence[int] = (), times: Sequence[float] | None = None,
                visibility: Mapping[tuple[int, int], float] | None = None, audio: Tensor | None = None,
                speaker_masks: Tensor | None = None, cache: Standing = (), sparse: SparseBlocks | None = None,
                negative: Tensor | None = None, guidance: AttentionGuidance | None = None,
                guided: Sequence[bool] | None = None, beside: Cached = (),
                transformer_options: dict | None = None) -> Tensor:
        """The raw prediction x0 - noise (B, C, T, h, w), float32, for latents (B, C, T, h, w) in model space.

        `timestep` (B,) or (B, T) in 0..1000, 0 where clean. `text` (B, L, C), `text_mask` (B, L), 1 is a token.
        `clean`: lengths of the clean spans that open `x`; each sees itself alone. `cache`: KV caches of others, which
        come before `x`, each with its time. `times`: RoPE time of every frame of `x`; 0, 1, ... where None.
        `visibility`: {(frame, frame it sees): weight} over the whole sequence, cached frames first. `audio` (B,
        streams, frames, window, layers, channels), frames being 1 + 4 * (latents - 1), whose end is the chunk's end.
        `speaker_masks`: in pixels, (B, K, H, W), of the first frame, needed when several speak. `sparse`: which keys
        the self-attention leaves out. `negative` (1, L, C): the text that `guidance` guides away from, zeros being
        padding; `guided`: which rows of the batch, None for all. `beside`: KV caches that every frame in hand sees,
        none of which may then be clean. ValueError for sizes that do not fit.
        """
        call = self.make_call(x, clean, times, visibility, cache, transformer_options, sparse)
        call = replace(call, beside=beside) if beside else call
        if text is not None:
            call = self.add_text(call, text.to(x.dtype), text_mask)
            if negative is not None:
                call = self.add_negative(call, negative.to(x.dtype), guidance, guided)
        if audio is not None:
            call = self.add_audio(call, audio.to(x.dtype), speaker_masks, x.shape)
        time = self.embed_time(timestep, x)
        tokens = self.run_blocks(self.x_embedder(x), time, call, x)
        return self.unpatchify(self.final_layer(tokens, time), *x.shape[-2:])

    def make_caches(self, x: Tensor, clean: Sequence[int], times: Sequence[float] | None = None,
                    transformer_options: dict | None = None, keep: Callable[..., object] | None = None,
                    sparse: SparseBlocks | None = None) -> tuple[KVCache, ...]:
        """A KV cache of each clean span of `x` (B, C, sum(clean), h, w), from one pass without text and audio: they see
        nothing else, so every step and guidance branch can share it.

        With `keep` they hold no blocks: it is given each block's tensors, the spans' keys and values in turn.
        """
        call = self.make_call(x, clean, times, None, (), transformer_options, sparse)
        if call.clean != call.frames:
            raise ValueError(f"clean: got {call.frames} latent frames for clean spans of {tuple(clean)}, wanted "
                             f"{call.clean}: only clean frames go into the cache")
        time, tokens, kept = self.embed_time(x.new_zeros(len(x)), x), self.x_embedder(x), []
        keep, lengths = keep or (lambda *tensors: kept.append(tensors)), [length * call.tokens for length in clean]
        for index, block in enumerate(self.blocks):
            shift, scale = block.adaLN_modulation(time).unsqueeze(2).chunk(6, -1)[:2]
            _, key, value = block.attn.keys_and_values(modulate_frames(tokens, call.frames, shift, scale))
            keep(*chain.from_iterable(zip(key.split(lengths, 1), value.split(lengths, 1), strict=True)))
            if index + 1 < len(self.blocks):
                tokens = block(tokens, time, call)
        times, grid = range(call.frames) if times is None else times, call.options["grid_sizes"][1:]
        return tuple(KVCache.of_frames(tuple(tensors[2 * span:2 * span + 2] for tensors in kept),
                                       times[first:first + length], grid, x.device)
                     for span, (first, length) in enumerate(zip(accumulate(clean, initial=0), clean, strict=False)))

    @torch.compiler.disable     # Python values of this call, which a graph would not read again
    def make_call(self, x: Tensor, clean: Sequence[int], times: Sequence[float] | None,
                  visibility: Mapping[tuple[int, int], float] | None, cache: Standing, options: dict | None,
                  sparse: SparseBlocks | None = None) -> Call:
        if x.shape[-2] % self.config.patch[1] or x.shape[-1] % self.config.patch[2]:
            raise ValueError(f"size: got latents of {x.shape[-1]}x{x.shape[-2]}, wanted even numbers (pixels in "
                             f"multiples of 16)")
        times = range(x.shape[2]) if times is None else times
        if len(times) != x.shape[2]:
            raise ValueError(f"times: got {len(times)}, wanted one for each of the {x.shape[2]} latent frames")
        grid = (x.shape[-2] // self.config.patch[1], x.shape[-1] // self.config.patch[2])
        if any(len(held.blocks) != len(self.blocks) for held, _ in cache):
            raise ValueError(f"cache: got keys and values of {[len(held.blocks) for held, _ in cache]} blocks, this "
                             f"model has {len(self.blocks)}. Make them with this model")
        others = {count for held, _ in cache for count in held.frame_tokens} - {grid[0] * grid[1]}
        if others and (clean or visibility):
            raise ValueError(f"cache: got frames of {sorted(others)} tokens, wanted whole ones of {grid[0] * grid[1]} "
                             "where not every frame sees all the others")
        if sparse is not None:
            check_sparse(sparse, [held.frames for held, _ in cache], clean, x.shape[2], visibility, grid)
        options = {**(options or {}), "grid_sizes": (x.shape[2], *grid), "total_blocks": len(self.blocks),
                   "block_type": "double"}
        caches = tuple(held for held, _ in cache)
        place = (tuple(clean), tuple(times), tuple(time for _, time in cache),
                 tuple(sorted((visibility or {}).items())), grid, scaled_axes(options.get("rope_options")))
        rope, groups, cached_rope = self.lay_out(place, caches, x.device, options)
        cached = tuple(zip(caches, cached_rope, strict=True))
        return Call(x.shape[2], sum(clean), grid[0] * grid[1], rope, groups, cached, sparse=sparse, options=options)

    def lay_out(self, place: Place, caches: tuple[KVCache, ...], device: torch.device, options: dict
               ) -> tuple[Tensor, Groups, tuple[Tensor, ...]]:
        """RoPE frequencies of the frames in hand, these frames by what they see, the caches' frequencies: the same for
        the same `place` and caches."""
        clean, times, cached_times, visibility, grid, (scale, shift) = place
        ahead = sum(cache.frames for cache in caches)
        table = closed_spans((*(cache.frames for cache in caches), *clean), ahead + len(times))
        for pair, weight in visibility:
            table[pair] = table.get(pair, 1.0) * weight
        groups = query_groups({(query - ahead, key): weight for (query, key), weight in table.items()}, len(times))
        axes = split_head(self.config.head_dim)
        cached_rope = tuple(cache.frequencies(time, axes, scale=scale, shift=shift)
                            for cache, time in zip(caches, cached_times, strict=True))
        return rope_frequencies(times, *grid, axes, scale=scale, shift=shift, device=device), groups, cached_rope

    def embed_time(self, timestep: Tensor, x: Tensor) -> Tensor:
        """Per frame (B, T, C) float32; below float32 the timestep is rounded to bfloat16, as the model was trained."""
        if x.dtype != torch.float32:
            timestep = timestep.bfloat16()
        timestep = timestep[:, None] if timestep.ndim == 1 else timestep
        return self.t_embedder(timestep.float().expand(-1, x.shape[2]))

    def add_text(self, call: Call, text: Tensor, mask: Tensor | None) -> Call:
        text = self.y_embedder(text)
        if mask is None:
            return replace(call, text=text)
        if self.config.keep_padding:   # after the projection: a padded token still offers the biases of k and v
            return replace(call, text=text * (mask != 0)[..., None].to(text))
        return replace(call, text=[row[kept != 0][None] for row, kept in zip(text, mask, strict=True)])

    def add_negative(self, call: Call, negative: Tensor, guidance: AttentionGuidance | None,
                     guided: Sequence[bool] | None) -> Call:
        text = self.add_text(call, negative, (negative != 0).any(-1)).text
        return replace(call, negative=text[0] if isinstance(text, list) else text, guidance=guidance,
                       guided=None if guided is None or all(guided) else tuple(guided))

    def add_audio(self, call: Call, audio: Tensor, masks: Tensor | None, shape: Sequence[int]) -> Call:
        config = self.config.audio
        if config is None:
            raise ValueError("audio: this is the base LongCat-Video, which has no audio conditioning; load an "
                             "avatar model")
        streams, frames, window = audio.shape[1:4]
        if window * audio[0, 0, 0, 0].numel() != config.window * config.width:
            raise ValueError(f"audio: got features of {window} x {audio[0, 0, 0, 0].numel()}, wanted {config.window} x "
                             f"{config.width}: they were made for another LongCat version. Encode the speech with this "
                             "model's encoder (wav2vec2 for Avatar 1.0, whisper-large-v3 for 1.5)")
        noisy = call.frames - call.clean
        if (frames - 1) % config.ratio or frames < frames_of(noisy, config.ratio):
            raise ValueError(f"audio: got {frames} frames of speech for {noisy} latent frames, wanted "
                             f"{frames_of(noisy, config.ratio)} or, with clean frames, {config.ratio} more for each")
        windows = rearrange(audio, "b streams frames slots layers c -> (b streams) frames slots (layers c)")
        tokens = rearrange(self.audio_proj(windows)[:, -noisy:], "(b streams) t tokens c -> b t (streams tokens) c",
                           streams=streams)
        call = replace(call, audio=tokens)
        if streams == 1:
            return call
        if masks is None:
            raise ValueError(f"audio: got {streams} audio streams and no masks of their speakers")
        grid = (shape[-2] // self.config.patch[1], shape[-1] // self.config.patch[2])
        where = centers(masks.shape[1], streams, config.class_range, config.class_interval)
        masks = token_masks(masks, *grid).to(tokens.device)
        return replace(call, speakers=Speakers.of(masks, where, config.tokens, self.config.head_dim,
                                                  config.class_range, config.class_interval))

    def run_blocks(self, x: Tensor, time: Tensor, call: Call, latents: Tensor) -> Tensor:
        """All blocks, with the hooks that other packs expect of a ComfyUI model."""
        replaced = call.options.get("patches_replace", {}).get("dit", {})
        for index, block in enumerate(self.blocks):
            beside = tuple((cache.only(index), frequencies) for cache, frequencies in call.beside)
            here = replace(call, options={**call.options, "block_index": index}, beside=beside)
            cached = tuple((cache.only(index), frequencies) for cache, frequencies in call.cached)

            def run(values: dict, block=block, here=here, cached=cached) -> dict:
                return {"img": block(values["img"], values["vec"], here, cached)}

            values = {"img": x, "txt": call.text, "vec": time, "pe": call.rope, "transformer_options": here.options}
            replacement = replaced.get(("double_block", index))
            x = (run(values) if replacement is None else replacement(values, {"original_block": run}))["img"]
            for patch in call.options.get("patches", {}).get("double_block", ()):
                x = patch({"img": x, "x": latents, "vec": time, "block_index": index, "img_offset": 0,
                           "transformer_options": here.options})["img"]
        return x

    def unpatchify(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, S, patch * channels), channels fastest -> (B, C, T, height, width)."""
        _, tall, wide = self.config.patch
        return rearrange(x, "b t (h w) (tall wide c) -> b c t (h tall) (w wide)", h=height // tall, w=width // wide,
                         tall=tall, wide=wide)


def check_sparse(sparse: SparseBlocks, cached: Sequence[int], clean: Sequence[int], frames: int,
                 visibility: Mapping[tuple[int, int], float] | None, grid: tuple[int, int]) -> None:
    """Raises ValueError where a sequence does not fall into blocks, or something else decides what is seen."""
    if visibility:
        raise ValueError("block sparse attention: it chooses by itself what each frame sees, and cannot with Reference "
                         "Skip. Remove one of them")
    sparse.check_grid((*cached, *clean, frames - sum(clean)), *grid)


def modulation(config: LongCatConfig, parts: int, operations, **kind) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), operations.Linear(config.adaln, parts * config.hidden, **kind))


def modulate_frames(x: Tensor, frames: int, shift: Tensor, scale: Tensor) -> Tensor:
    """(B, T * S, C) normed and modulated by each frame's shift and scale (B, T, 1, C)."""
    return modulate(x.unflatten(1, (frames, -1)), shift, scale).flatten(1, 2)


def add_gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate * update; gate (B, T, 1, C) float32, the others (B, T * S, C)."""
    x, update = (part.unflatten(1, (gate.shape[1], -1)) for part in (x, update))
    return compute_as(x, torch.addcmul, x, gate, update).flatten(1, 2)


def add_to_noise(x: Tensor, update: Tensor, call: Call) -> Tensor:
    """`update` (B, noisy tokens, C) added to the noisy tokens; the clean ones stay as they are."""
    noisy = x[:, call.clean_tokens:] + update
    return noisy if not call.clean else torch.cat([x[:, :call.clean_tokens], noisy], 1)
